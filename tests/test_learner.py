"""One learner: its gradient is the objective's, however it is computed and however the batch is cut."""

import array_api_compat.torch as torch_xp
import numpy as np
import pytest
import torch

from dspec.core import objectives
from dspec.core.blocks import attention_mask as core_attention_mask
from dspec.errors import ConfigError, DataError, NumericsError
from dspec.io.data import batches
from dspec.rng import Purpose, Stream
from dspec.supervision import Supervision
from tests.tiny_training import MASK, make_config, make_drafter, make_examples, make_learner, make_target
from tests.tolerances import TRAINING_GRADIENT

OBJECTIVES = ("uniform", "dflash", "ltr", "dpace", "first_error(1)", "chain(40)")


@pytest.fixture(scope="module")
def target(room):
    return make_target(room)


def cut(config, *, step=0):
    batch = batches(make_examples(), batch_size=config.batch_size, seq_len=config.seq_len, seed=0, step=step)
    uniforms = Stream(0).uniforms(Purpose.ANCHORS, step, batch.tokens.shape)
    sizes = {"anchors": config.anchors, "block_size": config.block_size, "mask_token_id": MASK}
    return Supervision.cut(batch.tokens, batch.loss_mask, uniforms, **sizes)


def read(room, target, config, parts=1, **options):
    split = cut(config, **options).split(parts)
    return [room.micro_batch.MicroBatch.read(target, part, (0, 1)) for part in split]


def gradient(room, learner, parts):
    """The objective's value and its gradients by name, as numpy, detached from what comes later."""
    value, grads = learner.backward(parts)
    return float(value), {name: np.array(room.numpy(grad)) for name, grad in grads.items()}


def weights_of(room, learner):
    return {name: np.array(room.numpy(weight)) for name, weight in learner.drafter.weights().items()}


def check_equal(ours, theirs, atol=TRAINING_GRADIENT):
    scale = max(np.abs(grad).max() for grad in theirs.values())
    assert scale > 1e-4, "nothing was learnt here"
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        np.testing.assert_allclose(ours[name] / scale, grad / scale, atol=atol, rtol=0, err_msg=name)


def spy_on_gold(learner, monkeypatch):
    """The hidden states that reach the head, call by call."""
    seen, observer = [], learner._observer
    inner = observer._gold_log_probs

    def spy(hidden, *others, **options):
        seen.append(hidden)
        return inner(hidden, *others, **options)

    monkeypatch.setattr(observer, "_gold_log_probs", spy)
    return seen


