"""Sessions read draft trees: every node as a text of its own; what is kept, as if it alone had been read."""

import random

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dspec.backends.torch.trees import refuse_unless_trees
from dspec.backends.tree_nodes import ancestors
from dspec.core.tree import Tree
from dspec.errors import BackendUnavailable, ConfigError, ShapeError
from tests import tiny_models
from tests.reference_model import TAPS, assert_near, ids_of, side_by_side, whole
from tests.rooms import ROOMS

pytestmark = pytest.mark.clause("DL-11")
IDS = range(3, tiny_models.VOCABULARY)


def make_tree(dice, size):
    """A tree of any form: long paths, siblings, branches next to each other."""
    tokens, parents, seen = [], [], set()
    while len(tokens) < size:
        key = dice.randint(0, len(tokens)), dice.choice(IDS)
        if key not in seen:
            seen.add(key)
            parents.append(key[0])
            tokens.append(key[1])
    return Tree(tuple(tokens), tuple(parents))


def way_to(tree, node):
    """Node numbers from the anchor's child down to `node`."""
    return () if node == 0 else (*way_to(tree, tree.parents[node - 1]), node)


def drafts_of(tree, path):
    return [tree.tokens[node - 1] for node in path]


def open_target(room, kind, attention):
    if attention is None:
        return tiny_models.opened(kind, room)
    model = tiny_models.make(kind)
    model.set_attn_implementation(attention)
    return room.target.Target(model)


# As transformers opens them: Gemma 2 with eager attention, the others with sdpa; and as MLX does.
CASES = [("torch", kind, None) for kind in tiny_models.DRIVEN]
CASES += [("torch", kind, "eager") for kind in ("qwen3", "mistral_sliding", "gemma3")]
CASES += [pytest.param("mlx", kind, None, marks=pytest.mark.mlx) for kind in tiny_models.DRIVEN]


@pytest.mark.clause("RS-15", "DL-4")
@pytest.mark.parametrize(("name", "kind", "attention"), CASES)
def test_nodes_are_scored_after_their_own_path_and_only_what_stands_is_kept(name, kind, attention):
    """Past the sliding windows; trees, blocks and rewinds in turn, against transformers without a cache."""
    dice, room = random.Random(13), ROOMS[name]
    target = open_target(room, kind, attention)
    target.check_trees()
    session = target.session(layer_ids=TAPS, capacity=64)
    read = dice.choices(IDS, k=9)
    session.prefill(read)
    for turn in range(6):
        anchor, tree = dice.choice(IDS), make_tree(dice, dice.choice([1, 4, 9]))
        scores = session.score_tree(anchor, tree)
        assert session.length == len(read), "nothing is committed yet"
        for node in range(len(tree.tokens) + 1):
            logits, states = whole(kind, [*read, anchor, *drafts_of(tree, way_to(tree, node))])
            assert_near(room, scores.logits[0, node], logits[-1])
            assert_near(room, scores.features[0, node], side_by_side(states)[-1])
        path = way_to(tree, dice.randint(0, len(tree.tokens)))
        features = session.keep(path)
        read += [anchor, *drafts_of(tree, path)]
        assert session.length == len(read)
        assert_near(room, features[0], side_by_side(whole(kind, read)[1])[-len(path) - 1 :])
        block = dice.choices(IDS, k=3)
        scores = session.score(block[0], ids_of(room, block[1:]))
        assert_near(room, scores.logits[0], whole(kind, read + block)[0][-3:])
        read = (read + block)[: len(read) + turn % 3]
        session.rewind(len(read))


def test_a_chain_is_what_score_reads(room):
    target = open_target(room, "qwen3", None)
    one, other = (target.session(layer_ids=TAPS, capacity=32) for _ in range(2))
    for session in (one, other):
        session.prefill([5, 6, 7])
    block = one.score(8, ids_of(room, [9, 10, 11]))
    tree = other.score_tree(8, Tree((9, 10, 11), (0, 1, 2)))
    assert_near(room, tree.logits, room.numpy(block.logits))
    one.rewind(3 + 3)
    other.keep((1, 2))
    assert one.length == other.length == 6
    after = ids_of(room, [12])
    assert_near(room, other.score(13, after).logits, room.numpy(one.score(13, after).logits))


def wrong_mask(wrong, tree, start):
    """(N + 1, start + N + 1) of numpy: all before a node by its number, or those in a window by number."""
    n = len(tree.tokens) + 1
    mask = np.tril(np.ones((n, start + n), dtype=bool), start)
    if wrong == "siblings seen":
        return mask
    places = np.arange(start + n)
    window = places[start:, None] - places[None] < tiny_models.WINDOW
    return window & np.concatenate([mask[:, :start], ancestors(tree)], axis=1)


