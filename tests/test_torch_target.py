"""The target: sessions equal the model itself, taps are raw, what cannot be driven is refused."""

import random

import pytest
import torch

from dspec.backends.torch import target_session
from dspec.backends.torch.ops import exact_inference
from dspec.backends.torch.target import Target
from dspec.errors import BackendUnavailable, ConfigError, ShapeError
from tests import tiny_models
from tests.no_waiting import NoWaiting
from tests.tolerances import FORWARD_F32

TAPS = (0, 2)
TOKENS = torch.tensor([random.Random(3).choices(range(3, tiny_models.VOCABULARY), k=24)])


@pytest.fixture(scope="module", params=tiny_models.DRIVEN)
def target(request):
    return Target(tiny_models.make(request.param))


@pytest.fixture(scope="module")
def qwen():
    return Target(tiny_models.make("qwen3"))


def whole(target, tokens):
    """Logits and tapped states by transformers itself, in one pass without a cache."""
    with torch.no_grad():
        out = target.model(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    return out.logits[0], torch.cat([out.hidden_states[i + 1] for i in TAPS], dim=-1)[0]


def assert_near(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=FORWARD_F32, rtol=0)


@pytest.mark.clause("BD-5")
def test_taps_are_the_layers_outputs_in_the_order_given(target):
    assert_near(target.tap(TOKENS, TAPS)[0], whole(target, TOKENS[0].tolist())[1])
    swapped = target.tap(TOKENS, TAPS[::-1])
    assert torch.equal(swapped, target.tap(TOKENS, TAPS).roll(tiny_models.WIDTH, dims=-1))


@pytest.mark.clause("BD-5")
def test_the_last_layer_is_tapped_before_the_final_norm(target):
    last = target.tap(TOKENS, [3])
    normed = target.model(input_ids=TOKENS, output_hidden_states=True).hidden_states[-1]
    assert not torch.allclose(last, normed, atol=0.1)
    assert_near(target.model.get_decoder().norm(last), normed)


def test_logits_and_embeddings_are_the_models_own(target):
    with torch.no_grad():
        out = target.model(input_ids=TOKENS, output_hidden_states=True)
    assert_near(target.embed(TOKENS), out.hidden_states[0])
    assert_near(target.logits(out.hidden_states[-1]), out.logits)
    assert target.head_weight.shape == (target.vocab_size, tiny_models.WIDTH)


@pytest.mark.clause("DL-4")
def test_sessions_after_random_rewinds_equal_the_model_without_a_cache(target):
    """Past the sliding windows, forth and back: every score equals a fresh pass over the same tokens."""
    dice = random.Random(11)
    session = target.session(layer_ids=TAPS, capacity=40)
    read = dice.choices(range(3, tiny_models.VOCABULARY), k=9)
    scores = session.prefill(read)
    logits, features = whole(target, read)
    assert_near(scores.logits[0], logits[-1:])
    assert_near(scores.features[0], features)
    for _ in range(12):
        block = dice.choices(range(3, tiny_models.VOCABULARY), k=dice.randint(1, 6))
        scores = session.score(block[0], torch.tensor([block[1:]], dtype=torch.int32))
        logits, features = whole(target, read + block)
        assert_near(scores.logits[0], logits[len(read) :])
        assert_near(scores.features[0], features[len(read) :])
        read = (read + block)[: dice.randint(max(1, len(read) - 7), min(len(read) + len(block), 30))]
        session.rewind(len(read))
        assert session.length == len(read)


def test_a_prompt_in_chunks_gives_the_same_scores(target):
    pieces = target_session.TargetSession(target, layer_ids=TAPS, capacity=24, chunk=7)
    scores, (logits, features) = pieces.prefill(TOKENS[0].tolist()), whole(target, TOKENS[0].tolist())
    assert scores.logits.shape == (1, 1, target.vocab_size)
    assert_near(scores.logits[0], logits[-1:])
    assert_near(scores.features[0], features)


@pytest.mark.parametrize("kind", tiny_models.REFUSED)
def test_models_that_would_be_driven_wrongly_are_refused(kind):
    with pytest.raises(BackendUnavailable, match=tiny_models.REFUSED[kind][1]):
        Target(tiny_models.make(kind))


@pytest.mark.clause("DL-8")
def test_a_layer_that_keeps_its_state_elsewhere_is_refused():
    model = tiny_models.make("qwen3")
    attention = model.get_decoder().layers[2].self_attn
    own = attention.forward
    attention.forward = lambda *args, **kwargs: own(*args, **{**kwargs, "past_key_values": None})
    with pytest.raises(BackendUnavailable, match=r"layers \[2\] that keep no keys and values"):
        Target(model)


def hooks_of(target):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in target.model.modules()]


