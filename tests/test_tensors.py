"""The header of a safetensors file: whatever the bytes, a file is sound or a CheckpointError."""

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dspec.errors import CheckpointError
from dspec.io.checkpoints import check_tensors, read_config, read_header, tensor_shapes, write_tensors
from dspec.io.strict_json import parse_object

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny" / "drafter"


def frame(header, data=b""):
    """The bytes of a safetensors file with that header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start, end, shape=None, dtype="F32"):
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"\x02\0\0", "3 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "header of 9223372036854775808 bytes in a file of 10"),
        (struct.pack("<Q", 3) + b"{}", "header of 3 bytes in a file of 10"),
        (frame(b"[]"), "a JSON list"),
        (frame(b"{}", b"junk"), "4 bytes of data; needs 0.*trail"),
        (frame({"a": entry(0, 8)}, b"\0" * 4), "4 bytes of data; needs 8.*cut"),
        (frame({"a": entry(0, 4)}, b"\0" * 8), "8 bytes of data; needs 4.*trail"),
        (frame({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12), "b: got an overlap: bytes from 4"),
        (frame({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12), "b: got a gap: bytes from 8"),
        (frame({"a": entry(4, 8)}, b"\0" * 8), "a: got a gap"),
        (frame({"a": entry(0, 4, dtype="F33")}, b"\0" * 4), "a: got dtype 'F33'"),
        (frame({"a": entry(0, 4, dtype=[1])}, b"\0" * 4), "a: got dtype"),
        (frame({"a": entry(0, 4, shape=[2])}, b"\0" * 4), r"a: got 4 bytes; needs 8 for F32 \(2,\)"),
        (frame({"a": entry(0, 4, shape=[-1])}, b"\0" * 4), "a: got shape"),
        (frame({"a": entry(0, 4, shape=[2**62, 2**62, 2**62])}, b"\0" * 4), "a: got 4 bytes"),
        (frame({"a": entry(0, 4, shape=[True])}, b"\0" * 4), "a: got shape"),
        (frame({"a": entry(8, 4, shape=[0])}, b"\0" * 8), "a: got -4 bytes"),
        (frame({"a": 1}), "a: got 1"),
        (frame({"a": entry(0, 4) | {"more": 1}}, b"\0" * 4), "a: got"),
        (frame({"__metadata__": {"a": 1}}), "__metadata__"),
        (
            frame(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 4)).encode(),) * 2), b"\0" * 4),
            "'a' stands twice",
        ),
        (frame(b'{"a":NaN}'), "NaN is not JSON"),
        (frame(b'{"a":' + b"9" * 5000 + b"}"), "malformed JSON"),
        (frame(b'{"a":' + b"[" * 100_000), "malformed JSON"),
        (frame(b'{"\xff":1}'), "malformed JSON"),
    ],
)
def test_a_malformed_file_is_refused_with_what_was_found(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model.safetensors.*{message}"):
        read_header(path)


WHOLE = (GOLDEN / "model.safetensors").read_bytes()
HEADER_END = 8 + struct.unpack("<Q", WHOLE[:8])[0]
CONFIG = read_config(GOLDEN)


@pytest.mark.clause("BD-7")
@given(cut=st.one_of(st.integers(0, HEADER_END + 64), st.integers(0, len(WHOLE) - 1)))
@settings(max_examples=150, deadline=None)
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(WHOLE[:cut])
    with pytest.raises(CheckpointError):
        check_tensors(path, CONFIG)


@pytest.mark.clause("BD-7")
@given(flips=st.lists(st.tuples(st.integers(0, HEADER_END - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_flipped_header_bytes_never_raise_anything_else_nor_change_a_tensor(tmp_path_factory, flips):
    content = bytearray(WHOLE)
    for place, value in flips:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "flip.safetensors"
    path.write_bytes(content)
    try:
        entries = check_tensors(path, CONFIG)
    except CheckpointError:
        return
    # What passes declares the same names and shapes; a permutation of equal shapes cannot be told apart.
    assert {k: v.shape for k, v in entries.items()} == tensor_shapes(CONFIG)


@given(text=st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u01 ea', max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_object_or_refused(text):
    with contextlib.suppress(CheckpointError):
        assert isinstance(parse_object(text, where="x"), dict)


@given(
    shapes=st.dictionaries(
        st.text(max_size=9), st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4
    ),
    dtype=st.sampled_from([("F32", np.float32), ("F16", np.float16)]),
)
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_what_safetensors_writes(tmp_path_factory, shapes, dtype):
    label, kind = dtype
    shapes.pop("__metadata__", None)
    tensors = {name: np.random.default_rng(0).random(shape).astype(kind) for name, shape in shapes.items()}
    folder = tmp_path_factory.getbasetemp()
    write_tensors(folder / "ours.safetensors", tensors, dtype=label)
    save_file(tensors, folder / "theirs.safetensors", metadata={"format": "pt"})
    ours, theirs = ((folder / f"{name}.safetensors").read_bytes() for name in ("ours", "theirs"))
    assert ours == theirs
