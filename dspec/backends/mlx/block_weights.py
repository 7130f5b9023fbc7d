"""From the published tensors of a block-diffusion model to the weights of dspec's layers."""

from collections import Counter
from collections.abc import Callable, Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dspec.block_config import BlockModelConfig
from dspec.errors import SpecViolation
from dspec.io.block_tensors import HEAD, Source, is_wide, refuse_not_finite, refuse_untied, sources
from dspec.io.shards import Stored

# Returns a published tensor, or some rows of it.
Reader = Callable[[str, tuple[int, int] | None], mx.array]


def load_weights(
    model: nn.Module, stored: Mapping[str, Stored], config: BlockModelConfig, *, dtype: mx.Dtype
) -> None:
    """Give a model its weights, one published tensor at a time.

    Spec: SS-23.

    Args:
        model: its weights are NaN, and not evaluated, until now.
        stored: files that have passed `check_block_tensors`.
        config: of the model.
        dtype: of the weights, but for those that stay in float32.

    Raises:
        CheckpointError: a tensor is not finite, or a head that should be the embedding is another matrix.
    """
    made = sources(config)
    if dict(tree_flatten(model.parameters())).keys() != made.keys():
        raise SpecViolation("BlockDiffusionModel and io.block_tensors disagree on the weights [SS-23]")
    embedding = made["embed_tokens.weight"].names[0]
    tied = config.tie_word_embeddings and HEAD in stored
    read = _reader(stored, Counter(n for s in made.values() for n in s.names) + Counter([embedding] * tied))
    if tied:
        _check_tied(read, embedding, str(stored[HEAD].file))
    weights = []
    for name, source in made.items():
        weight = _assemble(source, read, mx.float32 if is_wide(name) else dtype)
        mx.eval(weight)  # now, so that what was read for it is let go
        weights.append((name, weight))
    model.load_weights(weights, strict=True)
    model.freeze()


def _reader(stored: Mapping[str, Stored], uses: Counter[str]) -> Reader:
    tensors: dict[str, mx.array] = {}
    for file in {s.file: None for s in stored.values()}:
        tensors |= mx.load(str(file))  # lazy: nothing is read yet

    def read(name: str, rows: tuple[int, int] | None) -> mx.array:
        uses[name] -= 1
        # After its last use the file's copy must not outlive the weight made of it.
        tensor = tensors[name] if uses[name] > 0 else tensors.pop(name)
        tensor = tensor if rows is None else tensor[rows[0] : rows[1]]
        wrong = int(mx.sum(~mx.isfinite(tensor)))
        refuse_not_finite(f"{stored[name].file}: {name}", wrong, tensor.size)
        return tensor

    return read


def _assemble(source: Source, read: Reader, dtype: mx.Dtype) -> mx.array:
    """One weight; of several experts, stacked."""
    parts = [read(name, source.rows).astype(dtype) for name in source.names]
    # A slice is copied: as a view it would hold the whole tensor.
    return mx.stack(parts) if source.stacked else mx.contiguous(parts[0])


def _check_tied(read: Reader, embedding: str, where: str) -> None:
    if not mx.array_equal(read(HEAD, None), read(embedding, None)):
        refuse_untied(where)
