"""Small drafters with random weights, made in either room."""

import dataclasses

import numpy as np

from dspec.config import DrafterConfig
from tests import tiny_models

BLOCK = 4
# A drafter that stands alone, without a target's facts.
PLAIN = DrafterConfig(
    hidden_size=32,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=24,
    vocab_size=60,
    block_size=BLOCK,
    mask_token_id=59,
    target_layer_ids=(1, 3),
    num_target_layers=4,
    max_position_embeddings=256,
    initializer_range=0.3,
    dtype="float32",
)


def open_target(room, kind, folder):
    """The room's target of a tiny model; MLX reads it from the folder, where it is written first."""
    model = tiny_models.make(kind)
    if room.name == "torch":
        return room.target.Target(model)
    model.save_pretrained(folder)
    return room.target.Target.load(folder)


def config_for(target, **changes):
    config = DrafterConfig.for_target(
        target.facts, block_size=BLOCK, layers=2, mask_token_id=59, target_layer_ids=(0, 2)
    )
    # Wide weights: at 0.02 a wrong mask would hardly show.
    return dataclasses.replace(config, initializer_range=0.3, **changes)


def fresh(room, config):
    return room.drafter.Drafter(config).initialise(generator(room, 3))


def generator(room, seed):
    """What the room's `initialise` draws from."""
    if room.name == "mlx":
        return np.random.default_rng(seed)
    import torch

    return torch.Generator().manual_seed(seed)


def narrowed(room, drafter, dtype):
    """The drafter itself, its weights in another dtype."""
    if room.name == "torch":
        return drafter.to(getattr(room.xp, dtype))
    drafter.set_dtype(getattr(room.xp, dtype))
    return drafter
