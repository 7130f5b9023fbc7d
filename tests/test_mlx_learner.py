"""What a learner can get wrong on MLX only: its optimizer, what a traced gradient leaves behind, memory."""

import numpy as np
import pytest
import torch

from tests.rooms import ROOMS
from tests.test_learner import check_equal, gradient, read
from tests.tiny_training import make_config, make_learner, make_target
from tests.tolerances import ADAMW

MLX = ROOMS["mlx"]
pytestmark = [
    pytest.mark.mlx,
    pytest.mark.skipif(not MLX.installed, reason="mlx is not installed"),
]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_torch_s_over_twenty_steps(weight_decay):
    random = np.random.default_rng(0)
    start = {
        name: random.normal(size=shape).astype(np.float32) for name, shape in (("a", (3, 5)), ("b", (7,)))
    }
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    theirs = torch.optim.AdamW(leaves.values(), betas=(0.9, 0.99), weight_decay=weight_decay)
    ours, weights = MLX.adamw.AdamW((0.9, 0.99), weight_decay), {k: MLX.array(v) for k, v in start.items()}
    for step in range(20):
        # From tiny, where eps decides, to large, where the norm is clipped.
        grads = {
            k: (10.0 ** (step % 9 - 7) * random.normal(size=v.shape)).astype(np.float32)
            for k, v in start.items()
        }
        rate = 0.01 * (step + 1)
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(grads[name])
        norm = torch.nn.utils.clip_grad_norm_(leaves.values(), 1.0)
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        clipped, our_norm = MLX.adamw.clip({k: MLX.array(v) for k, v in grads.items()}, 1.0)
        assert our_norm.item() == pytest.approx(norm.item(), rel=ADAMW)
        weights = ours.apply(weights, clipped, rate=rate)
        for name, leaf in leaves.items():
            np.testing.assert_allclose(
                MLX.numpy(weights[name]), leaf.detach().numpy(), atol=ADAMW, rtol=ADAMW
            )


def test_a_backward_leaves_the_weights_themselves_in_place(monkeypatch):
    target, config = make_target(MLX), make_config(precision="bfloat16", recompute=True)
    learner = make_learner(MLX, target, config)
    before = learner.drafter.weights()
    parts = read(MLX, target, config)
    learner.backward(parts)
    assert all(weight is before[name] for name, weight in learner.drafter.weights().items())
    monkeypatch.setattr(learner, "sums", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.backward(parts)
    assert all(weight is before[name] for name, weight in learner.drafter.weights().items())


@pytest.mark.clause("NU-2")
def test_only_products_run_in_bfloat16(monkeypatch):
    """As under torch's autocast: matrices are narrow, gains and the residual stream are not."""
    target, config = make_target(MLX), make_config(precision="bfloat16")
    learner, seen = make_learner(MLX, target, config), set()
    for kind in (MLX.drafter_layers.Linear, MLX.drafter_layers.Norm):
        inner = kind.__call__

        def spy(self, x, inner=inner):
            made = inner(self, x)
            seen.add((type(self).__name__, *(str(a.dtype).rpartition(".")[2] for a in (self.weight, made))))
            return made

        monkeypatch.setattr(kind, "__call__", spy)
    learner.backward(read(MLX, target, config))
    assert seen == {("Linear", "bfloat16", "bfloat16"), ("Norm", "float32", "float32")}


def test_a_learner_on_a_quantised_head_never_unpacks_it(monkeypatch):
    from mlx import nn

    target, config = make_target(MLX), make_config()
    linear = nn.Linear(32, 97, bias=False)
    linear.weight = target.head.weight
    dense = gradient(MLX, make_learner(MLX, target, config), read(MLX, target, config))
    target.head = MLX.head.Head(nn.QuantizedLinear.from_linear(linear, group_size=32, bits=8))
    monkeypatch.setattr(type(target.head), "weight", property(lambda self: 1 / 0))
    value, grads = gradient(MLX, make_learner(MLX, target, config), read(MLX, target, config))
    assert value == pytest.approx(dense[0], rel=1e-3) and value != dense[0]
    check_equal(grads, dense[1], atol=0.02)  # of 8 bits


def peak_of_backward(learner, parts):
    """Most bytes above those held before, in a backward that is not the first."""
    import mlx.core as mx

    learner.backward(parts)
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    learner.backward(parts)
    return mx.get_peak_memory() - held


def test_memory_of_a_step_is_that_of_one_part():
    """Measured with 3 layers: 5.8 MB from 1 part to 16, and 4.2 MB with layers made again."""
    target, plain = make_target(MLX), make_config(layers=3, anchors=16)
    peaks = {}
    for recompute in (False, True):
        config = plain.replace(recompute=recompute)
        learner = make_learner(MLX, target, config)
        (part,) = read(MLX, target, config)
        peaks[recompute] = [peak_of_backward(learner, [part] * count) for count in (2, 8)]
    few, many = peaks[False]
    assert many < 1.2 * few
    assert max(peaks[True]) < 0.85 * few


def test_every_pass_evaluates_the_stages_of_the_gold_operation(monkeypatch):
    """Unevaluated they would all be in work at once: some eight chunks of logits."""
    target, config, seen = make_target(MLX), make_config(), []
    monkeypatch.setattr(MLX.learner, "run_stages", lambda stages: seen.append(len(stages)))
    learner = make_learner(MLX, target, config, "first_error(1)")
    parts = read(MLX, target, config, 2)
    learner.backward(parts)
    learner.evaluate(parts[0])
    assert seen == [2, 2, 3, 3, 2]  # ahead without gradient, then with: one stage more; then evaluation


def test_a_tiny_norm_is_clipped_as_torch_clips_it():
    """1e-6 is added to the norm: it halves a gradient of norm 1e-6 that is to have that norm."""
    leaf = torch.zeros(2, requires_grad=True)
    leaf.grad = torch.tensor([6e-7, 8e-7])
    clipped, _ = MLX.adamw.clip({"w": MLX.array(leaf.grad.numpy())}, 1e-6)
    torch.nn.utils.clip_grad_norm_([leaf], 1e-6)
    np.testing.assert_allclose(MLX.numpy(clipped["w"]), leaf.grad.numpy(), rtol=1e-4)
    assert leaf.grad.norm() < 6e-7
