"""The chunked overlap operation on MLX: against a float64 reference, and what it multiplies."""

import numpy as np
import pytest

from dspec.core.overlap import overlap_statistics as core_overlap_statistics
from dspec.core.signals import SIGNALS
from dspec.errors import ConfigError, ShapeError
from tests.rooms import ROOMS
from tests.test_gold import assert_close, problem
from tests.tolerances import BF16_GRADIENT, FLOAT32, FLOAT32_LOG_PROB, MLX_GOLD_GRADIENT

MLX = ROOMS["mlx"]
pytestmark = [
    pytest.mark.mlx,
    pytest.mark.skipif(not MLX.installed, reason="mlx is not installed"),
]

FIELDS = {"gold": "log_prob", "overlap": "overlap", "divergence": "divergence", "mixed": "mixed"}
ETA = 2.0  # of `mixed`


def pair(dtype="float32", *, seed=0, **sizes):
    """Hidden states, head, the target's hidden states near them, and labels."""
    hidden, head, labels, _ = problem(MLX, dtype, seed=seed, **sizes)
    noise = np.random.default_rng(seed + 1).normal(size=hidden.shape).astype(np.float32)
    return hidden, head, MLX.array(MLX.numpy(hidden) + 0.5 * noise, dtype), labels


def statistics(*arrays, **options):
    return MLX.overlap.overlap_statistics(*arrays, xp=MLX.xp, **{"eta": ETA, **options})


def gradient(function, hidden, *rest, signal, weights=None, **options):
    """Gradient of the weighted sum of one statistic with respect to the hidden states, as numpy."""

    options = {"eta": ETA, "xp": MLX.xp, "stop_gradient": MLX.stop_gradient, **options}

    def value(hidden):
        column = getattr(function(hidden, *rest, **options), FIELDS[signal])
        return (column if weights is None else weights * column).sum()

    return MLX.gradient(value, hidden)


def laws(hidden, head, softcap, temperature=1.0):
    """Float64 log-law (R, V) and the slope of its logits in the head's product."""
    logits = hidden @ head.T
    slope = np.ones_like(logits)
    if softcap is not None:
        slope = 1 - np.tanh(logits / softcap) ** 2
        logits = softcap * np.tanh(logits / softcap)
    shifted = logits / temperature - (logits / temperature).max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), slope


def reference(hidden, head, target, labels, *, softcap=None, temperature=1.0):
    """Float64 statistics, and the gradient (R, D) of each signal."""
    hidden, head, target = (MLX.numpy(x).astype(np.float64) for x in (hidden, head, target))
    rows, labels = np.arange(len(hidden)), MLX.numpy(labels)
    (log_q, slope), (log_p, _) = laws(hidden, head, softcap), laws(target, head, softcap, temperature)
    p, q = np.exp(log_p), np.exp(log_q)
    values = {
        "gold": log_q[rows, labels],
        "overlap": np.minimum(p, q).sum(axis=1),
        "divergence": (p * (log_p - log_q)).sum(axis=1),
    }
    onehot = np.zeros_like(q)
    onehot[rows, labels] = 1
    below = q * (q < p)
    by_logit = {
        "gold": onehot - q,
        "overlap": below - q * below.sum(axis=1, keepdims=True),
        "divergence": q - p,
    }
    share = np.exp(-ETA * values["overlap"])
    values["mixed"] = share * values["divergence"] + (1 - share) * (1 - values["overlap"])
    # The share is held: no derivative of it.
    by_logit["mixed"] = (share * by_logit["divergence"].T - (1 - share) * by_logit["overlap"].T).T
    return values, q.argmax(axis=1) == labels, {name: (x * slope) @ head for name, x in by_logit.items()}


@pytest.mark.clause("OB-12", "OB-16")
@pytest.mark.parametrize(("softcap", "temperature"), [(None, 1.0), (3.0, 0.7)])
@pytest.mark.parametrize("chunk", [1, 8, 37, 64])
def test_values_and_gradients_are_those_of_float64(chunk, softcap, temperature):
    arrays, laws = pair(), {"softcap": softcap, "temperature": temperature}
    values, hit, slopes = reference(*arrays, **laws)
    ours = statistics(*arrays, chunk=chunk, **laws)
    assert (MLX.numpy(ours.hit) == hit).all()
    for signal, field in FIELDS.items():
        column = MLX.numpy(getattr(ours, field))
        assert column.dtype == np.float32
        assert_close(column, values[signal], FLOAT32_LOG_PROB)
        found = gradient(
            MLX.overlap.overlap_statistics, *arrays, signal=signal, chunk=chunk, signals=(signal,), **laws
        )
        assert np.abs(slopes[signal]).max() > 0.1
        assert_close(found, slopes[signal], MLX_GOLD_GRADIENT)


