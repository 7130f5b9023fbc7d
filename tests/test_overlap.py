"""The fused operation of the two laws against float64 formulas written here, and what it allocates."""

import numpy as np
import pytest
import torch

from dspec.core.overlap import RowStatistics
from dspec.core.overlap import overlap_statistics as core_overlap_statistics
from dspec.core.signals import SIGNALS
from dspec.errors import ConfigError, ShapeError
from tests.rooms import ROOMS
from tests.test_gold import Watch, assert_close
from tests.tolerances import (
    BF16_GRADIENT,
    DIVERGENCE_F32,
    FLOAT32_LOG_PROB,
    FLOAT64,
    MLX_GOLD_GRADIENT,
    OVERLAP_BF16,
)

TORCH = ROOMS["torch"]
FIELDS = {"gold": "log_prob", "overlap": "overlap", "divergence": "divergence", "mixed": "mixed"}
ETA = 2.0  # of `mixed`
# MLX is judged in float32: its exp is float32's in float64 too (tests/namespaces.py).
FINEST = {"torch": ("float64", FLOAT64, FLOAT64), "mlx": ("float32", FLOAT32_LOG_PROB, MLX_GOLD_GRADIENT)}


def problem(room, dtype="float32", *, rows=37, width=12, vocab=101, scale=1.0, seed=0):
    """Hidden states, head, target's states, labels and weights of rows, as the room's arrays."""
    random = np.random.default_rng(seed)
    hidden, target, head = (random.normal(size=(n, width)).astype(np.float32) for n in (rows, rows, vocab))
    target = 0.7 * scale * hidden + 0.5 * target  # laws that overlap, as those of a drafter in training
    labels, weights = random.integers(0, vocab, rows), random.random(rows, dtype=np.float32)
    narrow = [room.array(x, dtype) for x in (scale * hidden, head, target)]
    return *narrow, room.array(labels), room.array(weights)


def gradients(room, function, hidden, head, target, labels, weights, **options):
    """By signal, the gradient of the weighted sum of its statistic, as numpy."""

    held = {"eta": ETA, "xp": room.xp, "stop_gradient": room.stop_gradient, **options}

    def value(hidden, field):
        rows = function(hidden, head, target, labels, **held)
        return (weights * getattr(rows, field)).sum()

    wanted = options.get("signals", SIGNALS)
    return {s: room.gradient(lambda h, f=FIELDS[s]: value(h, f), hidden) for s in wanted}


def reference(room, hidden, head, target, labels, weights, *, temperature=1.0, softcap=None, eta=ETA):
    """Statistics and gradients in float64 by formulas of probabilities, whatever the room."""
    hidden, head, target = (room.numpy(x).astype(np.float64) for x in (hidden, head, target))
    labels, weights = room.numpy(labels), room.numpy(weights).astype(np.float64)[:, None]
    drafted, expected = hidden @ head.T, target @ head.T
    slope = np.ones_like(drafted)
    if softcap is not None:
        slope = 1 - np.tanh(drafted / softcap) ** 2
        drafted, expected = (softcap * np.tanh(x / softcap) for x in (drafted, expected))
    log_q, log_p = (x - np.logaddexp.reduce(x, axis=1)[:, None] for x in (drafted, expected / temperature))
    q, p = np.exp(log_q), np.exp(log_p)
    own, below = np.eye(q.shape[1])[labels], (q < p) * q
    by_logit = {"gold": own - q, "overlap": below - q * below.sum(axis=1)[:, None], "divergence": q - p}
    numbers = {
        "log_prob": log_q[np.arange(len(q)), labels],
        "hit": log_q.argmax(axis=1) == labels,
        "overlap": 1 - np.abs(p - q).sum(axis=1) / 2,
        "divergence": (p * (log_p - log_q)).sum(axis=1),
    }
    share = np.exp(-eta * numbers["overlap"])
    numbers["mixed"] = share * numbers["divergence"] + (1 - share) * (1 - numbers["overlap"])
    # The share is held: no derivative of it.
    by_logit["mixed"] = (share * by_logit["divergence"].T - (1 - share) * by_logit["overlap"].T).T
    return numbers, {s: weights * ((x * slope) @ head) for s, x in by_logit.items()}


