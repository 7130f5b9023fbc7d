"""Layers of transformers called one by one: the bits of the body's own forward, where that is known."""

import pytest
import torch

from dspec.backends.torch.cache import KeyValueCache
from dspec.backends.torch.taps import is_plain, read_body
from dspec.backends.torch.target import Target
from dspec.core.tree import Tree
from tests import tiny_models

PLAIN = ("llama", "qwen2", "qwen3", "qwen3_tied")


def passes(body, *, plain):
    """States and taps of a prefill, a block after it, the block again after a rewind, and one token."""
    cache, found = KeyValueCache(len(body.layers), capacity=32), []
    generator = torch.Generator().manual_seed(5)
    for length, keep in ((9, 9), (6, 2), (6, 6), (1, 1)):
        ids = torch.randint(0, tiny_models.VOCABULARY, (1, length), generator=generator)
        with torch.no_grad():
            hidden, caught = read_body(body, ids, cache, (0, 3), plain=plain)
        start = cache.length
        cache.advance(length)
        cache.rewind(start + keep)
        found += [hidden, caught[0], caught[3]]
    return found


@pytest.mark.clause("DL-7")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", PLAIN)
def test_layers_called_one_by_one_give_the_bits_of_the_whole_forward(kind, attention):
    model = tiny_models.make(kind).eval()
    model.set_attn_implementation(attention)
    ours, theirs = (passes(model.get_decoder(), plain=plain) for plain in (True, False))
    assert len(ours) == 12
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.clause("DL-11")
@pytest.mark.parametrize("kind", PLAIN)
def test_trees_are_read_to_the_bit_as_well(kind):
    model, tree = tiny_models.make(kind).eval(), Tree(tokens=(5, 6, 7, 8), parents=(0, 0, 1, 3))
    found = []
    for plain in (True, False):
        target = Target(model)
        assert target.plain
        target.plain = plain
        session = target.session(layer_ids=(1,), capacity=16)
        session.prefill([9, 8, 7])
        scores = session.score_tree(4, tree)
        found += [torch.cat([scores.logits, scores.features], dim=-1)]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", tiny_models.DRIVEN)
def test_only_bodies_of_known_kinds_are_plain(kind):
    assert Target(tiny_models.make(kind)).plain == (kind in PLAIN)


def cache_of(body):
    return lambda: KeyValueCache(len(body.layers), capacity=8)


def hooked(body):
    body.register_forward_hook(lambda module, args, output: None)


def with_another_forward(body):
    own = body.forward
    body.forward = lambda *args, **kwargs: own(*args, **kwargs)


def of_another_class(body):
    body.__class__ = type("Qwen3Model", (type(body),), {"__module__": "mine"})


def compiled(body):
    body._compiled_call_impl = body._call_impl  # what compile() sets; compiling itself takes seconds


def without_a_norm(body):
    body.final_norm = body.norm
    del body.norm


@pytest.mark.parametrize("change", [hooked, with_another_forward, of_another_class, compiled, without_a_norm])
def test_a_body_that_someone_changed_is_not(change):
    body = tiny_models.make("qwen3").get_decoder()
    assert is_plain(body, cache_of(body))
    change(body)
    assert not is_plain(body, cache_of(body))


def test_a_body_whose_forward_does_more_is_not(monkeypatch):
    """As a later version of transformers might; the class and its module keep their names."""
    body = tiny_models.make("qwen3").get_decoder()
    own = type(body).forward

    def forward(self, *args, **kwargs):
        output = own(self, *args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 1.001
        return output

    monkeypatch.setattr(type(body), "forward", forward)
    assert not is_plain(body, cache_of(body))
