"""Rotary positions: transformers' angles in every room, for every kind of scaling; bad ones are named."""

import dataclasses

import numpy as np
import pytest
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from dspec.errors import ConfigError
from tests.tiny_drafters import PLAIN, fresh, narrowed
from tests.tolerances import FLOAT32, FLOAT64, FREQUENCIES_F32, ROTATION_F32

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
BEFORE = {"original_max_position_embeddings": 64}
SCALINGS = [
    None,
    {"rope_type": "default"},
    {"type": "linear", "factor": 4.0},
    {**LLAMA3, **BEFORE},
    LLAMA3,
    {**YARN, **BEFORE},
    YARN,
    {**YARN, **BEFORE, "attention_factor": 1.5},
    {**YARN, **BEFORE, "mscale": 0.7, "mscale_all_dim": 1.0},
    {**YARN, **BEFORE, "mscale": 0.7},
    {**YARN, **BEFORE, "mscale": 1.0, "mscale_all_dim": 0},
    {**YARN, **BEFORE, "beta_fast": 8, "beta_slow": 2, "truncate": False},
    {**YARN, **BEFORE, "beta_fast": 0, "beta_slow": None, "attention_factor": None},
    # Narrow ramps: the ends fall on one pair, or outside the head.
    {**YARN, **BEFORE, "beta_fast": 4, "beta_slow": 4, "truncate": False},
    {**YARN, "original_max_position_embeddings": 4},
    {**YARN, "original_max_position_embeddings": 2**30, "beta_fast": 1e6},
    {**YARN, "factor": 0.5, "mscale": 2.0, "mscale_all_dim": 1.0, **BEFORE},
]


@pytest.mark.clause("BD-6")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("scaling", SCALINGS)
def test_rotary_angles_are_those_of_transformers(room, scaling):
    config = dataclasses.replace(PLAIN, rope_scaling=scaling, rope_theta=5000.0)
    parameters = {"rope_type": "default", **(scaling or {}), "rope_theta": 5000.0}
    parameters["rope_type"] = parameters.pop("type", parameters["rope_type"])
    theirs = Qwen3RotaryEmbedding(
        Qwen3Config(
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters=parameters,
        )
    )
    found, scale = room.rotary.frequencies(config)
    assert scale == pytest.approx(theirs.attention_scaling, rel=FLOAT64)
    exact = 0 if room.name == "torch" else FREQUENCIES_F32
    np.testing.assert_allclose(room.numpy(found), theirs.inv_freq.numpy(), rtol=exact, atol=0)
    positions = np.array([[0, 1, 77, 200]])
    angles = np.tile(positions[..., None].astype(np.float32) * room.numpy(found), 2)
    cos, sin = room.rotary.Rotary(config)(room.array(positions), room.xp.float32)
    np.testing.assert_allclose(room.numpy(cos)[:, 0], np.cos(angles) * scale, atol=ROTATION_F32, rtol=0)
    np.testing.assert_allclose(room.numpy(sin)[:, 0], np.sin(angles) * scale, atol=ROTATION_F32, rtol=0)


@pytest.mark.clause("BD-6")
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": "4"},
        {"rope_type": "linear", "factor": 0},
        {"rope_type": "linear", "factor": True},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        {**LLAMA3, "high_freq_factor": 1.0},
        {"rope_type": "yarn"},
        {**YARN, "factor": None},
        {**YARN, "original_max_position_embeddings": None},
        {**YARN, "beta_fast": -1},
        {**YARN, "beta_slow": float("nan")},
        {**YARN, "truncate": "no"},
        {**YARN, "attention_factor": [1.0]},
        {"rope_type": ["yarn"], "factor": 4.0},
    ],
    ids=str,
)
def test_a_scaling_that_gives_no_angles_is_refused_when_it_is_set(scaling):
    with pytest.raises(ConfigError, match=r"^rope_scaling: got .*linear and yarn need factor"):
        dataclasses.replace(PLAIN, rope_scaling=scaling)


@pytest.mark.clause("BD-6")
def test_the_first_half_turns_towards_the_second(room):
    x, angle = np.array([1.0, 2.0, 3.0, 5.0], np.float32), np.array([0.3, 0.7], np.float32)
    cos, sin = (room.array(np.tile(f(angle), 2).reshape(1, 1, 1, 4)) for f in (np.cos, np.sin))
    turned = room.numpy(room.rotary.rotate(room.array(x.reshape(1, 1, 1, 4)), (cos, sin))).ravel()
    whole = (x[:2] + 1j * x[2:]) * np.exp(1j * angle)
    np.testing.assert_allclose(turned, [*whole.real, *whole.imag], atol=FLOAT32, rtol=0)


def test_a_narrow_drafter_keeps_wide_frequencies(room):
    narrow = narrowed(room, fresh(room, PLAIN), "bfloat16")
    positions = room.array(np.array([[4000, 4001]]))
    ours, exact = (d.rotary(positions, room.xp.float32)[0] for d in (narrow, fresh(room, PLAIN)))
    np.testing.assert_array_equal(room.numpy(ours), room.numpy(exact))
    assert narrow.dtype == room.xp.bfloat16
