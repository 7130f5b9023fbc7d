"""The recorded block-diffusion models, by family, and what tests do with them."""

import functools
import json
import random
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from dspec.core.layouts import Layout
from dspec.io.block_json import block_config_from_json, read_block_config
from tests.reference_block import ReferenceModel, sight_of
from tests.tolerances import GOLDEN, GOLDEN_MLX

GOLDEN_FOLDER = Path(__file__).parent / "golden"
FOLDERS = {
    "sdar": GOLDEN_FOLDER / "sdar_tiny" / "model",
    "fast_dllm_v2": GOLDEN_FOLDER / "fastdllm2_tiny" / "model",
    "llada2": GOLDEN_FOLDER / "llada2_tiny" / "model",
}
MASK, VOCABULARY = 299, 300
CONFIGS = {family: json.loads((folder / "config.json").read_text()) for family, folder in FOLDERS.items()}
TYPES = {"sdar": "sdar", "fast_dllm_v2": "Fast_dLLM_Qwen", "llada2": "llada2_moe"}


@functools.cache
def model(room, family):
    """The room's model of a family, in float32."""
    return room.block_diffusion.load_block_model(
        FOLDERS[family], family, MASK, device=room.device, dtype="float32"
    )


@functools.cache
def reference(family):
    """The same in numpy."""
    config = read_block_config(FOLDERS[family], family=family, mask_token_id=MASK)
    return ReferenceModel(FOLDERS[family], config)


def assert_near(room, ours, theirs):
    """Equal to another implementation's float32 or float64 run, up to the order of sums."""
    largest = {"torch": GOLDEN, "mlx": GOLDEN_MLX}[room.name]
    np.testing.assert_allclose(room.numpy(ours), theirs, atol=largest, rtol=0)


def every(session, layouts, drafts=None):
    """The hidden states of a pass and the logits of all its slots, one (P, V) array a row."""
    hidden = session.read(layouts, drafts)
    width = max(0 if layout is None else layout.size for layout in layouts)
    return session.logits(hidden, [list(range(width))] * len(layouts))


def tokens_of(seed, count):
    return tuple(random.Random(seed).choices(range(VOCABULARY), k=count))


def scattered(seed, size, start, length):
    """A layout of random ranks, groups, skips and reach, each slot of which sees something."""
    draw = random.Random(seed)
    positions = tuple(start + draw.randrange(size) for _ in range(size))
    groups = tuple(draw.choice((0, 0, 0, 1, 2)) for _ in range(size))
    groups = (0, *groups[1:])
    ranks = (0, *(draw.randrange(3) for _ in range(size - 1)))
    reads = tuple(draw.randrange(0, 3) for _ in range(size))
    skips = tuple(draw.choice((-1, -1, 1 + draw.randrange(size - 1))) for _ in range(size))
    reach = draw.choice((None, length // 2, 0, length + 3))
    return Layout(tokens_of(seed + 1, size), positions, ranks, reads, groups, skips, reach)


def by_reference(family, committed, layout):
    """Logits of a layout after committed ones, by the reference."""
    past, length = None, 0
    for before in committed:
        _, past = reference(family).read(past, before.tokens, before.positions, sight_of(before, length))
        length += before.size
    return reference(family).read(past, layout.tokens, layout.positions, sight_of(layout, length))[0]


def parsed(family, *, asked=None, mask=MASK, **changes):
    """The config of a family's recorded file with some keys changed, as the reader sees it."""
    raw = {**CONFIGS[family], "model_type": TYPES[family], **changes}
    return block_config_from_json(raw, where="config.json", family=asked, mask_token_id=mask)


def written(family, place, *, tensors=None, **changes):
    """A folder with a family's recorded model, keys of its config or its tensors changed."""
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(
        json.dumps({**CONFIGS[family], "model_type": TYPES[family], **changes})
    )
    stored = load_file(FOLDERS[family] / "model.safetensors")
    stored.update(tensors or {})
    save_file({n: t for n, t in stored.items() if t is not None}, place / "model.safetensors")
    return place
