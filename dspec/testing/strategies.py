"""Hypothesis strategies: worlds, dyadic instances, weights, sampling settings."""

from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from dspec.testing.instances import Instance, make_instances
from dspec.testing.worlds import KINDS, WARPS, Warp, World, make_worlds


@st.composite
def worlds(draw: Any, *, max_vocab: int = 3, max_drafts: int = 2) -> World:
    """Draw a small world: V 2..max_vocab, K 1..max_drafts, any drafter kind and warp but greedy.

    Args:
        draw: given by Hypothesis.
        max_vocab: largest V.
        max_drafts: largest K.

    Returns:
        The world; its generations have 3 tokens, so that it enumerates in milliseconds.
    """
    names = [name for name, warp in WARPS.items() if warp.temperature]
    (world,) = make_worlds(
        1,
        seed=draw(st.integers(0, 2**32)),
        vocab_size=draw(st.integers(2, max_vocab)),
        num_drafts=draw(st.integers(1, max_drafts)),
        max_new_tokens=3,
        warps=(draw(st.sampled_from(names)),),
        kinds=(draw(st.sampled_from(KINDS)),),
    )
    return world


@st.composite
def dyadic_instances(draw: Any, *, mode: str = "rejection") -> Instance:
    """Draw an admissible instance for `check_lattice`, V = 4 or 5.

    Args:
        draw: given by Hypothesis.
        mode: "rejection", "one_hot" or "match".

    Returns:
        The instance.
    """
    index: int = draw(st.integers(0, 1))
    return make_instances(2, seed=draw(st.integers(0, 2**32)), mode=mode)[index]


@st.composite
def weight_rows(draw: Any, *, max_vocab: int = 12, top: int = 8) -> list[int]:
    """Draw V integer weights 0..top, not all zero; ties and zeros are common.

    Args:
        draw: given by Hypothesis.
        max_vocab: largest V.
        top: largest weight.

    Returns:
        The weights.
    """
    rows = st.lists(st.integers(0, top), min_size=1, max_size=max_vocab)
    row: list[int] = draw(rows.filter(any))
    return row


def warps() -> st.SearchStrategy[Warp]:
    """Return a strategy of exact sampling settings at temperatures 1, 1/2, 1/3 with any filters."""
    return st.builds(
        Warp,
        temperature=st.sampled_from([1, Fraction(1, 2), Fraction(1, 3)]),
        top_k=st.integers(0, 6),
        top_p=st.one_of(st.just(1), st.fractions(Fraction(1, 50), 1, max_denominator=997)),
        min_p=st.one_of(st.just(0), st.fractions(0, Fraction(9, 10), max_denominator=997)),
    )