def check(room, arguments, *, value, slope, **options):
    """Compare values and gradients with the reference, absolutely."""
    options = {"eta": ETA, **options}
    stated = {k: options[k] for k in ("temperature", "softcap", "eta") if k in options}
    numbers, slopes = reference(room, *arguments, **stated)
    function = room.overlap.overlap_statistics
    rows = function(*arguments[:4], xp=room.xp, **options)
    for field, expected in numbers.items():
        assert_close(room.numpy(getattr(rows, field)), expected, value)
    for signal, found in gradients(room, function, *arguments, **options).items():
        np.testing.assert_allclose(found, slopes[signal], atol=slope, rtol=0, err_msg=signal)


@pytest.mark.clause("OB-12", "OB-16")
@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"temperature": 0.5, "softcap": 3.0, "eta": 0.5}])
@pytest.mark.parametrize("chunk", [1, 8, 37, 64])
def test_values_and_gradients_are_those_of_the_formulas(room, options, chunk):
    dtype, value, slope = FINEST[room.name]
    check(room, problem(room, dtype), value=value, slope=slope, chunk=chunk, **options)


@pytest.mark.clause("OB-12")
@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
def test_float32_at_a_temperature(room, temperature):
    arguments = problem(room, vocab=1001, scale=0.5)
    check(room, arguments, temperature=temperature, chunk=8, value=DIVERGENCE_F32, slope=DIVERGENCE_F32)


@pytest.mark.clause("OB-12")
def test_equals_core(room):
    dtype, value, slope = FINEST[room.name]
    arguments = problem(room, dtype)
    ours, core = (
        (function(*arguments[:4], eta=ETA, xp=room.xp), gradients(room, function, *arguments))
        for function in (room.overlap.overlap_statistics, core_overlap_statistics)
    )
    for field in RowStatistics._fields:
        assert_close(*(room.numpy(getattr(x[0], field)) for x in (ours, core)), value)
    for signal in SIGNALS:
        assert_close(ours[1][signal], core[1][signal], slope)


@pytest.mark.clause("NU-2")
def test_bfloat16_statistics_are_float32(room):
    arguments = problem(room, "bfloat16", vocab=1001)
    wide = room.array(room.numpy(arguments[0])), *arguments[1:]
    ours, core = (
        (function(*wide[:4], eta=ETA, xp=room.xp), gradients(room, function, *wide))
        for function in (room.overlap.overlap_statistics, core_overlap_statistics)
    )
    # Core makes the same bfloat16 logits: what differs is the arithmetic after them.
    for field in FIELDS.values():
        assert room.numpy(getattr(ours[0], field)).dtype == np.float32
        assert_close(*(room.numpy(getattr(x[0], field)) for x in (ours, core)), FLOAT32_LOG_PROB)
    for signal in SIGNALS:
        error = np.linalg.norm(ours[1][signal] - core[1][signal]) / np.linalg.norm(core[1][signal])
        assert error < OVERLAP_BF16, signal
    assert BF16_GRADIENT < OVERLAP_BF16  # no looser than it need be: see the table


@pytest.mark.clause("OB-12")
def test_equal_laws_overlap_wholly_and_have_no_gradient(room):
    """A tie is not below, so that the overlap's gradient is 0 and not q times a rounding."""
    hidden, head, _, labels, weights = problem(room)
    arguments = hidden, head, hidden, labels, weights
    rows = room.overlap.overlap_statistics(*arguments[:4], xp=room.xp)
    assert_close(room.numpy(rows.overlap), 1.0, FLOAT32_LOG_PROB)
    assert_close(room.numpy(rows.divergence), 0.0, FLOAT32_LOG_PROB)
    found = gradients(room, room.overlap.overlap_statistics, *arguments)
    assert all((found[signal] == 0).all() for signal in ("overlap", "divergence", "mixed"))
    assert np.abs(found["gold"]).max() > 1e-2


