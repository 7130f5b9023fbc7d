"""Windows of a long generation: disjoint, as many as asked for, each with the law of the first."""

import pytest

from dspec.errors import ConfigError
from dspec.testing.adapters.sources import TARGET
from dspec.testing.adapters.windows import WRONG, from_chains, windows
from dspec.testing.models.tabular import chain_law
from tests.table_server import sample
from tests.tolerances import FLOAT64


def chances(table, start, count, *, eos=None):
    """(tokens, probability) of every text of `count` tokens, or fewer that end in `eos`."""
    return chain_law(table, start, count, eos=eos).items()


@pytest.mark.clause("RS-1")
@pytest.mark.parametrize("eos", [None, 2])
def test_every_window_has_the_law_of_the_first(eos):
    """Exact: over all texts of 7 tokens, whether a window is there tells nothing of what is in it."""
    table, start, length, asked = [[1, 2, 1], [3, 1, 0], [1, 1, 2]], 0, 2, 7
    law = chain_law(table, start, length, eos=eos)
    found = {}
    for tokens, chance in chances(table, start, asked, eos=eos):
        got = windows(tokens, start=start, length=length, asked=asked, eos=eos)
        for place, outcome in enumerate(got):
            found.setdefault(place, {}).setdefault(outcome, 0.0)
            found[place][outcome] += chance
    assert len(found) >= 3
    for masses in found.values():
        total = sum(masses.values())
        assert masses.keys() == law.keys()
        assert all(masses[key] / total == pytest.approx(law[key], abs=FLOAT64) for key in law)


def test_windows_are_disjoint_and_begin_after_start():
    tokens = [1, 0, 2, 0, 0, 1, 1, 2, 0, 2, 2, 1]
    got = list(windows(tokens, start=0, length=3, asked=12))
    assert got == [(1, 0, 2), (0, 1, 1), (2, 2, 1)]


@pytest.mark.parametrize("tokens", [[1, 0], [], [1, 0, 2, 0], [1, 0, 1, 0], [2, 1, 1]])
def test_a_text_of_another_length_gives_an_outcome_that_no_law_has(tokens):
    got = list(windows(tokens, start=0, length=1, asked=3, eos=2))
    assert got[-1][-1] == WRONG


def test_a_text_that_ends_in_the_end_token_is_whole():
    assert list(windows([1, 2], start=0, length=3, asked=6, eos=2)) == [(1, 2)]
    # Too near the limit to count: a longer text could not have counted either.
    assert list(windows([1, 0, 1, 2], start=0, length=3, asked=4, eos=2)) == [(1, 0, 1)]


def test_as_many_outcomes_as_asked_for_with_seeds_of_their_own():
    seeds = []

    def chain(seed):
        seeds.append(seed)
        return sample(TARGET, 0, 20, seed)

    generate = from_chains(chain, start=0, length=2, asked=20)
    assert len(list(generate(30, 5))) == 30
    assert len(set(seeds)) == len(seeds) > 3
    with pytest.raises(ConfigError, match="length of a window"):
        from_chains(chain, start=0, length=21, asked=20)
