"""A model of one framework given to the backend of another is refused by name; "auto" follows the model."""

from pathlib import Path

import pytest

import dspec
from dspec.backends.foreign import framework_of
from dspec.errors import ConfigError
from tests.rooms import ROOMS, of_rooms

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
OTHER = {"torch": "mlx", "mlx": "torch"}
NAMES = {"torch": "PyTorch", "mlx": "MLX"}


def load_model(room):
    """The golden target as the framework's own library loads it."""
    if room.name == "torch":
        import transformers

        return transformers.AutoModelForCausalLM.from_pretrained(GOLDEN / "target")
    from mlx_lm.utils import load_model

    return load_model(GOLDEN / "target")[0]


@pytest.fixture(params=of_rooms())
def here(request):
    return ROOMS[request.param]


@pytest.mark.clause("DL-8")
def test_a_model_target_or_drafter_of_the_other_framework_is_refused(here):
    other = ROOMS[OTHER[here.name]]
    model, target = load_model(other), other.target.Target.load(GOLDEN / "target")
    drafter = other.drafter.load_drafter(GOLDEN / "drafter")
    for lent in (model, target):
        with pytest.raises(ConfigError, match=rf"target: got a \w+ of {NAMES[other.name]}; .*own backend"):
            dspec.load(lent, backend=here.device)
        with pytest.raises(ConfigError, match=rf"target: got a \w+ of {NAMES[other.name]}"):
            dspec.train(lent, "nowhere.jsonl", backend=here.device)
    with pytest.raises(ConfigError, match=rf"drafter: got a Drafter of {NAMES[other.name]}"):
        dspec.load(GOLDEN / "target", drafter, backend=here.device)


def test_auto_follows_a_loaded_model(here):
    model = load_model(here)
    assert framework_of(model) == here.name
    engine = dspec.load(model)
    assert type(engine.target) is here.target.Target and engine.target.model is model
    drafter = here.drafter.load_drafter(GOLDEN / "drafter")
    assert type(dspec.load(GOLDEN / "target", drafter).target) is here.target.Target


def test_what_is_of_no_framework_is_left_to_the_room(here):
    with pytest.raises(ConfigError, match=r"target: got a int; needs a hub id"):
        dspec.load(3, backend=here.device)
