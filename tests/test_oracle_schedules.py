"""The witness of schedules: values by hand, ends, and refusals."""

import math

import pytest

from dspec.errors import ConfigError
from dspec.oracle.schedules import SHAPES, value_at
from tests.tolerances import FLOAT64

pytestmark = pytest.mark.clause("OB-18")


def run(start, end, steps=5, **settings):
    return [value_at(start, end, step=step, steps=steps, **settings) for step in range(steps)]


def test_values_by_hand():
    assert run(4.5, 10.5) == pytest.approx([4.5, 6, 7.5, 9, 10.5], rel=FLOAT64)
    assert run(8, 0) == pytest.approx([8, 6, 4, 2, 0], rel=FLOAT64)
    root = math.sqrt(0.5)
    cosine = [0, (1 - root) / 2, 0.5, (1 + root) / 2, 1]
    assert run(2, 4, shape="cosine") == pytest.approx([2 + 2 * g for g in cosine], rel=FLOAT64)
    # Seven steps of three epochs; the step does not matter.
    epochs = [value_at(4, 8, shape="epoch", step=6, steps=7, epoch=e, epochs=3) for e in range(3)]
    assert epochs == [4, 6, 8]


def test_a_share_ends_early_and_stays():
    assert run(0, 1, share=0.5) == [0, 0.5, 1, 1, 1]
    # A cosine that went on behind its end would come back: 0, 1/2, 1, 1/2, 0.
    assert run(0, 1, share=0.5, shape="cosine") == pytest.approx([0, 0.5, 1, 1, 1], rel=FLOAT64)
    epochs = [value_at(0, 6, shape="epoch", share=0.5, step=0, steps=1, epoch=e, epochs=5) for e in range(5)]
    assert epochs == [0, 3, 6, 6, 6]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_one_step_or_one_epoch_has_the_end(shape, share):
    assert value_at(3, 7, shape=shape, share=share, step=0, steps=1, epoch=0, epochs=1) == 7
    last = value_at(3, 7, shape=shape, share=share, step=4, steps=5, epoch=1, epochs=2)
    assert last == pytest.approx(7, rel=FLOAT64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_step_has_the_start(shape):
    assert value_at(3, 7, shape=shape, share=0.2, step=0, steps=5, epoch=0, epochs=2) == 3


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("start, end", {"start": math.inf}),
        ("start, end", {"end": math.nan}),
        ("shape", {"shape": "square"}),
        ("share", {"share": 0.0}),
        ("share", {"share": 1.01}),
        ("share", {"share": math.nan}),
        ("step", {"step": 4}),
        ("step", {"step": -1}),
        ("epoch", {"epoch": 2}),
        ("epoch", {"shape": "epoch", "epoch": None}),
        ("epoch", {"shape": "epoch", "epochs": None}),
    ],
)
def test_wrong_numbers_raise(name, wrong):
    settings = {"start": 1.0, "end": 2.0, "step": 0, "steps": 4, "epoch": 0, "epochs": 2, **wrong}
    with pytest.raises(ConfigError, match=rf"schedule: {name}: .*\[OB-18\]"):
        value_at(settings.pop("start"), settings.pop("end"), **settings)
