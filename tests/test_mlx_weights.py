"""Weights on MLX: quantised ones are driven as they are, and files are checked before MLX reads them."""

import json
import struct

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dspec.backends import hub
from dspec.backends.mlx.head import Head
from dspec.backends.mlx.target import Target
from dspec.errors import BackendUnavailable, CheckpointError, ConfigError
from dspec.io.shards import check_shards
from tests import tiny_models
from tests.rooms import ROOMS
from tests.test_mlx_targets import save, scores
from tests.tolerances import FORWARD_F32, TWO_FRAMEWORKS

pytestmark = pytest.mark.mlx


# Quantised weights.
@pytest.fixture(scope="module", params=[4, 8])
def packed(request, tmp_path_factory):
    """A folder as mlx_lm.convert writes it, and the same weights unpacked, as a plain one."""
    source = tiny_models.folder("qwen3_tied" if request.param == 4 else "qwen3")
    model, config = mlx_lm.utils.load_model(source)
    model, config = mlx_lm.utils.quantize_model(model, config, group_size=32, bits=request.param)
    place, plain = tmp_path_factory.mktemp("packed"), tmp_path_factory.mktemp("plain")
    mlx_lm.utils.save_model(place, model)
    mlx_lm.utils.save_config(config, place / "config.json")
    model = mlx_lm.utils.dequantize_model(model)
    mlx_lm.utils.save_model(plain, model)
    (plain / "config.json").write_text((source / "config.json").read_text())
    return place, plain


def test_quantised_targets_are_their_unpacked_selves(packed):
    place, plain = packed
    target, unpacked = Target.load(place), Target.load(plain)
    assert target.head.quantised and not unpacked.head.quantised
    assert target.head.shape == (target.vocab_size, tiny_models.WIDTH) == tuple(target.head_weight.shape)
    assert any(weight.dtype == mx.uint32 for _, weight in tree_flatten(target.model.parameters()))
    for ours, theirs in zip(*(scores(ROOMS["mlx"], t) for t in (target, unpacked)), strict=True):
        assert np.abs(ours - theirs).max() <= TWO_FRAMEWORKS * np.abs(theirs).max()
    assert np.array_equal(np.array(target.head_weight), np.array(unpacked.head_weight))
    ids = mx.arange(tiny_models.VOCABULARY)[None]
    assert np.array_equal(np.array(target.embed(ids)), np.array(unpacked.embed(ids)))
    assert target.digest() != unpacked.digest()


def test_quantised_weights_are_not_converted(packed):
    with pytest.raises(ConfigError, match='dtype: got float32 for quantised weights; needs "auto"'):
        Target.load(packed[0], dtype="float32")
    for dtype, words in (("bfloat16", "dtype: got bfloat16"), ("auto", None), ("float32", None)):
        model = Target.load(packed[0]).model
        if words is None:
            assert Target.load(model, dtype=dtype).model is model
        else:
            with pytest.raises(ConfigError, match=words):
                Target.load(model, dtype=dtype)


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Embedding])
def test_a_head_multiplies_by_its_matrix_both_ways(kind, bits):
    mx.random.seed(5)
    module = kind(64, 96, bias=False) if kind is nn.Linear else kind(96, 64)
    if bits:
        module = module.to_quantized(group_size=32, bits=bits)
    head = Head(module)
    assert head.shape == (96, 64) and head.quantised is bool(bits) and head.dtype == mx.float32
    matrix, hidden, back = np.array(head.weight), mx.random.normal((3, 64)), mx.random.normal((3, 96))
    assert np.abs(np.array(head.logits(hidden)) - np.array(hidden) @ matrix.T).max() <= FORWARD_F32
    assert np.abs(np.array(head.back(back)) - np.array(back) @ matrix).max() <= FORWARD_F32
    own = module(hidden) if kind is nn.Linear else module.as_linear(hidden)
    assert np.abs(np.array(own - head.logits(hidden))).max() <= FORWARD_F32
    wanted = np.ones((3, 96), dtype=np.float32) @ matrix
    assert np.abs(np.array(mx.grad(lambda h: head.logits(h).sum())(hidden)) - wanted).max() <= FORWARD_F32


def test_a_head_that_is_no_matrix_is_refused():
    with pytest.raises(BackendUnavailable, match="a Linear with a bias"):
        Head(nn.Linear(4, 6))
    with pytest.raises(BackendUnavailable, match="a RMSNorm"):
        Head(nn.RMSNorm(4))


def test_a_hub_id_is_fetched_first_and_gives_the_name(monkeypatch):
    asked = []

    def fetched(source, patterns, *, what):
        asked.append((source, what))
        assert not any(pattern.endswith(".py") for pattern in patterns)
        return tiny_models.folder("qwen3")

    monkeypatch.setattr(hub, "fetch", fetched)
    assert Target.load("org/name").facts.name == "org/name"
    assert asked == [("org/name", "target")]


# Files: MLX reads trailing bytes, overlaps, and every model*.safetensors whatever the index says.
def halves(place):
    """Split a folder's weights into two files with an index."""
    weights = dict(mx.load(str(place / "model.safetensors")))
    mx.eval(weights)  # read before its file goes
    (place / "model.safetensors").unlink()
    names, places = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        save(place / file, {name: weights[name] for name in part})
        places |= dict.fromkeys(part, file)
    write_index(place, places)
    return places


def write_index(place, places):
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_weights_in_several_files_are_the_same_model(tmp_path):
    place = tiny_models.changed("qwen3", tmp_path / "new")
    halves(place)
    ours, theirs = (scores(ROOMS["mlx"], Target.load(p))[0] for p in (place, tiny_models.folder("qwen3")))
    assert np.array_equal(ours, theirs)


def trailing(place):
    with open(place / "model.safetensors", "ab") as file:
        file.write(b"\0" * 8)


def twice(place):
    """A header that names one tensor twice."""
    file = place / "model.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = data[8 : 8 + length].rstrip()
    entry = json.dumps(json.loads(head)["model.norm.weight"])
    head = head[:-1] + f', "model.norm.weight": {entry}}}'.encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])


def in_two_files(place):
    places = halves(place)
    name, file = next((n, f) for n, f in places.items() if "00001" in f)
    other = str(place / "model-00002-of-00002.safetensors")
    weights = dict(mx.load(other)) | {name: mx.load(str(place / file))[name]}
    save(other, weights)


def without_index(place):
    halves(place)
    (place / "model.safetensors.index.json").unlink()


def other_index(place):
    places = halves(place)
    write_index(place, {**places, "model.norm.weight": "model-00009-of-00002.safetensors"})


def stray_file(place):
    halves(place)
    save(place / "model-stray.safetensors", {"model.stray": mx.ones(3)})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (trailing, "Bytes trail after the last tensor"),
        (twice, "model.norm.weight"),
        (in_two_files, "in model-00001-of-00002.safetensors too; needs every tensor in one file"),
        (without_index, "without an index"),
        (other_index, "model.norm.weight in 'model-00009-of-00002.safetensors'"),
        (stray_file, "model.stray in None"),
        (lambda place: write_index(place, []), "no weight_map"),
    ],
)
def test_files_that_mlx_would_read_otherwise_are_refused_before_it_reads(spoil, words, tmp_path, monkeypatch):
    place = tiny_models.changed("qwen3", tmp_path / "new")
    spoil(place)
    monkeypatch.setattr(mx, "load", lambda *args: pytest.fail("MLX read the file"))
    with pytest.raises(CheckpointError, match=words):
        Target.load(place)
    with pytest.raises(CheckpointError, match=words):
        check_shards(place)