@pytest.mark.clause("DL-8")
def test_a_failing_pass_leaves_neither_hooks_nor_half_a_prompt(qwen):
    session = target_session.TargetSession(qwen, layer_ids=TAPS, capacity=24, chunk=4)
    session.prefill([5, 6])
    calls = []

    def fail_in_the_second_chunk(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    with qwen.model.get_decoder().layers[1].register_forward_hook(fail_in_the_second_chunk):
        before = hooks_of(qwen)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.prefill(list(range(3, 14)))
        assert hooks_of(qwen) == before
    assert session.length == 2
    assert_near(session.prefill([7]).logits[0], whole(qwen, [5, 6, 7])[0][-1:])


def test_a_tap_runs_no_layer_after_the_deepest(qwen):
    ran = []
    layers = qwen.model.get_decoder().layers
    handles = [layer.register_forward_hook(lambda *a, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    before = hooks_of(qwen)
    qwen.tap(TOKENS, [1, 0])
    assert hooks_of(qwen) == before
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_taps_can_take_part_in_training(qwen):
    weight = torch.ones(2 * tiny_models.WIDTH, requires_grad=True)
    (qwen.tap(TOKENS, TAPS) @ weight).sum().backward()
    assert weight.grad.abs().sum() > 0
    hidden = torch.ones(1, tiny_models.WIDTH, requires_grad=True)
    qwen.logits(hidden).square().sum().backward()
    assert hidden.grad.abs().sum() > 0 and qwen.head_weight.grad is None


# transformers dispatches experts by their counts, which it reads: mixtures wait, and are left out.
@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("target", [k for k in tiny_models.DRIVEN if "moe" not in k], indirect=True)
def test_scoring_reads_nothing_back(target):
    session = target.session(layer_ids=TAPS, capacity=24)
    session.prefill([4, 5, 6])
    with NoWaiting():
        session.score(7, torch.tensor([[8, 9]]))


def test_no_taps_give_no_features(qwen):
    session = qwen.session(capacity=4)
    assert session.prefill([4, 5]).features is None
    scores = session.score(6, torch.zeros(1, 0, dtype=torch.int32))
    assert scores.features is None and scores.logits.shape == (1, 1, tiny_models.VOCABULARY)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ShapeError, "at least one token", lambda s: s.prefill([])),
        (ShapeError, r"tokens\[1\]: got 60", lambda s: s.prefill([3, 60])),
        (ShapeError, r"tokens\[0\]: got -1", lambda s: s.prefill([-1])),
        (ShapeError, r"anchor\[0\]: got 60", lambda s: s.score(60, torch.zeros(1, 2, dtype=torch.int32))),
        (ShapeError, r"draft_tokens: got \(2,\)", lambda s: s.score(3, torch.tensor([4, 5]))),
        (ConfigError, "capacity: got 6; needs at most 4", lambda s: s.prefill([3, 4, 5, 6])),
        (ConfigError, "capacity: got 5; needs at most 4", lambda s: s.score(3, torch.tensor([[4, 5]]))),
    ],
)
@pytest.mark.clause("DL-8", "NT-3", "NT-4")
def test_bad_calls_are_named_and_change_nothing(qwen, error, words, call):
    session = qwen.session(layer_ids=TAPS, capacity=4)
    session.prefill([7, 8])
    with pytest.raises(error, match=words):
        call(session)
    assert session.length == 2
    assert_near(session.prefill([9]).logits[0], whole(qwen, [7, 8, 9])[0][-1:])


@pytest.mark.parametrize("layer_ids", [(4,), (-1,)])
def test_layer_ids_outside_the_model_are_refused(qwen, layer_ids):
    with pytest.raises(ConfigError, match=rf"layer_ids: got {layer_ids[0]}; needs ids in \[0, 4\)"):
        qwen.session(layer_ids=layer_ids, capacity=4)
    with pytest.raises(ConfigError, match=r"layer_ids"):
        qwen.tap(TOKENS, layer_ids)


PRODUCTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


@pytest.fixture
def precision():
    """Puts every setting of float32 products back."""
    yield
    for setting in (torch.backends, torch.backends.mkldnn, *PRODUCTS):
        setting.fp32_precision = "none"


@pytest.mark.clause("NU-6")
@pytest.mark.parametrize("setting", [*PRODUCTS, torch.backends])
def test_tf32_is_off_in_exact_paths_and_back_afterwards(setting, precision):
    setting.fp32_precision = "tf32"
    before = [products.fp32_precision for products in PRODUCTS]
    with exact_inference():
        assert {products.fp32_precision for products in PRODUCTS} <= {"none", "ieee"}
        assert torch.is_inference_mode_enabled()
    assert [products.fp32_precision for products in PRODUCTS] == before
    setting.fp32_precision = "none"
    assert [products.fp32_precision for products in PRODUCTS] == ["none", "none"], "nothing was left behind"


@pytest.mark.clause("NU-6")
def test_the_older_setting_of_tf32_is_off_in_exact_paths_and_back_afterwards(precision):
    torch.set_float32_matmul_precision("high")
    with exact_inference():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
