"""One learner: its gradient is the objective's, however it is computed and however the batch is cut."""

import array_api_compat.torch as xp
import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from dspec.backends.torch import drafter_layers
from dspec.backends.torch.attention_mask import attention_mask
from dspec.backends.torch.micro_batch import MicroBatch
from dspec.core import objectives
from dspec.core.blocks import attention_mask as core_attention_mask
from dspec.errors import NumericsError
from dspec.io.data import batches
from dspec.rng import Purpose, Stream
from dspec.supervision import Supervision
from tests.tiny_training import MASK, make_config, make_drafter, make_examples, make_learner, make_target
from tests.tolerances import TRAINING_GRADIENT

OBJECTIVES = ("uniform", "dflash", "ltr", "dpace", "first_error(1)", "chain(40)")


@pytest.mark.clause("NU-2")
def test_a_float16_head_does_not_narrow_the_gradient():
    target, config = make_target(), make_config()
    target.model.half()
    learner, seen = make_learner(target, config), []
    inner = learner._gold_log_probs
    learner._gold_log_probs = lambda hidden, *rest, **options: (
        seen.append(hidden.dtype),
        inner(hidden, *rest, **options),
    )[1]
    learner.forward(read(target, config)[0])
    assert seen == [torch.float32] and learner._head.dtype == torch.float16


@pytest.fixture(scope="module")
def target():
    return make_target()


def cut(config, *, step=0):
    batch = batches(make_examples(), batch_size=config.batch_size, seq_len=config.seq_len, seed=0, step=step)
    uniforms = Stream(0).uniforms(Purpose.ANCHORS, step, batch.tokens.shape)
    sizes = {"anchors": config.anchors, "block_size": config.block_size, "mask_token_id": MASK}
    return Supervision.cut(batch.tokens, batch.loss_mask, uniforms, **sizes)


def read(target, config, parts=1, **options):
    return [MicroBatch.read(target, part, (0, 1)) for part in cut(config, **options).split(parts)]


def gradient(learner, parts):
    value = learner.backward(parts)
    return value, {name: p.grad.clone() for name, p in learner.drafter.named_parameters()}


def check_equal(ours, theirs):
    scale = max(grad.abs().max() for grad in theirs.values())
    assert scale > 1e-4, "nothing was learnt here"
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name] / scale, grad / scale, atol=TRAINING_GRADIENT, rtol=0, msg=name)


def plain_gradient(learner, part):
    """The objective differentiated by autograd through all logits: no rows dropped, no weights."""
    drafter = learner.drafter
    context = drafter.fuse(part.features)
    hidden = drafter(part.embeds, part.positions, context, part.context_positions, part.mask)
    n_blocks, n_slots = part.supervised.shape
    logits = (hidden @ learner._head.T).unflatten(1, (-1, n_slots + 1))[:, :, 1:].reshape(-1, 97)
    labels = torch.zeros(n_blocks * n_slots, dtype=torch.int64).index_copy(0, part.slots, part.labels)
    log_prob = torch.log_softmax(logits, dim=1).gather(1, labels[:, None]).view(n_blocks, n_slots)
    hit = (logits.argmax(1) == labels).view(n_blocks, n_slots)
    sums = objectives.sums(
        learner.objective, log_prob, hit, part.supervised, xp=xp, stop_gradient=torch.Tensor.detach
    )
    value = objectives.value(learner.objective, sums, xp=xp)
    grads = torch.autograd.grad(value, list(drafter.parameters()))
    return value, dict(zip([name for name, _ in drafter.named_parameters()], grads))


@pytest.mark.clause("OB-8")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("overrides", [True, False])
def test_gradient_is_that_of_the_objective_by_autograd(target, objective, overrides):
    config = make_config()
    (part,) = read(target, config)
    learner = make_learner(target, config, objective, overrides=overrides)
    assert not part.supervised.all(), "some slots must be out of the loss"
    value, grads = gradient(learner, [part])
    expected, plain = plain_gradient(learner, part)
    torch.testing.assert_close(value, expected.detach(), atol=TRAINING_GRADIENT, rtol=1e-5)
    check_equal(grads, plain)