@pytest.mark.parametrize("wrong", ["siblings seen", "numbers as positions", "windows by number"])
def test_wrong_masks_and_positions_are_noticed(wrong, room, monkeypatch):
    right = room.trees.tree_layout

    def layout(model, tree, start):
        made = right(model, tree, start)
        numbers = room.array(np.arange(start, start + len(tree.tokens) + 1))
        mask = room.array(wrong_mask(wrong, tree, start))
        if room.name == "mlx":
            return (numbers, made[1]) if "numbers" in wrong else (made[0], dict.fromkeys(made[1], mask))
        if "numbers" in wrong:
            return made | {"position_ids": numbers[None]}
        return made | {"attention_mask": mask[None, None]}

    kind = "mistral_sliding" if wrong == "windows by number" else "qwen3"
    if wrong != "windows by number":  # the probe is shorter than a window
        with (
            monkeypatch.context() as patch,
            pytest.raises(BackendUnavailable, match="other states in a tree"),
        ):
            patch.setattr(room.trees, "tree_layout", layout)
            open_target(room, kind, None).check_trees()
    monkeypatch.setattr(room.target_session, "tree_layout", layout)
    with pytest.raises(AssertionError):
        test_nodes_are_scored_after_their_own_path_and_only_what_stands_is_kept(room.name, kind, None)


def test_what_is_moved_is_what_stands_elsewhere():
    """At most one row a layer and node that stands; none where the path is the first nodes in order."""
    target = open_target(ROOMS["torch"], "qwen3", None)
    session = target.session(layer_ids=(), capacity=512)
    session.prefill(list(IDS) * 5)
    heads, width = 2, 16
    for path, rows in (((), 0), ((1, 2), 0), ((1, 3), 1), ((4,), 1)):
        session.score_tree(5, Tree((6, 7, 8, 9), (0, 1, 1, 0)))
        with Largest() as seen:
            assert session.keep(path) is None
        assert seen.largest <= max(rows * heads * width, len(path) + 1)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest result that owns its memory has."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        views = ("slice", "view", "select", "alias", "index_put_", "copy_", "expand")
        if isinstance(out, torch.Tensor) and func.overloadpacket.__name__ not in views:
            self.largest = max(self.largest, out.numel())
        return out


@pytest.fixture
def session(room):
    session = open_target(room, "qwen3", None).session(layer_ids=TAPS, capacity=12)
    session.prefill([5, 6, 7])
    return session


@pytest.mark.clause("NT-3", "NT-4")
def test_bad_trees_and_paths_are_refused_and_change_nothing(session):
    tree = Tree((8, 9, 10), (0, 1, 0))
    for call, words in (
        (lambda: session.keep(()), "no tree"),
        (lambda: session.score_tree(60, tree), r"anchor\[0\]"),
        (lambda: session.score_tree(5, Tree((8, 60), (0, 0))), r"tree.tokens\[1\]"),
        (lambda: session.score_tree(5, [8, 9]), "a list"),
    ):
        with pytest.raises(ShapeError, match=words):
            call()
    with pytest.raises(ConfigError, match="at most 12 positions"):
        session.score_tree(5, make_tree(random.Random(1), 9))
    assert session.length == 3
    session.score_tree(5, tree)
    for path in ((2,), (1, 3), (3, 1), (4,), (0,)):
        with pytest.raises(ShapeError, match="child of node"):
            session.keep(path)
    session.keep((1, 2))
    assert session.length == 6
    with pytest.raises(ShapeError, match="no tree"):
        session.keep((1,))


@pytest.mark.parametrize("between", ["score", "prefill", "rewind"])
def test_a_tree_is_gone_after_anything_else_was_read(session, between, room):
    calls = {"score": (5, ids_of(room, [6])), "prefill": ([6],), "rewind": (3,)}
    session.score_tree(5, Tree((8, 9), (0, 0)))
    getattr(session, between)(*calls[between])
    with pytest.raises(ShapeError, match="no tree"):
        session.keep((1,))


def test_a_tree_that_was_not_kept_leaves_nothing(session, room):
    session.score_tree(5, Tree((8, 9), (0, 0)))
    block = ids_of(room, [11, 12])
    assert_near(room, session.score(10, block).logits[0], whole("qwen3", [5, 6, 7, 10, 11, 12])[0][3:])


def test_nodes_see_themselves_and_their_ancestors():
    seen = ancestors(Tree((4, 5, 6, 7), (0, 0, 2, 1)))
    ways = [(0,), (0, 1), (0, 2), (0, 2, 3), (0, 1, 4)]
    assert [tuple(np.flatnonzero(row)) for row in seen] == ways


def test_attention_without_masks_of_any_form_is_refused():
    model = tiny_models.make("qwen3")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(BackendUnavailable, match=r"attention 'flash_attention_2'.*DL-11"):
        refuse_unless_trees(model)