@pytest.mark.clause("OB-12")
def test_one_pass_gives_the_gradient_of_any_sum_of_signals():
    hidden, *rest = pair()
    weights = dict(zip(SIGNALS, np.random.default_rng(3).random((len(SIGNALS), 37), dtype=np.float32)))

    def value(hidden):
        rows = statistics(hidden, *rest, chunk=8)
        return sum((MLX.array(weights[name]) * getattr(rows, FIELDS[name])).sum() for name in SIGNALS)

    _, _, slopes = reference(hidden, *rest)
    exact = sum(weights[name][:, None] * slopes[name] for name in SIGNALS)
    assert_close(MLX.gradient(value, hidden), exact, MLX_GOLD_GRADIENT)


@pytest.mark.clause("OB-10")
@pytest.mark.parametrize("vocab", [151_936, 151_937])
def test_statistics_keep_their_digits_over_a_real_vocabulary(vocab):
    """Terms added one by one in float32 would be 9e-5 off."""
    arrays = pair(rows=3, width=4, vocab=vocab)
    values, _, _ = reference(*arrays)
    ours = statistics(*arrays)
    for signal, field in FIELDS.items():
        assert_close(MLX.numpy(getattr(ours, field)), values[signal], FLOAT32_LOG_PROB)


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("signal", SIGNALS)
def test_bfloat16_statistics_are_float32(signal, softcap):
    arrays = pair("bfloat16", vocab=1001)
    ours = statistics(*arrays, softcap=softcap, chunk=8)
    core = core_overlap_statistics(*arrays, softcap=softcap, eta=ETA, xp=MLX.xp)
    # Core makes the same bfloat16 logits: what differs is the arithmetic after them.
    for one, other in zip(ours, core):
        assert one.dtype == other.dtype
        assert_close(MLX.numpy(one).astype(float), MLX.numpy(other).astype(float), FLOAT32_LOG_PROB)
    found, plain = (
        gradient(function, *arrays, signal=signal, softcap=softcap)
        for function in (MLX.overlap.overlap_statistics, core_overlap_statistics)
    )
    assert np.linalg.norm(found - plain) / np.linalg.norm(plain) < BF16_GRADIENT


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("signal", SIGNALS)
def test_float32_hidden_states_over_a_float16_head_keep_a_float32_gradient(signal):
    hidden, *rest = pair("float16", vocab=1001)
    wide = MLX.array(MLX.numpy(hidden))
    tiny = MLX.array(np.full(37, 1e-9, dtype=np.float32))  # as of one block among many
    narrow, ours, whole = (
        gradient(MLX.overlap.overlap_statistics, x, *rest, signal=signal, weights=weights)
        for x, weights in ((hidden, tiny), (wide, tiny), (wide, None))
    )
    assert (narrow == 0).all()  # below float16's smallest number: what the wide hidden states are for
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(ours, 1e-9 * whole, rtol=FLOAT32)


@pytest.mark.clause("OB-12")
def test_equal_laws_overlap_whole_and_give_no_gradient():
    """q = p is a tie everywhere: no q counts as below p."""
    hidden, head, _, labels = pair()
    rows = statistics(hidden, head, hidden, labels, chunk=8)
    assert_close(MLX.numpy(rows.overlap), 1.0, FLOAT32_LOG_PROB)
    assert (MLX.numpy(rows.divergence) == 0).all()
    for signal in ("overlap", "divergence", "mixed"):
        found = gradient(MLX.overlap.overlap_statistics, hidden, head, hidden, labels, signal=signal)
        assert (found == 0).all()


@pytest.mark.clause("OB-10")
@pytest.mark.parametrize("signal", SIGNALS)
def test_finite_at_extreme_logits(signal):
    hidden, head, target, labels = pair(scale=1e4)
    far = MLX.array(-MLX.numpy(target))
    rows = statistics(hidden, head, far, labels, temperature=0.1, chunk=8)
    assert MLX.numpy(rows.divergence).max() > 1e4 and MLX.numpy(rows.overlap).min() == 0
    assert all(np.isfinite(MLX.numpy(x)).all() for x in rows)
    found = gradient(MLX.overlap.overlap_statistics, hidden, head, far, labels, signal=signal, chunk=8)
    assert np.isfinite(found).all()


class Counted:
    """A stand-in for a quantised head: it has no array, and notes its products."""

    def __init__(self, weight):
        self.dtype, self.shape, self.calls, self._weight = weight.dtype, weight.shape, [], weight

    def logits(self, hidden):
        self.calls.append("logits")
        return hidden @ self._weight.T

    def back(self, weights):
        self.calls.append("back")
        return weights @ self._weight


