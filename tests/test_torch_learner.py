"""What only torch can show: autograd through all logits, the mask that CUDA gets, a float16 head."""

import array_api_compat.torch as torch_xp
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from dspec.core import objectives
from tests.rooms import ROOMS
from tests.test_learner import OBJECTIVES, check_equal, gradient, read, spy_on_gold
from tests.tiny_training import make_config, make_learner, make_target
from tests.tolerances import TRAINING_GRADIENT

TORCH = ROOMS["torch"]


def plain_gradient(learner, part):
    """The objective differentiated by autograd through all logits: no rows dropped, no weights."""
    drafter = learner.drafter
    context = drafter.fuse(part.features)
    hidden = drafter(part.embeds, part.positions, context, part.context_positions, part.mask)
    n_blocks, n_slots = part.supervised.shape
    logits = (hidden @ learner._observer.head.T).unflatten(1, (-1, n_slots + 1))[:, :, 1:].reshape(-1, 97)
    labels = torch.zeros(n_blocks * n_slots, dtype=torch.int64).index_copy(0, part.slots, part.labels)
    log_prob = torch.log_softmax(logits, dim=1).gather(1, labels[:, None]).view(n_blocks, n_slots)
    hit = (logits.argmax(1) == labels).view(n_blocks, n_slots)
    sums = objectives.sums(
        learner.objective, log_prob, hit, part.supervised, xp=torch_xp, stop_gradient=torch.Tensor.detach
    )
    value = objectives.value(learner.objective, sums, xp=torch_xp)
    grads = torch.autograd.grad(value, list(drafter.parameters()))
    named = zip([name for name, _ in drafter.named_parameters()], grads)
    return value.item(), {name: grad.numpy() for name, grad in named}


@pytest.mark.clause("OB-8")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("overrides", [True, False])
def test_gradient_is_that_of_the_objective_by_autograd(objective, overrides):
    target, config = make_target(TORCH), make_config()
    (part,) = read(TORCH, target, config)
    learner = make_learner(TORCH, target, config, objective, overrides=overrides)
    assert not part.supervised.all(), "some slots must be out of the loss"
    value, grads = gradient(TORCH, learner, [part])
    expected, plain = plain_gradient(learner, part)
    assert value == pytest.approx(expected, abs=TRAINING_GRADIENT, rel=1e-5)
    check_equal(grads, plain)


@pytest.mark.clause("NU-2")
def test_a_float16_head_does_not_narrow_the_gradient(monkeypatch):
    target, config = make_target(TORCH), make_config()
    target.model.half()
    learner = make_learner(TORCH, target, config)
    seen = spy_on_gold(learner, monkeypatch)
    learner.forward(read(TORCH, target, config)[0])
    assert [hidden.dtype for hidden in seen] == [torch.float32]
    assert learner._observer.head.dtype == torch.float16


@pytest.mark.clause("BD-2")
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_block_mask_equals_the_dense_mask():
    """The form that CUDA gets, run uncompiled on a CPU: dropped blocks and odd sizes included."""
    anchors, keep = torch.tensor([[3, 9, 20], [5, 0, 0]]), torch.tensor([[True] * 3, [True, False, False]])
    make, sizes = TORCH.attention_mask.attention_mask, {"seq_len": 37, "block_size": 4}
    dense, block = (make(anchors, keep, **sizes, flex=flex) for flex in (False, True))
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, n, 8, generator=generator) for heads, n in ((4, 12), (2, 49)))
    expected = TORCH.drafter_layers.attend(query, key, key.flip(-1), dense)
    read_by_flex = flex_attention(query, key, key.flip(-1), block_mask=block, enable_gqa=True)
    torch.testing.assert_close(read_by_flex, expected, atol=1e-5, rtol=0)
