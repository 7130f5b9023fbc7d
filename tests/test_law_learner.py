"""Learners whose objective reads the target's law, changes over the run, or leaves out rows."""

import numpy as np
import pytest

from dspec.core import objectives
from dspec.core.objectives import Law, Objective, Progress
from dspec.core.overlap import overlap_statistics
from dspec.errors import ConfigError
from tests.core_objective_cases import example
from tests.namespaces import place, to_numpy
from tests.rooms import ROOMS
from tests.test_learner import check_equal, cut, gradient, weights_of
from tests.tiny_training import make_config, make_learner, make_target
from tests.tolerances import TRAINING_GRADIENT

TEXTS = ("cat", "kl(3)", "lk+decay(5)", "overlap_chain+decay(10)", "log_overlap")
TEXTS += ("reach(0.5, temperature=0.7)", "lk(2, 3)+tv+kl(3)+lk(2)")


@pytest.fixture(scope="module")
def target(room):
    return make_target(room)


def read(room, target, config, parts=1):
    ids = (0, 1)
    return [room.micro_batch.MicroBatch.read(target, p, ids, law=True) for p in cut(config).split(parts)]


@pytest.mark.clause("OB-12")
def test_the_target_s_states_are_those_before_each_label(room, target):
    """The head of such a state is what the target says of the label: its own logits there."""
    config = make_config()
    blocks = cut(config)
    part = room.micro_batch.MicroBatch.read(target, blocks, (0, 1), law=True)
    _, final = target.read(room.array(blocks.tokens), (0, 1))
    final, states, labels = map(room.numpy, (final, part.states, part.labels))
    found = 0
    for b, block in zip(*np.nonzero(blocks.keep)):
        for k in np.flatnonzero(blocks.mask[b, block]):
            place = blocks.anchors[b, block] + k
            np.testing.assert_array_equal(states[found], final[b, place])
            assert labels[found] == blocks.tokens[b, place + 1]
            found += 1
    assert found == len(states) > 0


@pytest.mark.clause("OB-12", "BD-5")
def test_reading_the_law_changes_no_feature(room, target):
    ids = room.array(cut(make_config()).tokens)
    features, final = target.read(ids, (0, 1))
    np.testing.assert_array_equal(room.numpy(features), room.numpy(target.tap(ids, (0, 1))))
    session = target.session(layer_ids=(), capacity=64)
    scores = session.prefill([int(t) for t in room.numpy(ids)[0]])
    np.testing.assert_allclose(
        room.numpy(target.logits(final))[0, -1], room.numpy(scores.logits)[0, -1], atol=TRAINING_GRADIENT
    )


