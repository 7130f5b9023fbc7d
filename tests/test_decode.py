"""The decode loop: bookkeeping, stops, limits, cache lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspec.backends.judge import NoDrafter, RequestJudge
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.core.decode import Limits, decode
from dspec.core.policies import choose_policy
from dspec.core.types import Sampling
from dspec.errors import ConfigError, NumericsError
from dspec.rng import Stream

V = 5


def tables(seed, *, slots=3, period=2):
    """A random target and an autoregressive drafter close to it, so that some drafts stand."""
    rng = np.random.default_rng(seed)
    target = rng.dirichlet(np.full(V, 0.5), (period, V))
    draft = 0.7 * target[np.arange(slots) % period] + 0.3 * rng.dirichlet(np.ones(V), (slots, V))
    return TableTarget(target), TableDrafter(draft, autoregressive=True)


def passes(target, drafter, limits, *, seed=0, temperature=1.0, policy=None, prompt=(0, 1)):
    """Run the loop and return its passes and the two sessions."""
    sampling = Sampling(temperature=temperature)
    stream, policy = Stream(seed), choose_policy(policy, sampling)
    judge = RequestJudge(NumpyOps(), policy, sampling, stream, drafter.block_size - 1 if drafter else 0)
    sessions = target.session(), drafter.session(target) if drafter else NoDrafter(NumpyOps())
    return list(decode(*sessions, judge, list(prompt), limits)), *sessions


@pytest.mark.clause("DL-1")
@pytest.mark.clause("DL-2")
def test_the_prefill_emits_one_token_that_belongs_to_no_pass():
    run, *_ = passes(*tables(0), Limits(20))
    assert len(run[0].tokens) == 1 and run[0].n_accepted is None and run[0].n_emitted is None
    assert all(p.n_emitted == p.n_accepted + 1 == len(p.tokens) for p in run[1:-1])
    assert len(run) > 3 and any(p.n_accepted for p in run[1:])


@pytest.mark.clause("DL-3")
@pytest.mark.clause("RS-14")
@given(st.integers(0, 30), st.integers(1, 12), st.sets(st.integers(0, V - 1), max_size=2))
def test_output_is_the_free_run_cut_at_the_first_stop_within_the_budget(seed, budget, eos):
    free, *_ = passes(*tables(seed), Limits(40), seed=seed)
    whole = [token for p in free for token in p.tokens]
    cut = next((i + 1 for i, token in enumerate(whole[:budget]) if token in eos), None)
    run, *_ = passes(*tables(seed), Limits(budget, frozenset(eos)), seed=seed)
    assert [token for p in run for token in p.tokens] == whole[: cut or budget]
    assert run[-1].finish == ("eos" if cut else "length")
    assert [p.finish for p in run[:-1]] == [None] * (len(run) - 1)


@pytest.mark.clause("DL-4")
@pytest.mark.clause("DL-5")
@pytest.mark.clause("RS-15")
def test_both_caches_hold_what_lies_before_the_anchor():
    target, drafter = tables(3)
    lengths = []

    class Spy:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def propose(self, anchor, position, features, rule, **cut):
            draft = self.inner.propose(anchor, position, features, rule, **cut)
            lengths.append((position, session.length, self.inner.length))
            return draft

    session, sampling = target.session(), Sampling(temperature=1.0)
    judge = RequestJudge(NumpyOps(), choose_policy(None, sampling), sampling, Stream(1), 3)
    run = list(decode(session, Spy(drafter.session(target)), judge, [0, 1], Limits(20)))
    starts = np.cumsum([2, *(p.n_emitted for p in run[1:-1])])
    assert lengths == [(at, at, at) for at in starts]


@pytest.mark.clause("DL-7")
@pytest.mark.clause("RS-11")
@given(st.integers(0, 200))
def test_greedy_equals_the_targets_own_greedy(seed):
    target, drafter = tables(seed)
    fast, *_ = passes(target, drafter, Limits(15), temperature=0.0)
    slow, *_ = passes(target, None, Limits(15), temperature=0.0)
    assert [t for p in fast for t in p.tokens] == [t for p in slow for t in p.tokens]
    assert len(slow) == 15


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_law_of_nan_emits_nothing_and_names_request_and_position(temperature):
    target, drafter = tables(0)
    target.table[:] = np.nan  # after its own check: a model that breaks while it runs
    with pytest.raises(NumericsError, match=r"request 0, pass at position 1.*\[RS-16\]"):
        passes(target, drafter, Limits(5), temperature=temperature)


@pytest.mark.clause("DL-1")
def test_no_tokens_to_begin_with_is_refused():
    with pytest.raises(ConfigError, match="prompt: got no tokens"):
        passes(*tables(0), Limits(5), prompt=())


@pytest.mark.clause("DL-3")
def test_a_budget_of_no_tokens_is_refused():
    with pytest.raises(ConfigError, match="max_new_tokens: got 0"):
        Limits(0)


@pytest.mark.clause("RS-10")
@pytest.mark.clause("RN-1")
def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    runs = [passes(*tables(5), Limits(30), seed=seed)[0] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.clause("DL-6")
def test_one_host_read_a_pass():
    class Counting(NumpyOps):
        reads = 0

        def to_host(self, array):
            Counting.reads += 1
            return super().to_host(array)

    target, drafter = tables(2)
    sampling = Sampling(temperature=1.0)
    judge = RequestJudge(Counting(), choose_policy("rejection", sampling), sampling, Stream(0), 3)
    run = list(decode(target.session(), drafter.session(target), judge, [0], Limits(20)))
    assert Counting.reads == len(run)