@pytest.mark.clause("OB-12")
@pytest.mark.parametrize("signals", [(), ("overlap",), ("mixed",), ("divergence", "gold"), SIGNALS])
def test_signals_not_wanted_cost_no_product_and_carry_no_gradient(signals):
    hidden, weight, target, labels = pair()
    _, _, slopes = reference(hidden, weight, target, labels)
    broken = MLX.array(np.full(37, np.nan, dtype=np.float32))
    for signal in SIGNALS:
        head, wanted = Counted(weight), signal in signals
        found = gradient(
            MLX.overlap.overlap_statistics, hidden, head, target, labels,
            signal=signal, signals=signals, weights=None if wanted else broken,
        )  # fmt: skip
        assert head.calls == ["logits"] * 2 + ["back"] * len(signals)
        assert_close(found, slopes[signal] if wanted else 0 * found, MLX_GOLD_GRADIENT)


@pytest.mark.clause("OB-12")
def test_without_gradient_one_that_is_taken_is_no_number():
    hidden, weight, target, labels = pair()
    head = Counted(weight)
    rows = statistics(hidden, head, target, labels, gradient=False, chunk=64)
    assert head.calls == ["logits"] * 2
    assert all((MLX.numpy(a) == MLX.numpy(b)).all() for a, b in zip(rows, statistics(*pair(), chunk=64)))
    found = gradient(
        MLX.overlap.overlap_statistics, hidden, head, target, labels, signal="overlap", gradient=False
    )
    assert np.isnan(found).all()


@pytest.mark.clause("OB-12")
def test_the_target_gets_no_gradient_and_the_head_one_that_is_no_number():
    hidden, head, target, labels = pair()
    for gradient in (True, False):

        def value(x, place, gradient=gradient):
            arrays = [hidden, head, target]
            arrays[place] = x
            return sum(x.sum() for x in statistics(*arrays, labels, gradient=gradient))

        assert (MLX.gradient(lambda x: value(x, 2), target) == 0).all()
        assert np.isnan(MLX.gradient(lambda x: value(x, 1), head)).all()


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_quantised_head_is_multiplied_as_it_is(signal, softcap):
    from mlx import nn

    hidden, head, target, labels = pair(width=64, vocab=128, scale=0.2)
    linear = nn.Linear(64, 128, bias=False)
    linear.weight = head
    packed = MLX.head.Head(nn.QuantizedLinear.from_linear(linear, group_size=32, bits=4))
    values, _, slopes = reference(hidden, packed.weight, target, labels, softcap=softcap)
    rows = statistics(hidden, packed, target, labels, softcap=softcap, chunk=8)
    found = gradient(
        MLX.overlap.overlap_statistics, hidden, packed, target, labels, signal=signal, softcap=softcap
    )
    assert_close(MLX.numpy(getattr(rows, FIELDS[signal])), values[signal], FLOAT32_LOG_PROB)
    assert_close(found, slopes[signal], MLX_GOLD_GRADIENT)
    dense, _, _ = reference(hidden, head, target, labels, softcap=softcap)
    assert np.abs(dense[signal] - values[signal]).max() > 1e-3  # 4 bits are not the matrix they were made of


def test_stages_change_no_number():
    arrays, stages = pair(), []
    ours = statistics(*arrays, chunk=8, stages=stages)
    assert len(stages) >= 8 * 5
    MLX.gold.run_stages(stages)
    assert not stages
    assert all((MLX.numpy(a) == MLX.numpy(b)).all() for a, b in zip(ours, statistics(*arrays, chunk=8)))


def test_no_rows():
    hidden, head, target, labels = pair()
    empty = hidden[:0], head, target[:0], labels[:0]
    assert [x.shape for x in statistics(*empty)] == [(0,)] * 5
    assert gradient(MLX.overlap.overlap_statistics, *empty, signal="overlap").shape == (0, 12)


@pytest.mark.clause("OB-12")
def test_what_does_not_fit_is_refused_as_in_core():
    hidden, head, target, labels = pair()
    for function in (MLX.overlap.overlap_statistics, core_overlap_statistics):
        with pytest.raises(ShapeError):
            function(hidden, head, target[:, :-1], labels, xp=MLX.xp)
        with pytest.raises(ConfigError, match="temperature"):
            function(hidden, head, target, labels, temperature=0.0, xp=MLX.xp)
    with pytest.raises(ConfigError, match=r"'acceptance'.*gold, overlap, divergence"):
        statistics(hidden, head, target, labels, signals=("gold", "acceptance"))
