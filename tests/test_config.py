"""Settings: refused where they are set, with the field's name."""

import dataclasses

import pytest

from dspec.backends import registry
from dspec.config import DrafterConfig, TargetFacts, TrainConfig
from dspec.errors import ConfigError

FACTS = TargetFacts(
    hidden_size=64,
    vocab_size=300,
    num_layers=6,
    intermediate_size=160,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    eos_token_ids=(257,),
)


def drafter(**changes):
    config = DrafterConfig.for_target(
        FACTS, block_size=8, layers=3, mask_token_id=299, target_layer_ids=(1, 3, 4)
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 3),
        ("head_dim", 23),
        ("block_size", 1),
        ("block_size", 8.0),
        ("block_size", True),
        ("mask_token_id", 300),
        ("mask_token_id", -1),
        ("target_layer_ids", (1, 1, 4)),
        ("target_layer_ids", (3, 1)),
        ("target_layer_ids", ()),
        ("target_layer_ids", (1, 6)),
        ("target_layer_ids", (-1, 2)),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("rope_theta", 10**400),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "yarn", "mrope_section": [1]}),
        ("dtype", "int8"),
        ("num_hidden_layers", 10**9),
        ("eos_token_id", "257"),
    ],
)
def test_a_wrong_drafter_setting_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: got "):
        drafter(**{name: value})


@pytest.mark.clause("BD-5")
def test_a_new_drafter_takes_the_targets_widths():
    config = drafter()
    assert (config.hidden_size, config.head_dim, config.num_key_value_heads) == (64, 24, 2)
    assert (config.num_target_layers, config.num_hidden_layers) == (6, 3)
    assert (config.num_slots, config.feature_size) == (7, 192)
    assert config.eos_token_id == 257


def test_no_scaling_of_positions_has_one_spelling():
    facts = dataclasses.replace(FACTS, rope_scaling={"rope_type": "default"})
    config = DrafterConfig.for_target(facts, block_size=4, layers=1, mask_token_id=1, target_layer_ids=(2,))
    assert config.rope_scaling is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("lr", 0.0),
        ("lr", "6e-4"),
        ("warmup", 1.0),
        ("betas", (0.9,)),
        ("betas", (0.9, 1.0)),
        ("reduction", "mean"),
        ("precision", "fp8"),
        ("objective", " "),
        ("seed", 2**64),
        ("accumulation", 3),
        ("block_size", 513),
        ("backend", "tpu"),
        ("target_layer_ids", ()),
        ("resume", 1),
    ],
)
def test_a_wrong_training_setting_is_refused_by_name(name, value):
    # 8 sequences do not split into 3 micro-batches: the error names what must fit.
    field = "batch_size" if name == "accumulation" else name
    with pytest.raises(ConfigError, match=f"{field}: got "):
        TrainConfig(**{name: value})


def test_the_backends_on_offer_are_those_that_exist():
    for name in registry.NAMES:
        assert TrainConfig(backend=name).backend == name


def test_every_training_setting_has_a_help_text_and_a_default():
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"], field.name
        assert field.default is not dataclasses.MISSING, field.name


def test_a_toml_file_gives_the_same_settings(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'objective = "dflash"\nsteps = 7\nlr = 1e-3\ntarget_layer_ids = [1, 2]\nbetas = [0.8, 0.9]\n'
    )
    expected = TrainConfig(objective="dflash", steps=7, lr=1e-3, target_layer_ids=(1, 2), betas=(0.8, 0.9))
    assert TrainConfig.from_toml(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 7", r"run.toml: got the key 'stepz'.*Did you mean steps\?"),
        ("zzzzzz = 7", r"run.toml: got the key 'zzzzzz'.*Allowed: block_size"),
        ("steps = -7", r"run.toml: steps: got -7"),
        ("steps = ", r"run.toml: got .*TOML"),
        ("[train]\nsteps = 7", r"run.toml: got the key 'train'"),
    ],
)
def test_a_toml_fault_names_file_and_key(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_toml(path)


def test_a_missing_toml_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml"):
        TrainConfig.from_toml(tmp_path / "none.toml")


def test_replace_refuses_unknown_names():
    assert TrainConfig().replace(steps=5).steps == 5
    with pytest.raises(ConfigError, match="Did you mean batch_size"):
        TrainConfig().replace(batchsize=5)