@pytest.mark.clause("OB-12", "OB-15", "OB-16", "OB-17", "OB-19")
@pytest.mark.parametrize("overrides", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_gradient_is_that_of_the_objective_by_autograd(text, overrides):
    torch = pytest.importorskip("torch", reason="the reference gradient is torch's own")
    room = ROOMS["torch"]
    target, config = make_target(room), make_config()
    (part,) = read(room, target, config)
    learner = make_learner(room, target, config, text, overrides=overrides)
    value, grads = gradient(room, learner, [part])
    drafter, head, xp = learner.drafter, target.head_weight, room.xp
    context = drafter.fuse(part.features)
    hidden = drafter(part.embeds, part.positions, context, part.context_positions, part.mask)
    hidden = hidden.flatten(0, 1)[part.rows]
    objective = Objective.parse(text)
    options = {"temperature": objective.temperature, "xp": xp}
    # The mix of lk is not asked for: `sums` makes it of overlap and divergence.
    rows = overlap_statistics(hidden, head, part.states, part.labels, **options)
    confidence = torch.log_softmax(part.states @ head.T, 1).gather(1, part.labels[:, None])[:, 0]

    def spread(x):
        blank = x.new_zeros(part.supervised.numel())
        return blank.index_copy(0, part.slots, x).view(part.supervised.shape)

    law = Law(spread(rows.overlap), spread(rows.divergence), spread(confidence))
    seen_by = (spread(rows.log_prob), spread(rows.hit), part.supervised)
    total = objectives.sums(objective, *seen_by, law=law, xp=xp, stop_gradient=torch.Tensor.detach)
    expected = objectives.value(objective, total, xp=xp)
    slopes = torch.autograd.grad(expected, list(drafter.parameters()))
    names = [name for name, _ in drafter.named_parameters()]
    assert value == pytest.approx(expected.item(), abs=TRAINING_GRADIENT, rel=1e-5)
    check_equal(grads, {name: slope.numpy() for name, slope in zip(names, slopes)})


@pytest.mark.clause("OB-7", "OB-12")
@pytest.mark.parametrize("reduction", ["block_sum", "weighted_mean"])
@pytest.mark.parametrize("text", [*TEXTS, "auf", "revive+dpace_continuation"])
def test_any_partition_gives_the_same_gradient(room, target, text, reduction):
    config = make_config(reduction=reduction)
    both = []
    for parts in (1, 4):
        learner = make_learner(room, target, config, text)
        both.append(gradient(room, learner, read(room, target, config, parts)))
    assert both[0][0] == pytest.approx(both[1][0], rel=1e-5, abs=TRAINING_GRADIENT)
    check_equal(both[1][1], both[0][1])


@pytest.mark.clause("OB-12")
def test_overrides_and_core_learn_alike(room, target):
    config = make_config()
    both = []
    for overrides in (True, False):
        learner = make_learner(room, target, config, "lk(3, 10)+reach+decay(10)", overrides=overrides)
        both.append(gradient(room, learner, read(room, target, config))[1])
    check_equal(*both)


@pytest.mark.clause("OB-18")
def test_a_schedule_moves_with_the_steps(room, target):
    """A step of a scheduled run is the step of a run with that step's numbers."""
    config = make_config(steps=3)
    part = cut(config)
    scheduled = make_learner(room, target, config, "decay(4->8)+chain(0->40)")
    fixed = [make_learner(room, target, config, text) for text in ("decay(4)+chain(0)", "decay(6)+chain(20)")]
    batch = [room.micro_batch.MicroBatch.read(target, part, (0, 1))]
    reports = [learner.train_step(batch) for learner in (scheduled, fixed[0])]
    assert reports[0] == reports[1]
    before = weights_of(room, scheduled)
    fixed[1].restore(scheduled.state(), 1)
    reports = [learner.train_step(batch, Progress(1, 3)) for learner in (scheduled, fixed[1])]
    assert reports[0] == reports[1]
    after, same = weights_of(room, scheduled), weights_of(room, fixed[1])
    assert all((after[name] == same[name]).all() for name in after)
    assert any((after[name] != before[name]).any() for name in after)
    assert str(scheduled.now) == "decay(6)+chain(20)"


@pytest.mark.clause("OB-16", "OB-18")
@pytest.mark.parametrize("overrides", [True, False])
def test_a_scheduled_eta_reaches_the_mix(room, target, overrides):
    config, options = make_config(steps=3), {"overrides": overrides}
    scheduled, fixed, other = (
        make_learner(room, target, config, text, **options)
        for text in ("lk(0->3, 10)+lk(0->3)", "lk(1.5, 10)+lk(1.5)", "lk(3, 10)+lk(3)")
    )
    parts = read(room, target, config)
    reports = [x.train_step(parts, Progress(1, 3)) for x in (scheduled, fixed, other)]
    assert reports[0] == reports[1] and reports[0].grad_norm != reports[2].grad_norm
    after, same = weights_of(room, scheduled), weights_of(room, fixed)
    assert all((after[name] == same[name]).all() for name in after)


@pytest.mark.clause("OB-12")
def test_a_micro_batch_without_the_target_s_states_is_refused(room, target):
    config = make_config()
    learner = make_learner(room, target, config, "kl")
    part = room.micro_batch.MicroBatch.read(target, cut(config), (0, 1))
    with pytest.raises(ConfigError, match="law=True"):
        learner.forward(part)


@pytest.mark.clause("OB-21")
def test_rows_of_no_weight_may_be_left_out():
    room = ROOMS["torch"]
    target = make_target(room)
    exact = make_config()
    parts = [room.micro_batch.MicroBatch.read(target, cut(exact), (0, 1))]
    found = []
    for skip in (0.0, 0.05):
        found.append(gradient(room, make_learner(room, target, make_config(skip=skip), "chain(40)"), parts))
        assert ("runs" in vars(parts[0])) == (skip > 0)  # made for whom reads them
    values, grads = zip(*found)
    assert values[0] == values[1]
    flat = [np.concatenate([g.ravel() for g in one.values()]) for one in grads]
    error = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
    assert 1e-6 < error < 0.2  # something was left out, and not much


@pytest.mark.clause("OB-21")
def test_rows_kept_are_those_above_the_share(xp):
    batch = place(example(), xp)
    for text in ("chain", "dpace(0)", "auf", "decay(2)", "decay(1)+chain(0.5)"):
        objective = Objective.parse(text)
        total = objectives.sums(objective, *batch, xp=xp)
        c = to_numpy(objectives.weights(objective, *batch, total, xp=xp))
        for skip in (0.0, 0.1, 0.9):
            kept = to_numpy(objectives.keep_rows(objective, *batch, skip, xp=xp))
            assert (kept == ((c >= skip * c.max()) & (c > 0))).all(), (text, skip)


@pytest.mark.clause("OB-21")
def test_a_first_error_is_never_left_out(xp):
    log_prob, hit, mask = example()
    objective = Objective.parse("chain+first_error(0.3)")
    kept = to_numpy(objectives.keep_rows(objective, *place((log_prob - 9, hit, mask), xp), 0.9, xp=xp))
    first = np.cumsum(mask & ~hit, axis=1) == 1
    assert kept[first & mask & ~hit].all() and kept.sum() < mask.sum()


@pytest.mark.clause("OB-21")
def test_what_cannot_leave_out_rows_refuses(room, target):
    config = make_config(skip=0.1)
    with pytest.raises(ConfigError, match="skip"):
        make_learner(room, target, config, "kl")
    with pytest.raises(ConfigError, match="skip"):
        make_learner(room, target, config, "chain", overrides=room.name == "mlx")
