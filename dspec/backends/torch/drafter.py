"""The DFlash v1 drafter: a block of mask tokens that reads the target's features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from dspec.backends.draft_window import WindowedDrafter
from dspec.backends.torch.drafter_batch import DrafterBatch
from dspec.backends.torch.drafter_layers import DrafterLayer, Linear, Norm
from dspec.backends.torch.drafter_session import DrafterSession
from dspec.backends.torch.ops import DTYPES, resolve_device, resolve_dtype
from dspec.backends.torch.rotary import Rotary, Rotation
from dspec.config import DrafterConfig
from dspec.errors import CheckpointError, ShapeError, SpecViolation, explain
from dspec.io.checkpoints import WEIGHTS, read_config, tensor_shapes, weights_file, write_checkpoint

if TYPE_CHECKING:
    from dspec.backends.torch.target import Target


class Drafter(nn.Module):
    """A DFlash v1 drafter; implements `protocol.DrafterModel`.

    Letters: B sequences, S context positions, Q block slots (one block or several), D width, F width
    of the features. Embedding and head are the target's. Every weight is NaN until `initialise` or
    `load_drafter`, so that a forgotten one cannot pass.

    Spec: BD-5, BD-6, BD-7, BD-8.

    Args:
        config: shapes, taps and rotary settings.

    Source: arXiv 2602.06036, section 3.
    """

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = Linear(config.feature_size, config.hidden_size)
        self.hidden_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.layers = nn.ModuleList(DrafterLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(config)

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """The target layers whose outputs it reads."""
        return self.config.target_layer_ids

    @property
    def block_size(self) -> int:
        """1 + K: the anchor and the drafted slots."""
        return self.config.block_size

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.fc.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.fc.weight.device

    @property
    def n_parameters(self) -> int:
        """How many numbers its weights hold."""
        return sum(weight.numel() for weight in self.parameters())

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by the names of the published tensors."""
        return dict(self.named_parameters())

    def initialise(self, generator: torch.Generator) -> Drafter:
        """Draw new weights: matrices normal with std `initializer_range`, gains 1.

        Drawn in float32 on the generator's device in the order of the tensors' names, so that they
        depend on the generator alone.

        Args:
            generator: the only source of chance.

        Returns:
            The drafter itself.
        """
        with torch.no_grad():
            for _, weight in sorted(self.weights().items()):
                if weight.ndim == 1:
                    weight.fill_(1.0)
                    continue
                draws = torch.empty(weight.shape, device=generator.device)
                weight.copy_(draws.normal_(0.0, self.config.initializer_range, generator=generator))
        return self

    def fuse(self, features: Tensor) -> Tensor:
        """Return the context (B, S, D) that every layer reads, from features (B, S, F).

        Raises:
            ShapeError: the features are not of the tapped layers.
        """
        if features.shape[-1] != self.config.feature_size:
            needed = f"(B, S, {self.config.feature_size})"
            raise ShapeError(explain("features", tuple(features.shape), needed, clause="BD-5"))
        return self.hidden_norm(self.fc(features))

    def forward(
        self,
        block_embeds: Tensor,
        positions: Tensor,
        context: Tensor,
        context_positions: Tensor,
        mask: Tensor | BlockMask | None = None,
        *,
        recompute: bool = False,
    ) -> Tensor:
        """Return the final hidden states of block slots over a context, for training or checking.

        Spec: BD-2, BD-6.

        Args:
            block_embeds: (B, Q, D) target embeddings of [anchor, mask, ...].
            positions: (B, Q) integer positions of the slots.
            context: (B, S, D) from `fuse`.
            context_positions: (B, S) integer positions of the context.
            mask: (B, Q, S + Q) or (B, 1, Q, S + Q) bool, context first, True where a slot may look;
                a `BlockMask` of those sizes; None: everywhere.
            recompute: keep only each layer's input for the backward and run the layer again there.

        Returns:
            (B, Q, D) after the final norm: the target's head turns them into logits.
        """
        if isinstance(mask, Tensor) and mask.ndim == 3:
            mask = mask[:, None]
        dtype = block_embeds.dtype
        rotation, context_rotation = self.rotary(positions, dtype), self.rotary(context_positions, dtype)
        hidden = block_embeds
        for layer in self.layers:
            inputs = (layer, hidden, rotation, context, context_rotation, mask)
            # Nothing in a layer is random: there is no generator's state to keep.
            again = {"use_reentrant": False, "preserve_rng_state": False}
            hidden = checkpoint(_run, *inputs, **again) if recompute else _run(*inputs)
        return self.norm(hidden)

    def session(self, target: Target, *, capacity: int) -> DrafterSession:
        """Return an empty session beside a target.

        Args:
            target: whose embedding, head and features it uses; on the same device.
            capacity: most positions it will hold, the block's slots included.

        Raises:
            CheckpointError: the drafter was made for another target.
            ConfigError: no capacity, or another device.
        """
        return DrafterSession(self, target, capacity=capacity)

    def windowed(self, window: int) -> WindowedDrafter:
        """Return the same drafter, reading the last `window` positions of its context only (RS-3)."""
        return WindowedDrafter(self, window)

    def batch(self, target: Target, *, rows: int, capacity: int) -> DrafterBatch:
        """Return an empty session of several requests beside a target.

        Spec: DL-12.

        Args:
            target: whose embedding, head and features it uses; on the same device.
            rows: requests side by side.
            capacity: most positions of a row, the block's slots included.

        Raises:
            CheckpointError: the drafter was made for another target.
            ConfigError: no rows, no capacity, or another device.
        """
        return DrafterBatch(self, target, rows=rows, capacity=capacity)


