"""Attention that reads each key head once: the numbers of transformers' own, and what it leaves alone."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dspec.backends.torch import pretrained
from dspec.backends.torch.pretrained import GROUPED, grouped_attention
from dspec.backends.torch.target import Target
from tests import tiny_models
from tests.tolerances import FORWARD_F32


def arrays(heads, key_heads, queries, past, width, dtype):
    generator = torch.Generator().manual_seed(3)
    shapes = [(heads, queries), (key_heads, past + queries), (key_heads, past + queries)]
    # Views of longer buffers, as a cache gives them.
    drawn = [torch.randn(1, h, n + 5, width, generator=generator).to(dtype)[:, :, :n] for h, n in shapes]
    return drawn, torch.ones(queries, past + queries, dtype=torch.bool).tril(past)[None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(6, 2, 16, 200, 32), (8, 1, 5, 0, 16), (4, 4, 3, 40, 8), (32, 8, 2, 700, 64)]
)
def test_it_gives_what_transformers_gives(shape, dtype):
    (query, key, value), mask = arrays(*shape, dtype)
    module = SimpleNamespace(num_key_value_groups=shape[0] // shape[1], is_causal=True)
    settings = {"scaling": 0.3, "dropout": 0.0, "sliding_window": None}
    ours, theirs = (
        f(module, query, key, value, mask, **settings)[0] for f in (grouped_attention, sdpa_attention_forward)
    )
    assert ours.shape == theirs.shape == (1, shape[2], shape[0], shape[4])
    bound = FORWARD_F32 if dtype == torch.float32 else 0.02
    assert torch.allclose(ours.float(), theirs.float(), atol=bound, rtol=bound)


def test_only_a_mask_over_several_queries_is_its_business(monkeypatch):
    seen = []
    monkeypatch.setattr(pretrained, "sdpa_attention_forward", lambda *args, **kwargs: seen.append(kwargs))
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    (query, key, value), mask = arrays(4, 2, 3, 6, 8, torch.float32)
    grouped_attention(module, query, key, value, mask, scaling=1.0)
    assert not seen
    grouped_attention(module, query, key, value, None, scaling=1.0)
    grouped_attention(module, query[:, :, :1], key, value, mask[:, :, :1], scaling=1.0)
    grouped_attention(module, query, query, query, mask[..., :3], scaling=1.0)
    grouped_attention(module, query, key, value, mask, scaling=1.0, dropout=0.5)
    grouped_attention(module, query, key, value, mask, scaling=1.0, position_bias=mask)
    assert [kwargs["scaling"] for kwargs in seen] == [1.0] * 5


def test_a_loaded_target_takes_it_and_a_callers_model_is_left_alone():
    assert Target.load(tiny_models.folder("qwen3"), device="cpu").model.config._attn_implementation == GROUPED
    model = tiny_models.make("qwen3")
    assert Target(model).model.config._attn_implementation == "sdpa"


@pytest.mark.clause("DL-7")
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma", "gemma3", "mistral_sliding", "qwen3_moe"])
def test_a_block_is_scored_as_with_transformers_own(kind):
    found = []
    for target in (Target.load(tiny_models.folder(kind), device="cpu"), Target(tiny_models.make(kind))):
        session = target.session(layer_ids=(1, 3), capacity=24)
        session.prefill([5, 6, 7, 8, 9, 10, 11])
        found.append(session.score(12, torch.tensor([[13, 14, 15]])))
    assert torch.allclose(found[0].logits, found[1].logits, atol=FORWARD_F32, rtol=FORWARD_F32)
    assert torch.allclose(found[0].features, found[1].features, atol=FORWARD_F32, rtol=FORWARD_F32)


@pytest.mark.clause("DL-11")
def test_a_loaded_target_reads_trees():
    Target.load(tiny_models.folder("qwen3"), device="cpu").check_trees()
