"""Other engines under the kit: right ones pass, wrong ones fail, missing ones say what is missing.

Every statistical assertion has a false-fail rate of 1e-9 (seeds are fixed); the rate at which a wrong
engine passes stands beside it.
"""

import inspect
import sys
from types import ModuleType

import pytest

import dspec
from dspec.errors import BackendUnavailable, ConfigError
from dspec.testing.adapters import hf_sampler
from dspec.testing.adapters.sources import (
    DRAFTER,
    TARGET,
    from_callable,
    from_hf_assisted,
    from_hf_sampler,
    from_mlx_lm,
    from_vllm_sampler,
)
from dspec.testing.checks.battery import battery
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import check_coupling
from dspec.testing.checks.laws import check_distribution
from dspec.testing.models.tabular import chain_law
from dspec.testing.specimens.arrays import Arrays
from tests.hf_like import strict_sampling
from tests.table_server import sample

# 300 draws of these laws miss total variation 0.44 with chance 1e-6; the wrong engines below are further off.
DRAWS = 300


def judged(adapter, *, n=DRAWS, law=None):
    """The report on an adapter's outputs."""
    return check_distribution(adapter.generate, law or adapter.law, n=n, seed=1)


# -- functions -----------------------------------------------------------------------------------------


@pytest.mark.clause("RS-20")
def test_a_verifier_function_is_checked_without_chance():
    right, wrong = (
        from_callable(Arrays(), name="right"),
        from_callable(Arrays(accepts=lambda u, q, p: u * p < q)),
    )
    assert (right.kind, right.name, wrong.name) == ("verify", "right", "Arrays")
    assert check_boundaries(right.verify, xp=right.xp, mode=right.mode).passed
    assert not check_boundaries(wrong.verify, xp=wrong.xp, mode=wrong.mode).passed
    with pytest.raises(ConfigError, match="mode"):
        from_callable(Arrays(), mode="token")


@pytest.mark.clause("RS-20")
def test_check_exactness_takes_adapters():
    report = dspec.check_exactness(from_callable(Arrays(), name="right"), level="smoke")
    assert report.passed, report
    wrong = from_callable(Arrays(stale_bonus=True), name="wrong")
    assert not dspec.check_exactness(wrong, level="smoke").passed
    for table, right in ((TARGET, True), (DRAFTER, False)):
        engine = from_callable(plain(table), law=chain_law(TARGET, 0, 3))
        report = dspec.check_exactness(engine, level="smoke")
        assert report.passed == right, report
        assert report.alpha > 0 and report.beta is not None and report.delta is not None


def plain(table):
    """A generator of three tokens of a table, without drafts."""
    return lambda n, seed: (tuple(sample(table, 0, 3, seed * 2**20 + i)) for i in range(n))


# -- transformers --------------------------------------------------------------------------------------


@pytest.mark.clause("RS-1", "RS-3")
def test_transformers_assisted_generation(monkeypatch):
    """Accepting all, over 1 outcome of 5 is forbidden: 80 draws show none of those with chance 2e-8."""
    from transformers.generation import utils

    adapter = from_hf_assisted()
    assert {"torch", "transformers"} <= adapter.versions.keys()
    report = judged(adapter, n=200)
    assert report.passed, report

    # A law that any other temperature moves far: 1 in 64 at 1, 1 in 4 at 4, 1 in 4,000 at 1/2.
    rare = from_hf_assisted([[1, 63], [1, 63]], [[1, 1], [1, 1]], start=1, length=1)
    report = judged(rare, n=100)
    assert report.passed, report

    def accepts_all(ids, candidate_logits, candidate_length, new_logits, **_):
        bonus = new_logits[:, -1].softmax(-1).multinomial(1)
        return utils.torch.cat((ids[:, -candidate_length:], bonus), dim=-1), utils.torch.tensor(
            candidate_length
        )

    monkeypatch.setattr(utils, "_speculative_sampling", accepts_all)
    assert not judged(adapter, n=80).passed


def test_the_callers_torch_generator_is_left_alone():
    import torch

    torch.manual_seed(3)
    needed = torch.rand(2)
    torch.manual_seed(3)
    judged(from_hf_sampler(given=False), n=5)
    assert torch.equal(torch.rand(2), needed)


@pytest.mark.clause("RS-4", "RS-7")
def test_transformers_sampler_is_judged_at_the_edges_as_its_source_says(monkeypatch):
    """`r <= p/q` accepts a draft of probability 0 at r = 0; a function with `<` passes the same battery."""
    adapter = from_hf_sampler()
    report = check_boundaries(adapter.verify, xp=adapter.xp, only="disjoint, u=0.0")
    assert report.tried["cases"] == 1
    assert report.passed != ("r_i <= probability_ratio" in inspect.getsource(hf_sampler.hf_function()))
    assert check_boundaries(adapter.verify, xp=adapter.xp, only="disjoint, u=0.5").passed
    # torch refuses to draw from NaN, and so the adapter flags the row.
    assert check_boundaries(adapter.verify, xp=adapter.xp, only="NaN in target slot 0").passed
    monkeypatch.setattr(hf_sampler, "hf_function", lambda: strict_sampling)
    # A law of sum 2 cannot be said in logits.
    cases = [case for case in battery("rejection") if "sum 2" not in case.name]
    report = check_boundaries(adapter.verify, xp=adapter.xp, given=cases)
    assert report.passed, report


