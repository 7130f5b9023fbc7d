"""The header of a safetensors file, checked before any tensor is read.

`mx.load` accepts trailing bytes, overlaps and duplicate names; so neither backend sees a file that
has not passed here. No tensor data is read. MLX's weights are written here as well.
"""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dspec.config import DrafterConfig
from dspec.errors import CheckpointError, explain
from dspec.io.strict_json import parse_object

# Ten thousand tensors; bounds the memory that a hostile header can claim.
MAX_HEADER = 2 << 20
ITEM_SIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
WEIGHT_DTYPES = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: dtype, shape, and its bytes [start, end) after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def tensor_shapes(config: DrafterConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a DFlash v1 drafter.

    Spec: BD-7.
    """
    width, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (queries, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, queries),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (width, config.feature_size),
        "hidden_norm.weight": (width,),
        "norm.weight": (width,),
    }
    for i in range(config.num_hidden_layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def read_header(path: str | Path) -> dict[str, Entry]:
    """Return the tensors a safetensors file declares, after checking that its bytes are exactly those.

    Args:
        path: the file.

    Returns:
        Entry by tensor name, in the order of the file's bytes.

    Raises:
        CheckpointError: unreadable, truncated, trailing bytes, gaps, overlaps, a name twice, an unknown
            dtype, or a size that does not follow from dtype and shape.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                found = f"a header of {length} bytes in a file of {size}" if length >= 0 else f"{size} bytes"
                needed = f"a header of 2 to {MAX_HEADER} bytes that lies within the file"
                raise CheckpointError(
                    explain(where, found, needed, remedy="The file is cut or not safetensors.")
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(explain(where, error.strerror or str(error), "a readable file")) from error
    raw = parse_object(text, where=f"{where}: header")
    _check_metadata(raw.pop("__metadata__", {}), where)
    entries = {name: _entry(value, f"{where}: {name[:200]}") for name, value in raw.items()}
    _check_cover(entries, size - 8 - length, where)
    return dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))


def check_tensors(path: str | Path, config: DrafterConfig) -> dict[str, Entry]:
    """Check that a file holds exactly the tensors of a drafter, with their shapes, in a float dtype.

    Spec: BD-7.

    Args:
        path: the safetensors file.
        config: of the drafter.

    Returns:
        Entry by tensor name. Finite values are the backend's check, after loading.

    Raises:
        CheckpointError: the message names file, tensor, found, needed.
    """
    entries, shapes = read_header(path), tensor_shapes(config)
    where = str(path)
    for label, names in (("no", shapes.keys() - entries.keys()), ("extra", entries.keys() - shapes.keys())):
        if names:
            some = ", ".join(name[:200] for name in sorted(names)[:5])
            found = f"{label} {some}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            layers = config.num_hidden_layers
            needed = f"exactly the {len(shapes)} tensors of a DFlash v1 drafter of {layers} layers"
            raise CheckpointError(explain(where, found, needed, clause="BD-7"))
    for name, shape in shapes.items():
        entry = entries[name]
        if entry.shape != shape:
            raise CheckpointError(
                explain(f"{where}: {name}", f"shape {entry.shape}", f"{shape}", clause="BD-7")
            )
        if entry.dtype not in WEIGHT_DTYPES:
            needed = "one of " + ", ".join(WEIGHT_DTYPES)
            raise CheckpointError(explain(f"{where}: {name}", f"dtype {entry.dtype}", needed, clause="BD-7"))
    return entries


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], *, dtype: str) -> None:
    """Write tensors of one dtype to a safetensors file.

    The bytes are those that safetensors' `save_file` for torch writes of the same weights. That one
    needs torch, and the one for numpy knows no bfloat16.

    Spec: BD-7.

    Args:
        path: the file.
        tensors: by name; bfloat16 as the 16-bit integers of its bits.
        dtype: of all of them, one of `WEIGHT_DTYPES`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    names, end = sorted(tensors), 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": dtype, "shape": tensors[name].shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that every item lies on a multiple of its size
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name]).data)


def _check_metadata(metadata: Any, where: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(explain(f"{where}: __metadata__", repr(metadata)[:200], "texts by name"))


def _entry(value: Any, where: str) -> Entry:
    """Parse one tensor's declaration; `where` names file and tensor."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(explain(where, repr(value)[:200], "dtype, shape and data_offsets, no more"))
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise CheckpointError(explain(where, f"dtype {repr(dtype)[:200]}", "one of " + ", ".join(ITEM_SIZE)))
    if not _naturals(shape) or len(shape) > 8:
        raise CheckpointError(explain(where, f"shape {repr(shape)[:200]}", "at most 8 integers in [0, 2^63)"))
    if not _naturals(offsets) or len(offsets) != 2:
        raise CheckpointError(
            explain(where, f"data_offsets {repr(offsets)[:200]}", "two integers in [0, 2^63)")
        )
    size = ITEM_SIZE[dtype]
    for n in shape:
        size *= n
    if offsets[1] - offsets[0] != size:
        found = f"{offsets[1] - offsets[0]} bytes"
        raise CheckpointError(explain(where, found, f"{size} for {dtype} {tuple(shape)}"))
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_cover(entries: Mapping[str, Entry], size: int, where: str) -> None:
    """The tensors' bytes lie end to end and fill the rest of the file."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            kind = "an overlap" if entry.start < position else "a gap"
            found = f"{kind}: bytes from {entry.start}"
            raise CheckpointError(explain(f"{where}: {name[:200]}", found, f"bytes from {position}"))
        position = entry.end
    if position != size:
        remedy = "The file is cut or not whole." if position > size else "Bytes trail after the last tensor."
        found = f"{size} bytes of data"
        raise CheckpointError(explain(where, found, f"{position}, as the header says", remedy=remedy))