@pytest.mark.clause("OB-10")
def test_finite_where_the_laws_are_far_apart(room):
    """Logits of 1e4: each law is one token, and the divergence is a difference of logits."""
    arguments = problem(room, scale=1e3)
    head, hidden, target = arguments[1], arguments[0], arguments[2]
    rows = room.overlap.overlap_statistics(hidden, head, -target, arguments[3], xp=room.xp)
    assert room.numpy(rows.overlap).max() < 1e-6 and room.numpy(rows.divergence).min() > 1e2
    found = gradients(room, room.overlap.overlap_statistics, hidden, head, -target, *arguments[3:])
    assert all(np.isfinite(x).all() for x in found.values())


@pytest.mark.clause("OB-12")
def test_a_target_that_is_sure_of_the_gold_token_makes_gold_s_gradient(room):
    """Then KL is cross-entropy, and the overlap is the gold probability."""
    hidden, head, _, labels, weights = problem(room, scale=0.3)
    sure = room.array(80 * room.numpy(head)[room.numpy(labels)])
    rows = room.overlap.overlap_statistics(hidden, head, sure, labels, xp=room.xp)
    peaks = room.numpy(sure) @ room.numpy(head).T
    lead = np.sort(peaks, axis=1)[:, -1] - np.sort(peaks, axis=1)[:, -2]
    certain = (peaks.argmax(axis=1) == room.numpy(labels)) & (lead > 30)
    assert certain.sum() > 10
    log_prob, overlap, divergence = (
        room.numpy(x)[certain] for x in (rows.log_prob, rows.overlap, rows.divergence)
    )
    assert_close(divergence, -log_prob, FLOAT32_LOG_PROB)
    assert_close(overlap, np.exp(log_prob), FLOAT32_LOG_PROB)
    found = gradients(room, room.overlap.overlap_statistics, hidden, head, sure, labels, weights)
    assert_close(found["divergence"][certain], -found["gold"][certain], FLOAT32_LOG_PROB)


@pytest.mark.clause("OB-12")
def test_a_row_of_weight_0_gets_no_gradient_and_no_rows_are_fine(room):
    *arguments, weights = problem(room)
    weights = room.array(room.numpy(weights) * (np.arange(37) % 3 > 0))
    found = gradients(room, room.overlap.overlap_statistics, *arguments, weights, chunk=8)
    for grad in found.values():
        assert (grad[::3] == 0).all() and (np.abs(grad[1::3]).max(axis=1) > 0).all()
    hidden, head, target, labels = arguments
    rows = room.overlap.overlap_statistics(hidden[:0], head, target[:0], labels[:0], xp=room.xp)
    assert [tuple(x.shape) for x in rows] == [(0,)] * 5


@pytest.mark.clause("OB-16")
@pytest.mark.parametrize(("eta", "like", "sign"), [(0.0, "divergence", 1), (1e6, "overlap", -1)])
def test_the_mix_begins_as_the_divergence_and_ends_as_total_variation(room, eta, like, sign):
    arguments, function = problem(room), room.overlap.overlap_statistics
    rows = function(*arguments[:4], xp=room.xp, eta=eta)
    expected = room.numpy(getattr(rows, like)) if sign == 1 else 1 - room.numpy(rows.overlap)
    assert_close(room.numpy(rows.mixed), expected, FLOAT32_LOG_PROB)
    found = gradients(room, function, *arguments, eta=eta)
    assert_close(found["mixed"], sign * found[like], MLX_GOLD_GRADIENT)