@pytest.mark.clause("RS-10")
def test_transformers_sampler_agrees_with_the_reference_on_given_uniforms(monkeypatch):
    adapter = from_hf_sampler()
    report = check_coupling(adapter.verify, xp=adapter.xp, rows=300, vocab=32)
    assert report.passed, report
    monkeypatch.setattr(hf_sampler._Given, "rand_like", lambda self, ratio: ratio * 0 + 0.5)
    assert not check_coupling(adapter.verify, xp=adapter.xp, rows=300, vocab=32).passed


@pytest.mark.clause("RS-1")
def test_transformers_sampler_with_its_own_draws(monkeypatch):
    """Without the residual's own row the law moves by 0.2: 4,000 draws miss 0.13 with chance 1e-6."""
    report = judged(from_hf_sampler(given=False), n=1000)
    assert report.passed, report
    right = hf_sampler.hf_function()

    def from_target(ids, candidate_logits, candidate_length, new_logits):
        tokens, n = right(ids, candidate_logits, candidate_length, new_logits)
        last = new_logits[0, int(n)].softmax(-1).multinomial(1)
        tokens[0, -1] = last[0]
        return tokens, n

    monkeypatch.setattr(hf_sampler, "hf_function", lambda: from_target)
    assert not judged(from_hf_sampler(given=False), n=4000).passed


# -- mlx-lm --------------------------------------------------------------------------------------------


@pytest.mark.mlx
@pytest.mark.clause("RS-1", "RS-3")
def test_mlx_lms_speculative_loop(monkeypatch):
    """Drawing evenly, over 1 of 5 outcomes is forbidden: 80 draws show none with chance 2e-8."""
    pytest.importorskip("mlx_lm")
    from mlx_lm import sample_utils

    report = judged(from_mlx_lm(), n=200)
    assert report.passed, report
    right = sample_utils.make_sampler
    monkeypatch.setattr(sample_utils, "make_sampler", lambda temp: right(temp=1e6 * temp))
    assert not judged(from_mlx_lm(), n=80).passed


# -- vLLM ----------------------------------------------------------------------------------------------


def fake_vllm(monkeypatch, function):
    """Install a package of vLLM's layout whose rejection_sample is ours."""
    name = "vllm.v1.sample.rejection_sampler"
    for end in range(1, 5):
        part = ".".join(name.split(".")[:end])
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    sys.modules["vllm"].__version__ = "0.0.fake"
    sys.modules[name].rejection_sample = function


def flat_sampler(*, resample_from_target=False):
    """Rejection sampling over vLLM's flat arrays: row ends in cu_num_draft_tokens, -1 after the end."""

    def rejection_sample(
        draft_token_ids,
        num_draft_tokens,
        max_spec_len,
        cu_num_draft_tokens,
        draft_probs,
        target_probs,
        bonus_token_ids,
        sampling_metadata,
    ):
        import torch

        assert sampling_metadata.all_random and not sampling_metadata.all_greedy
        out = torch.full((len(num_draft_tokens), max_spec_len + 1), -1, dtype=torch.int32)
        u = torch.rand(len(draft_token_ids))
        for row, end in enumerate(cu_num_draft_tokens.tolist()):
            for slot, at in enumerate(range(end - num_draft_tokens[row], end)):
                p, q, token = target_probs[at], draft_probs[at], draft_token_ids[at]
                if not u[at] * q[token] < p[token]:
                    left = p if resample_from_target else (p - q).clamp(min=0)
                    out[row, slot] = left.multinomial(1)
                    break
                out[row, slot] = token
            else:
                out[row, num_draft_tokens[row]] = bonus_token_ids[row, 0]
        return out

    return rejection_sample


@pytest.mark.clause("RS-1")
def test_vllms_sampler_is_called_as_its_source_reads(monkeypatch):
    """No vLLM here: the plumbing is checked with a right and a wrong function of the same signature."""
    fake_vllm(monkeypatch, flat_sampler())
    adapter = from_vllm_sampler(device="cpu")
    assert adapter.versions["vllm"] == "0.0.fake"
    report = judged(adapter, n=4000)
    assert report.passed, report
    fake_vllm(monkeypatch, flat_sampler(resample_from_target=True))
    assert not judged(from_vllm_sampler(device="cpu"), n=4000).passed


def test_vllm_that_is_missing_or_asks_for_more_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(BackendUnavailable, match="pip install vllm"):
        from_vllm_sampler()
    fake_vllm(monkeypatch, lambda draft_token_ids, colour: None)
    with pytest.raises(BackendUnavailable, match="'colour'"):
        judged(from_vllm_sampler(device="cpu"))


@pytest.mark.parametrize(("build", "module"), [(from_mlx_lm, "mlx_lm"), (from_hf_assisted, "transformers")])
def test_a_missing_package_is_named(monkeypatch, build, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=module.replace("_", "-")):
        build()