@pytest.mark.clause("OB-7")
@pytest.mark.parametrize("reduction", ["block_sum", "weighted_mean"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_any_partition_into_micro_batches_gives_the_same_gradient(room, target, objective, reduction):
    config = make_config(reduction=reduction)
    learner = make_learner(room, target, config, objective)
    whole_value, whole = gradient(room, learner, read(room, target, config))
    for parts in (2, 4):
        value, grads = gradient(room, learner, read(room, target, config, parts))
        assert value == pytest.approx(whole_value, abs=TRAINING_GRADIENT, rel=1e-5)
        check_equal(grads, whole)


@pytest.mark.clause("OB-8")
@pytest.mark.parametrize("objective", ["ltr", "first_error(1)"])
def test_core_s_own_operations_give_the_same_gradient(room, target, objective):
    config = make_config()
    parts = read(room, target, config, 2)
    plain, fused = (
        gradient(room, make_learner(room, target, config, objective, overrides=overrides), parts)
        for overrides in (False, True)
    )
    assert fused[0] == pytest.approx(plain[0], abs=TRAINING_GRADIENT, rel=1e-5)
    check_equal(fused[1], plain[1])


@pytest.mark.clause("BD-4")
def test_only_supervised_slots_reach_the_head(room, target, monkeypatch):
    config = make_config()
    (part,) = read(room, target, config)
    learner = make_learner(room, target, config)
    seen = spy_on_gold(learner, monkeypatch)
    outcome = learner.forward(part)
    log_prob, hit, supervised = map(room.numpy, (outcome.log_prob, outcome.hit, part.supervised))
    assert [len(hidden) for hidden in seen] == [supervised.sum()]
    assert 0 < supervised.sum() < supervised.size
    assert not hit[~supervised].any() and not log_prob[~supervised].any()
    assert (log_prob[supervised] < 0).all()


@pytest.mark.clause("BD-4")
def test_a_batch_without_any_label_has_no_gradient(room, target):
    config = make_config()
    blocks = cut(config)
    blocks.mask[:] = False
    part = room.micro_batch.MicroBatch.read(target, blocks, (0, 1))
    learner = make_learner(room, target, config)
    value, grads = gradient(room, learner, [part])
    assert value == 0 and not any(grad.any() for grad in grads.values())
    assert learner.evaluate(part).acceptance.supervised == 0


@pytest.mark.clause("BD-1")
def test_blocks_hold_the_anchor_then_masks_and_predict_their_own_positions(room, target):
    config = make_config()
    blocks = cut(config)
    (part,) = read(room, target, config)
    row, anchor = 1, int(blocks.anchors[1, 2])
    assert blocks.inputs[row, 2].tolist() == [blocks.tokens[row, anchor], MASK, MASK, MASK]
    slots, gold, rows = (room.numpy(x) for x in (part.slots, part.labels, part.rows))
    labels = np.zeros(blocks.mask.size, dtype=np.int64)
    labels[slots] = gold
    first = (row * config.anchors + 2) * 3
    assert labels[first : first + 3].tolist() == blocks.tokens[row, anchor + 1 : anchor + 4].tolist()
    assert dict(zip(slots.tolist(), rows.tolist()))[first] == (row * config.anchors + 2) * 4 + 1


@pytest.mark.clause("BD-2")
def test_dense_mask_is_core_s(room):
    anchors, keep = np.array([[3, 9, 20], [5, 0, 0]]), np.array([[True] * 3, [True, False, False]])
    sizes = {"seq_len": 37, "block_size": 4}
    placed = [room.array(x) for x in (anchors, keep)]
    mask = room.numpy(room.attention_mask.attention_mask(*placed, **sizes))
    expected = core_attention_mask(*map(torch.tensor, (anchors, keep)), 37, 4, xp=torch_xp).numpy()
    assert mask.shape == (2, 1, 12, 49) and (mask[:, 0] == expected).all()


def test_softcap_reaches_the_loss(room):
    config = make_config()
    values = []
    for softcap in (1.0, None):
        target = make_target(room, softcap=softcap)
        learner = make_learner(room, target, config, "uniform")
        values.append(float(learner.backward(read(room, target, config))[0]))
    assert abs(values[0] - values[1]) > 0.1


@pytest.mark.clause("NU-2")
def test_master_weights_stay_float32_under_bfloat16_products(room, target):
    config = make_config(precision="bfloat16")
    learner = make_learner(room, target, config)
    exact = make_learner(room, target, make_config(precision="float32"))
    (part,) = read(room, target, config)
    report, expected = learner.train_step([part]), exact.train_step([part])
    assert {str(weight.dtype).rpartition(".")[2] for weight in learner.drafter.weights().values()} == {
        "float32"
    }
    assert report.loss == pytest.approx(expected.loss, rel=0.05) and report.loss != expected.loss
    assert report.grad_norm == pytest.approx(expected.grad_norm, rel=0.05)


@pytest.mark.clause("NU-2")
def test_a_loss_that_is_not_finite_changes_no_weight(room, target):
    config = make_config()
    learner = make_learner(room, target, config)
    (part,) = read(room, target, config)
    learner.train_step([part])
    before = {name: np.array(value) for name, value in learner.state().items()}
    part.features[0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="step 2"):
        learner.train_step([part])
    after = learner.state()
    assert all((after[name] == before[name]).all() for name in before)
    assert learner.step == 1


@pytest.mark.clause("NU-2")
def test_sixteen_bit_masters_are_refused(room, target):
    config = make_config()
    learner = make_learner(room, target, config)
    narrow = {"torch": "to", "mlx": "set_dtype"}[room.name]
    getattr(learner.drafter, narrow)(room.ops.DTYPES["bfloat16"])
    with pytest.raises(ConfigError, match="float32"):
        room.learner.Learner(learner.drafter, target, config)


def test_steps_follow_the_schedule(room, target):
    config = make_config(steps=4, warmup=0.5, lr=1e-3)
    learner = make_learner(room, target, config)
    parts = read(room, target, config)
    before = weights_of(room, learner)["fc.weight"]
    reports = [learner.train_step(parts)]
    moved = np.abs(weights_of(room, learner)["fc.weight"] - before).max()
    assert moved == pytest.approx(5e-4, rel=0.1)  # AdamW's first step is the rate, whatever the gradient
    reports += [learner.train_step(parts) for _ in range(2)]
    assert [report.lr for report in reports] == pytest.approx([5e-4, 1e-3, 1e-3])


def test_steps_are_clipped(room, target):
    config = make_config(clip=1e-3)
    learner = make_learner(room, target, config)
    report = learner.train_step(read(room, target, config))
    means = [value for name, value in learner.state().items() if name.endswith("/exp_avg")]
    # The first moment after one step is a tenth of the gradient as it was used.
    clipped = 10 * np.sqrt(sum((mean.astype(np.float64) ** 2).sum() for mean in means))
    assert report.grad_norm > 1e-2 and clipped == pytest.approx(1e-3, rel=2e-3)


def test_evaluation_leaves_the_learner_as_it_was_and_sees_what_a_step_sees(room, target):
    config = make_config()
    learner = make_learner(room, target, config)
    (part,) = read(room, target, config)
    before = {name: np.array(value) for name, value in learner.state().items()}
    seen = learner.evaluate(part)
    assert all((value == before[name]).all() for name, value in learner.state().items())
    loss = objectives.value(learner.objective, torch.tensor(seen.sums), xp=torch_xp)
    assert learner.train_step([part]).loss == pytest.approx(float(loss), rel=1e-5)
    assert seen.acceptance.supervised == room.numpy(part.supervised).sum()


def test_a_state_goes_from_one_learner_to_another(room, target):
    config = make_config()
    parts = read(room, target, config)
    first, second = make_learner(room, target, config), make_learner(room, target, config)
    for _ in range(2):
        first.train_step(parts)
    saved = first.state()
    kept = {name: np.array(value) for name, value in saved.items()}
    second.restore(saved, 2)
    ours, theirs = first.train_step(parts), second.train_step(parts)
    assert ours == theirs
    assert all((value == second.state()[name]).all() for name, value in first.state().items())
    assert any((kept[name] != value).any() for name, value in first.state().items())


def test_drafters_of_one_seed_begin_equal(room, target):
    first, second = (make_drafter(room, target).weights() for _ in range(2))
    assert all((room.numpy(first[name]) == room.numpy(second[name])).all() for name in first)


@pytest.mark.parametrize("fault", [97, -1])
def test_tokens_outside_the_vocabulary_are_refused_or_raise(room, target, fault):
    blocks = cut(make_config())
    blocks.tokens[0, 3] = fault
    with pytest.raises((DataError, IndexError)):
        room.micro_batch.MicroBatch.read(target, blocks, (0, 1))