@pytest.mark.clause("OB-12")
@pytest.mark.parametrize(
    "wanted",
    [("gold",), ("overlap",), ("divergence",), ("divergence", "gold"), ("mixed",), ("gold", "mixed"), ()],
)
def test_signals_choose_gradients_not_values(room, wanted):
    arguments = problem(room)
    function = room.overlap.overlap_statistics
    all_of_them = function(*arguments[:4], xp=room.xp)
    some = function(*arguments[:4], xp=room.xp, signals=wanted)
    for field in RowStatistics._fields:
        assert (room.numpy(getattr(some, field)) == room.numpy(getattr(all_of_them, field))).all()
    expected = gradients(room, function, *arguments)
    for signal, found in gradients(room, function, *arguments, signals=wanted).items():
        assert (found == expected[signal]).all()


@pytest.mark.clause("OB-12")
@pytest.mark.parametrize("fused", [True, False])
def test_what_does_not_agree_is_refused_as_in_core(room, fused):
    function = room.overlap.overlap_statistics if fused else core_overlap_statistics
    hidden, head, target, labels, _ = problem(room)
    for wrong in (
        (hidden[:, :-1], head, target, labels),
        (hidden, head, target[:-1], labels),
        (hidden, head, target, labels[:-1]),
        (hidden, head, target, room.array(room.numpy(labels), "float32")),
    ):
        with pytest.raises(ShapeError):
            function(*wrong, xp=room.xp)
    for temperature in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match="temperature"):
            function(hidden, head, target, labels, temperature=temperature, xp=room.xp)
    for eta in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"eta.*\[OB-16\]"):
            function(hidden, head, target, labels, eta=eta, xp=room.xp)


def test_an_unknown_signal_is_refused(room):
    with pytest.raises(ConfigError, match="entropy"):
        room.overlap.overlap_statistics(*problem(room)[:4], xp=room.xp, signals=("gold", "entropy"))


# What only torch can show.


@pytest.mark.parametrize("wanted", [SIGNALS, ("gold",), ("mixed",), ("overlap", "divergence"), ()])
def test_one_product_a_wanted_signal(wanted):
    hidden, *others, _ = problem(TORCH)
    hidden.requires_grad_()
    with Watch() as watch:
        rows = TORCH.overlap.overlap_statistics(hidden, *others, signals=wanted)
    assert watch.products == 2 + len(wanted)
    assert [getattr(rows, FIELDS[s]).requires_grad for s in SIGNALS] == [s in wanted for s in SIGNALS]


def test_without_gradient_two_products_and_no_unit_gradients():
    hidden, *others, _ = problem(TORCH)
    hidden.requires_grad_()
    with torch.no_grad(), Watch() as watch:
        rows = TORCH.overlap.overlap_statistics(hidden, *others)
    assert watch.products == 2 and not any(x.requires_grad for x in rows)


@pytest.mark.parametrize("signal", ["overlap", "mixed"])
@pytest.mark.parametrize(("dtype", "softcap", "arrays"), [("float32", None, 3), ("bfloat16", 9.0, 5)])
def test_few_arrays_of_a_chunk_by_the_vocabulary(dtype, softcap, arrays, signal):
    class New(Watch):
        """Counts the arrays of that size that do not share another's memory."""

        def __init__(self):
            super().__init__()
            self.places = set()

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = super().__torch_dispatch__(function, types, arguments, keywords)
            for x in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(x, torch.Tensor) and x.numel() == 16 * 997:
                    self.places.add(x.untyped_storage().data_ptr())
            return result

    arguments = problem(TORCH, dtype, rows=64, vocab=997)
    with New() as made:
        options = {"chunk": 16, "softcap": softcap, "signals": (signal,)}
        gradients(TORCH, TORCH.overlap.overlap_statistics, *arguments, **options)
    assert made.elements == max(16 * 997, arguments[1].numel())
    assert len(made.places) == arrays


def test_a_head_that_wants_a_gradient_is_refused():
    hidden, head, target, labels, _ = problem(TORCH)
    with pytest.raises(ConfigError, match="frozen"):
        TORCH.overlap.overlap_statistics(hidden, head.requires_grad_(), target, labels)
