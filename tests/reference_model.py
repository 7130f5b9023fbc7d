"""What a target is held against in both rooms: transformers' own model of the same weights."""

import functools
import random

import numpy as np
import torch

from tests import tiny_models
from tests.tolerances import FORWARD_F32, TWO_FRAMEWORKS

TAPS = (0, 2)
TOKENS = [random.Random(3).choices(range(3, tiny_models.VOCABULARY), k=24)]


@functools.cache
def reference(kind):
    return tiny_models.make(kind).eval()


def whole(kind, tokens):
    """Logits and all layers' states by transformers itself, in one pass without a cache."""
    with torch.no_grad():
        out = reference(kind)(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    return out.logits[0].numpy(), [states[0].numpy() for states in out.hidden_states]


def side_by_side(states, layer_ids=TAPS):
    return np.concatenate([states[i + 1] for i in layer_ids], axis=-1)


def assert_near(room, ours, theirs):
    """The same framework's numbers, or another's to the rounding of its sums."""
    ours = room.numpy(ours)
    limit = FORWARD_F32 if room.name == "torch" else TWO_FRAMEWORKS * np.abs(theirs).max()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= limit


def ids_of(room, tokens):
    return room.array([tokens] if isinstance(tokens[0], int) else tokens, "int64")
