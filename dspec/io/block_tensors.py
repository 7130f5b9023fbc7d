"""The published tensors of a block-diffusion model, and which of them dspec's own weights are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dspec.block_config import BlockModelConfig
from dspec.errors import CheckpointError, explain
from dspec.io.shards import Stored, check_shards
from dspec.io.tensors import WEIGHT_DTYPES

Shapes = dict[str, tuple[int, ...]]
HEAD = "lm_head.weight"
# Weights that are used in float32 whatever the model's dtype: which experts are chosen hangs on them.
WIDE = ("mlp.gate.weight", "mlp.gate.expert_bias")
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Source:
    """What one weight of dspec's layers is made of.

    Args:
        names: a published tensor; or one an expert, to be stacked along a new first axis.
        rows: first and last-plus-one row of the tensor that are taken; None: all.
        shape: of the weight.
        stacked: whether the first axis counts experts.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    stacked: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...] | None:
        """Of each published tensor; None where only a part of one is known from here."""
        if self.rows is not None:
            return None
        return self.shape[1:] if self.stacked else self.shape


def sources(config: BlockModelConfig) -> dict[str, Source]:
    """Return every weight of dspec's layers by its own name, with what it is made of.

    Spec: SS-23.

    Args:
        config: of the model.

    Returns:
        Sources by the name of the weight in the rooms' `BlockDiffusionModel`.
    """
    vocab, width = config.vocab_size, config.hidden_size
    llada2 = config.family == "llada2"
    embedding = "model.word_embeddings.weight" if llada2 else "model.embed_tokens.weight"
    found = {"embed_tokens.weight": Source((embedding,), (vocab, width))}
    for i in range(config.num_hidden_layers):
        found |= _fused_attention(config, i) if llada2 else _attention(config, i)
        found |= _plain(f"layers.{i}.", {"input_layernorm.weight": (width,)})
        found |= _plain(f"layers.{i}.", {"post_attention_layernorm.weight": (width,)})
        found |= _experts(config, i) if config.is_sparse(i) else _mlp(config, i)
    found["norm.weight"] = Source(("model.norm.weight",), (width,))
    if not config.tie_word_embeddings:
        found[HEAD] = Source((HEAD,), (vocab, width))
    return found


def block_tensor_shapes(config: BlockModelConfig) -> Shapes:
    """Return name and shape of every published tensor of a model.

    Spec: SS-23.
    """
    shapes: Shapes = {}
    for source in sources(config).values():
        if source.rows is None:
            shapes |= dict.fromkeys(source.names, source.stored_shape or ())
        else:
            rows = max(source.rows[1], shapes.get(source.names[0], (0,))[0])
            shapes[source.names[0]] = (rows, *source.shape[1:])
    return shapes


def check_block_tensors(folder: Path, config: BlockModelConfig) -> dict[str, Stored]:
    """Check that a folder's files hold exactly the tensors of a model, with their shapes, in a float dtype.

    A head that is stored although it is the embedding is let pass; `check_tied` compares the two.

    Spec: SS-23.

    Args:
        folder: of the model.
        config: of the model.

    Returns:
        File and entry by tensor name. Finite values are the backend's check, after loading.

    Raises:
        CheckpointError: the message names file, tensor, found, needed.
    """
    stored, shapes = check_shards(folder, what="model"), block_tensor_shapes(config)
    extra = stored.keys() - shapes.keys() - ({HEAD} if config.tie_word_embeddings else set())
    for label, names in (("no", shapes.keys() - stored.keys()), ("extra", extra)):
        if names:
            _refuse_names(label, sorted(names), folder, stored, config, len(shapes))
    if HEAD in stored:
        shapes = {**shapes, HEAD: (config.vocab_size, config.hidden_size)}
    for name, shape in shapes.items():
        where, entry = f"{stored[name].file}: {name}", stored[name].entry
        if entry.shape != shape:
            raise CheckpointError(explain(where, f"shape {entry.shape}", f"{shape}", clause="SS-23"))
        if entry.dtype not in WEIGHT_DTYPES:
            needed = "one of " + ", ".join(WEIGHT_DTYPES)
            raise CheckpointError(explain(where, f"dtype {entry.dtype}", needed, clause="SS-23"))
    return stored


def stored_dtype(stored: Mapping[str, Stored], config: BlockModelConfig) -> str:
    """Return the name of the dtype of the weights: the config's word, else that of the embedding."""
    name = sources(config)["embed_tokens.weight"].names[0]
    labels = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return config.dtype or labels[stored[name].entry.dtype]


def is_wide(name: str) -> bool:
    """Return whether a weight stays in float32 whatever the model's dtype.

    Example:
        >>> is_wide("layers.3.mlp.gate.expert_bias"), is_wide("layers.3.mlp.gate_proj.weight")
        (True, False)
    """
    return name.endswith(WIDE)


