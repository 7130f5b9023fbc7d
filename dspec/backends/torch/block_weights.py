"""From the published tensors of a block-diffusion model to the weights of dspec's layers."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dspec.block_config import BlockModelConfig
from dspec.errors import SpecViolation
from dspec.io.block_tensors import HEAD, Source, is_wide, refuse_not_finite, refuse_untied, sources
from dspec.io.shards import Stored

# Returns a published tensor, or some rows of it, on the CPU.
Reader = Callable[[str, tuple[int, int] | None], Tensor]


def load_weights(
    model: nn.Module,
    stored: Mapping[str, Stored],
    config: BlockModelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give a model its weights, one published tensor at a time.

    Spec: SS-23.

    Args:
        model: its weights are on the meta device until now.
        stored: files that have passed `check_block_tensors`.
        config: of the model.
        device: where the weights go.
        dtype: of the weights, but for those that stay in float32.

    Raises:
        CheckpointError: a tensor is not finite, or a head that should be the embedding is another matrix.
    """
    made = sources(config)
    if dict(model.named_parameters()).keys() != made.keys():
        raise SpecViolation("BlockDiffusionModel and io.block_tensors disagree on the weights [SS-23]")
    with ExitStack() as stack:
        read = _reader(stack, stored)
        if config.tie_word_embeddings and HEAD in stored:
            _check_tied(read, made["embed_tokens.weight"].names[0], str(stored[HEAD].file))
        weights = {
            name: _assemble(source, read, device, torch.float32 if is_wide(name) else dtype)
            for name, source in made.items()
        }
    model.load_state_dict(weights, strict=True, assign=True)
    model.requires_grad_(False)


def _reader(stack: ExitStack, stored: Mapping[str, Stored]) -> Reader:
    files = {s.file: None for s in stored.values()}
    opened = {file: stack.enter_context(safe_open(file, framework="pt", device="cpu")) for file in files}

    def read(name: str, rows: tuple[int, int] | None) -> Tensor:
        file = opened[stored[name].file]
        tensor = file.get_tensor(name) if rows is None else file.get_slice(name)[rows[0] : rows[1]]
        wrong = int((~torch.isfinite(tensor)).sum())
        refuse_not_finite(f"{stored[name].file}: {name}", wrong, tensor.numel())
        return tensor

    return read


def _assemble(source: Source, read: Reader, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One weight, copied: what is read may be a view of the file."""
    weight = torch.empty(source.shape, dtype=dtype, device=device)
    for i, name in enumerate(source.names):
        (weight[i] if source.stacked else weight).copy_(read(name, source.rows))
    return weight


def _check_tied(read: Reader, embedding: str, where: str) -> None:
    if not torch.equal(read(HEAD, None).float(), read(embedding, None).float()):
        refuse_untied(where)
