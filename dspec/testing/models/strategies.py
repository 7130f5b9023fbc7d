"""Hypothesis strategies: worlds, dyadic instances, edge rows, weights, sampling settings."""

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dspec.testing.checks.battery import TOP, Case
from dspec.testing.checks.instances import Instance, make_instances
from dspec.testing.models.worlds import KINDS, WARPS, Warp, World, make_worlds


@st.composite
def worlds(draw: Any, *, max_vocab: int = 3, max_drafts: int = 2) -> World:
    """Draw a small world: V 2..max_vocab, K 1..max_drafts, any drafter kind, reach and warp but greedy.

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
        reach=draw(st.integers(1, 2)),
    )
    return world


@st.composite
def dyadic_instances(draw: Any, *, mode: str = "rejection") -> Instance:
    """Draw an admissible instance for `check_lattice`, V = 4 or 5.

    Args:
        draw: given by Hypothesis.
        mode: "rejection", "block", "one_hot" or "match".

    Returns:
        The instance.
    """
    index: int = draw(st.integers(0, 1))
    return make_instances(2, seed=draw(st.integers(0, 2**32)), mode=mode)[index]


@st.composite
def edge_rows(draw: Any, *, max_vocab: int = 40) -> Case:
    """Draw a row of one draft where something is extreme: uniforms, zeros, one-hot laws, p next to q.

    Args:
        draw: given by Hypothesis.
        max_vocab: largest V.

    Returns:
        A case for `check_boundaries(given=[...])`; its n_accepted is None where float32 cannot tell.
    """
    size = draw(st.integers(2, max_vocab))
    q = draw(_edge_laws(size))
    token = draw(st.sampled_from(np.flatnonzero(q).tolist()))
    p = draw(st.one_of(_edge_laws(size), st.just(q), st.just(_lowered(q, token))))
    u = draw(st.sampled_from([0.0, 2.0**-24, 0.5, 1 - 2.0**-23, TOP]))
    close = np.asarray(draw(st.tuples(*[st.sampled_from([0.0, 0.5, TOP])] * 4)), np.float32)
    arrays = (
        np.stack([p, draw(_edge_laws(size))])[None],
        np.asarray([[token]], np.int32),
        q[None, None],
        np.full((1, 1), u, np.float32),
        close.reshape(1, 2, 2),
    )
    product, reached = Fraction(u) * Fraction(float(q[token])), Fraction(float(p[token]))
    sure = product == reached or p[token] == q[token] or abs(product - reached) > reached / 2**20
    return Case("edge row", arrays, np.asarray([int(product < reached)]) if sure else None)


@st.composite
def _edge_laws(draw: Any, size: int) -> Any:
    """Draw (V,) float32: few tokens of small integer weights, so one-hot laws and zero tails abound."""
    tokens = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
    weights = np.zeros(size)
    weights[tokens] = draw(st.lists(st.integers(1, 7), min_size=len(tokens), max_size=len(tokens)))
    return (weights / weights.sum()).astype(np.float32)


def _lowered(law: Any, token: int) -> Any:
    """Return the law with one entry a single float32 step lower: what it loses is within the tolerance."""
    less = law.copy()
    less[token] = np.nextafter(less[token], np.float32(0))
    return less


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