def _run(
    layer: DrafterLayer,
    hidden: Tensor,
    rotation: Rotation,
    context: Tensor,
    context_rotation: Rotation,
    mask: Tensor | BlockMask | None,
) -> Tensor:
    """Return a layer's output, its slots looking at the whole context and, by the mask, at each other."""
    past = layer.self_attn.keys_values(context, context_rotation)

    def join(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)

    return layer(hidden, rotation, join, mask)


def load_drafter(
    folder: str | Path, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> Drafter:
    """Return the drafter of a checkpoint folder.

    Spec: BD-7.

    Args:
        folder: config.json and model.safetensors in the published DFlash v1 format.
        device: "auto" | "cuda" | "cpu" | "mps".
        dtype: "auto" (float32 on a CPU, the config's elsewhere) or a name.

    Raises:
        CheckpointError: a file is missing, malformed or not DFlash v1; a tensor is missing, extra, of
            another shape or not finite. The message names file, tensor, found and needed.
        BackendUnavailable: no such device here.
    """
    place = resolve_device(device)
    config = read_config(folder)
    path = weights_file(folder, config)
    tensors = load_file(path, device="cpu")
    drafter = Drafter(config)
    parameters = drafter.weights()
    if parameters.keys() != tensor_shapes(config).keys():
        raise SpecViolation("Drafter and io.tensor_shapes disagree on the tensors of a drafter [BD-7]")
    with torch.no_grad():
        for name, weight in parameters.items():
            weight.copy_(_finite(tensors[name], f"{path}: {name}"))
    drafter.eval()
    return drafter.to(device=place, dtype=resolve_dtype(dtype, device=place, stored=DTYPES[config.dtype]))


def save_drafter(drafter: Drafter, folder: str | Path) -> None:
    """Write a drafter as config.json and model.safetensors, both or none.

    Weights are stored in the config's dtype: a drafter loaded from such a folder and saved again gives
    the same bytes, whatever dtype it ran in.

    Spec: BD-7.

    Args:
        drafter: what to write.
        folder: made if absent.

    Raises:
        CheckpointError: a weight is not finite, or the folder cannot be written.
    """
    dtype = DTYPES[drafter.config.dtype]
    where = Path(folder) / WEIGHTS
    tensors = {
        name: _finite(weight.detach().to(device="cpu", dtype=dtype).contiguous(), f"{where}: {name}")
        for name, weight in drafter.weights().items()
    }
    write_checkpoint(folder, drafter.config, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def _finite(tensor: Tensor, where: str) -> Tensor:
    """Return the tensor; NaN or infinity in it is a CheckpointError."""
    wrong = int((~torch.isfinite(tensor)).sum())
    if wrong:
        found = f"{wrong} of {tensor.numel()} values NaN or infinite"
        raise CheckpointError(explain(where, found, "finite weights", clause="BD-7"))
    return tensor
