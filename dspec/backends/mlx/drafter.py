"""The DFlash v1 drafter: a block of mask tokens that reads the target's features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from dspec.backends.draft_window import WindowedDrafter
from dspec.backends.mlx.drafter_batch import DrafterBatch
from dspec.backends.mlx.drafter_layers import DrafterLayer, Linear, Norm
from dspec.backends.mlx.drafter_session import DrafterSession
from dspec.backends.mlx.ops import DTYPES, resolve_device, resolve_dtype
from dspec.backends.mlx.rotary import Rotary, Rotation
from dspec.config import DrafterConfig
from dspec.errors import CheckpointError, ShapeError, SpecViolation, explain
from dspec.io.checkpoints import (
    WEIGHTS,
    read_config,
    tensor_shapes,
    weights_file,
    write_checkpoint,
    write_tensors,
)

if TYPE_CHECKING:
    from dspec.backends.mlx.target import Target


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
        self.layers = [DrafterLayer(config) for _ in range(config.num_hidden_layers)]
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
    def dtype(self) -> mx.Dtype:
        """Of the weights."""
        return self.fc.weight.dtype

    @property
    def device(self) -> str:
        """Where the weights are: MLX's default device."""
        return "mlx"

    @property
    def n_parameters(self) -> int:
        """How many numbers its weights hold."""
        return sum(weight.size for weight in self.weights().values())

    def weights(self) -> dict[str, mx.array]:
        """Return the weights by the names of the published tensors."""
        return dict(tree_flatten(self.parameters()))

    def initialise(self, generator: np.random.Generator) -> Drafter:
        """Draw new weights: matrices normal with std `initializer_range`, gains 1.

        Drawn in float32 on the host in the order of the tensors' names, so that they depend on the
        generator alone.

        Args:
            generator: the only source of chance.

        Returns:
            The drafter itself.
        """
        drawn = []
        for name, weight in sorted(self.weights().items()):
            if weight.ndim == 1:
                drawn.append((name, mx.ones_like(weight)))
                continue
            draws = generator.standard_normal(weight.shape, dtype=np.float32)
            drawn.append((name, mx.array(draws * np.float32(self.config.initializer_range), weight.dtype)))
        self.load_weights(drawn)
        mx.eval(self.parameters())  # left lazy by a thread, they could not be used in another
        return self

    def fuse(self, features: mx.array) -> mx.array:
        """Return the context (B, S, D) that every layer reads, from features (B, S, F).

        Raises:
            ShapeError: the features are not of the tapped layers.
        """
        if features.shape[-1] != self.config.feature_size:
            needed = f"(B, S, {self.config.feature_size})"
            raise ShapeError(explain("features", tuple(features.shape), needed, clause="BD-5"))
        return self.hidden_norm(self.fc(features))

    def __call__(
        self,
        block_embeds: mx.array,
        positions: mx.array,
        context: mx.array,
        context_positions: mx.array,
        mask: mx.array | None = None,
        *,
        recompute: bool = False,
    ) -> mx.array:
        """Return the final hidden states of block slots over a context, for training or checking.

        Spec: BD-2, BD-6.

        Args:
            block_embeds: (B, Q, D) target embeddings of [anchor, mask, ...].
            positions: (B, Q) integer positions of the slots.
            context: (B, S, D) from `fuse`.
            context_positions: (B, S) integer positions of the context.
            mask: (B, Q, S + Q) or (B, 1, Q, S + Q) bool, context first, True where a slot may look;
                None: everywhere.
            recompute: keep only each layer's input for the backward and run the layer again there.

        Returns:
            (B, Q, D) after the final norm: the target's head turns them into logits.
        """
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        dtype = block_embeds.dtype
        rotation, context_rotation = self.rotary(positions, dtype), self.rotary(context_positions, dtype)
        hidden = block_embeds
        for layer in self.layers:
            run = partial(_run, layer, (rotation, context_rotation), mask)
            hidden = (nn.utils.checkpoint(layer, run) if recompute else run)(hidden, context)
        return self.norm(hidden)

    def session(self, target: Target, *, capacity: int) -> DrafterSession:
        """Return an empty session beside a target.

        Args:
            target: whose embedding, head and features it uses.
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
            target: whose embedding, head and features it uses.
            rows: requests side by side.
            capacity: most positions of a row, the block's slots included.

        Raises:
            CheckpointError: the drafter was made for another target.
            ConfigError: no rows, no capacity, or another device.
        """
        return DrafterBatch(self, target, rows=rows, capacity=capacity)


def _run(
    layer: DrafterLayer,
    rotations: tuple[Rotation, Rotation],
    mask: mx.array | None,
    hidden: mx.array,
    context: mx.array,
) -> mx.array:
    """Return a layer's output, its slots looking at the whole context and, by the mask, at each other."""
    rotation, context_rotation = rotations
    # A view of its own: the gradients of the layer's keys and values are added to each other first, as
    # they are when the layer runs again, so that `recompute` changes no bit (without it 1e-7 of fc's).
    context = mx.squeeze(mx.expand_dims(context, 0), 0)
    past = layer.self_attn.keys_values(context, context_rotation)

    def join(keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return mx.concatenate([past[0], keys], axis=2), mx.concatenate([past[1], values], axis=2)

    return layer(hidden, rotation, join, mask)


def load_drafter(folder: str | Path, *, device: str = "auto", dtype: str | mx.Dtype = "auto") -> Drafter:
    """Return the drafter of a checkpoint folder.

    Spec: BD-7.

    Args:
        folder: config.json and model.safetensors in the published DFlash v1 format.
        device: "auto" | "mlx".
        dtype: "auto" (float32 where MLX runs on a CPU, the config's on Metal) or a name.

    Raises:
        CheckpointError: a file is missing, malformed or not DFlash v1; a tensor is missing, extra, of
            another shape or not finite. The message names file, tensor, found and needed.
        ConfigError: an unknown device or dtype.
    """
    resolve_device(device)
    config = read_config(folder)
    wanted = resolve_dtype(dtype, stored=DTYPES[config.dtype])
    path = weights_file(folder, config)
    tensors = dict(mx.load(str(path)))
    drafter = Drafter(config)
    if drafter.weights().keys() != tensor_shapes(config).keys():
        raise SpecViolation("Drafter and io.tensor_shapes disagree on the tensors of a drafter [BD-7]")
    drafter.load_weights(
        [(name, _finite(tensors[name], f"{path}: {name}").astype(wanted)) for name in drafter.weights()]
    )
    drafter.eval()
    # Now, so that the weights as stored are let go with the file.
    mx.eval(drafter.parameters())
    return drafter


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
        name: _bytes(_finite(weight.astype(dtype), f"{where}: {name}"))
        for name, weight in drafter.weights().items()
    }
    label = {mx.float32: "F32", mx.bfloat16: "BF16", mx.float16: "F16"}[dtype]
    write_checkpoint(folder, drafter.config, lambda path: write_tensors(path, tensors, dtype=label))


def _finite(tensor: mx.array, where: str) -> mx.array:
    """Return the tensor; NaN or infinity in it is a CheckpointError."""
    wrong = int(mx.sum(~mx.isfinite(tensor)))
    if wrong:
        found = f"{wrong} of {tensor.size} values NaN or infinite"
        raise CheckpointError(explain(where, found, "finite weights", clause="BD-7"))
    return tensor


def _bytes(tensor: mx.array) -> np.ndarray:
    """Return the tensor on the host, bfloat16 as the integers of its bits: numpy has no such dtype."""
    return np.array(tensor.view(mx.uint16) if tensor.dtype == mx.bfloat16 else tensor, copy=False)