@pytest.mark.clause("OB-7")
@pytest.mark.parametrize("reduction", ["block_sum", "weighted_mean"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_any_partition_into_micro_batches_gives_the_same_gradient(target, objective, reduction):
    config = make_config(reduction=reduction)
    learner = make_learner(target, config, objective)
    whole_value, whole = gradient(learner, read(target, config))
    for parts in (2, 4):
        value, grads = gradient(learner, read(target, config, parts))
        torch.testing.assert_close(value, whole_value, atol=TRAINING_GRADIENT, rtol=1e-5)
        check_equal(grads, whole)


@pytest.mark.clause("BD-4")
def test_only_supervised_slots_reach_the_head(target, monkeypatch):
    config = make_config()
    (part,) = read(target, config)
    learner = make_learner(target, config)
    seen = []
    inner = learner._gold_log_probs
    monkeypatch.setattr(
        learner, "_gold_log_probs", lambda h, *a, **k: (seen.append(len(h)), inner(h, *a, **k))[1]
    )
    outcome = learner.forward(part)
    assert seen == [int(part.supervised.sum())] and 0 < seen[0] < part.supervised.numel()
    assert not outcome.hit[~part.supervised].any() and not outcome.log_prob[~part.supervised].any()
    assert (outcome.log_prob[part.supervised] < 0).all()


@pytest.mark.clause("BD-1")
def test_blocks_hold_the_anchor_then_masks_and_predict_their_own_positions(target):
    config = make_config()
    blocks = cut(config)
    (part,) = read(target, config)
    row, anchor = 1, int(blocks.anchors[1, 2])
    assert blocks.inputs[row, 2].tolist() == [blocks.tokens[row, anchor], MASK, MASK, MASK]
    labels = np.zeros(part.supervised.numel(), dtype=np.int64)
    labels[part.slots.numpy()] = part.labels.numpy()
    first = (row * config.anchors + 2) * 3
    assert labels[first : first + 3].tolist() == blocks.tokens[row, anchor + 1 : anchor + 4].tolist()
    slot_rows = dict(zip(part.slots.tolist(), part.rows.tolist()))
    assert slot_rows[first] == (row * config.anchors + 2) * 4 + 1


@pytest.mark.clause("BD-2")
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_block_mask_equals_the_dense_mask():
    """The form that CUDA gets, run uncompiled on a CPU: dropped blocks and odd sizes included."""
    anchors, keep = torch.tensor([[3, 9, 20], [5, 0, 0]]), torch.tensor([[True] * 3, [True, False, False]])
    sizes = {"seq_len": 37, "block_size": 4}
    dense = attention_mask(anchors, keep, **sizes, flex=False)
    assert torch.equal(dense[:, 0], core_attention_mask(anchors, keep, 37, 4, xp=xp))
    block = attention_mask(anchors, keep, **sizes, flex=True)
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, n, 8, generator=generator) for heads, n in ((4, 12), (2, 49)))
    expected = drafter_layers.attend(query, key, key.flip(-1), dense)
    read_by_flex = flex_attention(query, key, key.flip(-1), block_mask=block, enable_gqa=True)
    torch.testing.assert_close(read_by_flex, expected, atol=1e-5, rtol=0)


def test_softcap_reaches_the_loss():
    capped, plain = make_target(softcap=1.0), make_target()
    config = make_config()
    values = [make_learner(t, config, "uniform").backward(read(t, config)).item() for t in (capped, plain)]
    assert abs(values[0] - values[1]) > 0.1


def test_master_weights_stay_float32_under_bfloat16_products(target):
    config = make_config(precision="bfloat16")
    learner = make_learner(target, config)
    exact = make_learner(target, make_config())
    (part,) = read(target, config)
    report, expected = learner.train_step([part]), exact.train_step([part])
    assert {p.dtype for p in learner.drafter.parameters()} == {torch.float32}
    assert report.loss == pytest.approx(expected.loss, rel=0.05) and report.loss != expected.loss


@pytest.mark.clause("NU-2")
def test_a_loss_that_is_not_finite_changes_no_weight(target):
    config = make_config()
    learner = make_learner(target, config)
    (part,) = read(target, config)
    learner.train_step([part])
    before = {name: p.detach().clone() for name, p in learner.drafter.named_parameters()}
    part.features[0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="step 2"):
        learner.train_step([part])
    assert all(torch.equal(p, before[name]) for name, p in learner.drafter.named_parameters())
    assert learner.step == 1


def test_steps_are_clipped_and_follow_the_schedule(target):
    config = make_config(steps=4, warmup=0.5, lr=1e-3, clip=1e-3)
    learner = make_learner(target, config)
    parts = read(target, config)
    before = learner.drafter.fc.weight.detach().clone()
    reports = [learner.train_step(parts)]
    moved = (learner.drafter.fc.weight.detach() - before).abs().max()
    assert moved == pytest.approx(5e-4, rel=0.1)  # AdamW's first step is the rate, whatever the gradient
    reports += [learner.train_step(parts) for _ in range(2)]
    assert [r.lr for r in reports] == pytest.approx([5e-4, 1e-3, 1e-3])
    clipped = torch.stack([p.grad.norm() for p in learner.drafter.parameters()]).norm()
    assert reports[-1].grad_norm > 1e-2 and clipped == pytest.approx(1e-3, rel=1e-3)


def test_drafters_of_one_seed_begin_equal(target):
    first, second = make_drafter(target), make_drafter(target)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