def refuse_not_finite(where: str, wrong: int, size: int) -> None:
    """Raise if some values of a tensor are NaN or infinite.

    Spec: SS-23.

    Args:
        where: file and tensor.
        wrong: how many are.
        size: of how many.

    Raises:
        CheckpointError: any is.
    """
    if wrong:
        found = f"{wrong} of {size} values NaN or infinite"
        raise CheckpointError(explain(where, found, "finite weights", clause="SS-23"))


def refuse_untied(where: str) -> None:
    """Raise: a head is stored that is not the embedding, though the config ties the two.

    Spec: SS-23.
    """
    needed = "the embedding once more, or no such tensor: tie_word_embeddings is true"
    raise CheckpointError(explain(f"{where}: {HEAD}", "another matrix", needed, clause="SS-23"))


def _refuse_names(
    label: str,
    names: list[str],
    folder: Path,
    stored: dict[str, Stored],
    config: BlockModelConfig,
    count: int,
) -> None:
    """Name the file where it is known: an extra tensor's own, or the only one."""
    files = {stored[n].file for n in names if n in stored} or {s.file for s in stored.values()}
    where = str(files.pop()) if len(files) == 1 else str(folder)
    some = ", ".join(name[:200] for name in names[:5])
    found = f"{label} {some}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    needed = f"exactly the {count} tensors of a {config.family} model of {config.num_hidden_layers} layers"
    raise CheckpointError(explain(where, found, needed, clause="SS-23"))


def _plain(prefix: str, shapes: Shapes) -> dict[str, Source]:
    """Weights that are stored under their own names."""
    return {prefix + n: Source((f"model.{prefix}{n}",), shape) for n, shape in shapes.items()}


def _attention(config: BlockModelConfig, i: int) -> dict[str, Source]:
    """Three matrices, as Qwen stores them."""
    width, head = config.hidden_size, config.head_dim
    rows = {"q_proj": config.num_attention_heads * head}
    rows |= dict.fromkeys(("k_proj", "v_proj"), config.num_key_value_heads * head)
    shapes: Shapes = {f"{name}.weight": (n, width) for name, n in rows.items()}
    shapes["o_proj.weight"] = (width, rows["q_proj"])
    if config.attention_bias:
        shapes |= {f"{name}.bias": (n,) for name, n in rows.items()}
    if config.qk_norm:
        shapes |= {"q_norm.weight": (head,), "k_norm.weight": (head,)}
    return _plain(f"layers.{i}.self_attn.", shapes)


def _fused_attention(config: BlockModelConfig, i: int) -> dict[str, Source]:
    """One matrix for queries, keys and values, in this order, as LLaDA2 stores it."""
    width, head = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    own, stored = f"layers.{i}.self_attn.", f"model.layers.{i}.attention."
    found, start = {}, 0
    for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        part = (start, start + rows)
        found[f"{own}{name}.weight"] = Source((f"{stored}query_key_value.weight",), (rows, width), part)
        start += rows
    found[f"{own}o_proj.weight"] = Source((f"{stored}dense.weight",), (width, queries))
    found[f"{own}q_norm.weight"] = Source((f"{stored}query_layernorm.weight",), (head,))
    found[f"{own}k_norm.weight"] = Source((f"{stored}key_layernorm.weight",), (head,))
    return found


def _mlp(config: BlockModelConfig, i: int) -> dict[str, Source]:
    return _plain(f"layers.{i}.mlp.", _projections(config.hidden_size, config.intermediate_size))


def _experts(config: BlockModelConfig, i: int) -> dict[str, Source]:
    """Router, stacked experts, and the shared experts as one MLP."""
    experts = config.experts
    assert experts is not None
    count, width, prefix = experts.num_experts, config.hidden_size, f"layers.{i}.mlp."
    found = _plain(prefix, {"gate.weight": (count, width), "gate.expert_bias": (count,)})
    for name, shape in _projections(width, experts.moe_intermediate_size).items():
        names = tuple(f"model.{prefix}experts.{e}.{name}" for e in range(count))
        own = f"{prefix}experts.{name.removesuffix('.weight')}"
        found[own] = Source(names, (count, *shape), stacked=True)
    if experts.num_shared_experts:
        found |= _plain(f"{prefix}shared_experts.", _projections(width, experts.shared_size))
    return found


def _projections(width: int, inner: int) -> Shapes:
    gate, up, down = PROJECTIONS
    return {
        f"{gate}.weight": (inner, width),
        f"{up}.weight": (inner, width),
        f"{down}.weight": (width, inner),
    }
