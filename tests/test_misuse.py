"""What is no sampler, no law or no answer is told apart from a wrong one, and nothing untried passes."""

import random
from dataclasses import replace
from types import SimpleNamespace

import array_api_compat.numpy as npx
import numpy as np
import pytest

import dspec
from dspec.errors import ConfigError, DataError, ShapeError
from dspec.testing.adapters import from_callable
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import check_coupling
from dspec.testing.checks.independence import check_independence
from dspec.testing.checks.lattice import check_lattice
from dspec.testing.checks.laws import check_distribution, least_detectable
from dspec.testing.clause_table import clause_table
from dspec.testing.levels import SMOKE
from dspec.testing.plan import Part
from dspec.testing.replay import run
from dspec.testing.report import Report, merge
from dspec.testing.run import bench_of, run_part, subject_parts

pytestmark = pytest.mark.clause("RS-20")

COIN = {"H": 0.5, "T": 0.5}
PAIRS = {(0,): 0.5, (1,): 0.5}


def coin(n, seed):
    return random.Random(seed).choices("HT", k=n)


@pytest.mark.parametrize("law", [{"H": 1, "T": 1}, {"H": 1.5, "T": -0.5}, {"H": 0.4, "T": 0.4}, {}])
def test_weights_are_no_law(law):
    with pytest.raises(ConfigError, match=r"law.*1 in all"):
        dspec.check_exactness(from_callable(coin, law=law))


@pytest.mark.parametrize("given", [lambda n, s: coin(5, s), lambda n, s: coin(n + 1, s), lambda n, s: None])
def test_another_number_of_outcomes_than_asked_for_never_passes(given):
    """Five draws of 300 were once "passed", with a stated power of five."""
    with pytest.raises(ShapeError, match="as many as were asked for"):
        check_distribution(given, COIN, n=300, seed=0)
    report = dspec.check_exactness(from_callable(given, law=COIN))
    assert not report.passed and "as many as were asked for" in str(report)


@pytest.mark.parametrize("form", [list, tuple, np.asarray])
def test_an_outcome_may_be_a_list_or_an_array(form):
    def generate(n, seed):
        return [form([random.Random(f"{seed} {i}").randrange(2)]) for i in range(n)]

    assert check_distribution(generate, PAIRS, n=200, seed=0).passed


def test_no_total_variation_above_one_is_stated():
    assert least_detectable(1000, 10, alpha=1e-9, beta=1e-6) == 1
    law = {token: 1 / 64 for token in range(64)}
    report = check_distribution(lambda n, seed: range(n), law, n=20, seed=0)
    assert report.delta == 1 and "too few draws" in str(report)


@pytest.mark.parametrize("coins", ["HT", (0, 1), ((0, 1), (1, 0))])
def test_outcomes_that_json_has_no_keys_for_are_replayed_as_they_are(coins):
    """A report's text turns "H" into ["H"]: read back as a law, it would forbid every outcome."""
    law = dict.fromkeys(coins, 0.5)
    wrong = from_callable(lambda n, seed: [coins[0]] * n, law=law)
    right = from_callable(lambda n, seed: random.Random(seed).choices(coins, k=n), law=law)
    text = dspec.check_exactness(wrong).to_json()
    assert not run(text, wrong).passed and not run(text, wrong).counterexample["forbidden"]
    assert run(text, right).passed
    with pytest.raises(DataError, match=r"replay\.run"):
        run(text)  # a name is not enough to find somebody's function by


def test_another_seed_gives_other_draws():
    seen = []

    def generate(n, seed):
        seen.append(seed)
        return coin(n, seed)

    for seed in (0, 7):
        dspec.check_exactness(from_callable(generate, law=COIN), seed=seed)
    assert seen == [0, 7]


@pytest.mark.parametrize("given", [lambda p, d: (d, d), lambda *a, xp: a])
def test_a_function_of_other_arguments_is_named_before_anything_runs(given):
    with pytest.raises(ConfigError, match="target_probs, draft_tokens"):
        dspec.check_exactness(given)
    with pytest.raises(ConfigError, match=r"\(n, seed\)"):
        from_callable(lambda n: [], law=COIN)


ANSWERS = {
    "nothing": lambda d: None,
    "too few tokens": lambda d: (d, 0 * d[:, 0]),
    "no row a draft": lambda d: (np.zeros((len(d), d.shape[1] + 1), int), 0),
    "floats": lambda d: (np.zeros((len(d), d.shape[1] + 1)), 0 * d[:, 0]),
}


@pytest.mark.parametrize("wrong", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_of_another_shape_is_named(wrong):
    def verify(target, drafts, laws, accept, close):
        return wrong(drafts)

    with pytest.raises(ShapeError, match=r"\(B"):
        check_lattice(verify, xp=npx, dtype=npx.float32, count=1)
    with pytest.raises(ShapeError, match=r"\(B"):
        check_coupling(verify, xp=npx, rows=2)
    assert "ShapeError" in check_boundaries(verify, xp=npx).counterexample["wrong"]


@pytest.mark.parametrize("subject", [SimpleNamespace(kind="verifier"), SimpleNamespace(kind="generate")])
def test_an_adapter_of_no_known_kind_is_refused(subject):
    with pytest.raises(ConfigError, match="kind of an adapter"):
        dspec.check_exactness(subject)


def test_a_name_that_no_instance_has_is_no_pass():
    with pytest.raises(ConfigError, match="case of the battery"):
        check_boundaries(lambda *given: None, xp=npx, only="no such case")
    with pytest.raises(ConfigError, match="only"):
        check_independence(lambda n, seed: [], PAIRS, n=10, only="no such kind")


@pytest.mark.parametrize(
    "part", [Part("streams", "loop", "exact", ""), Part("exact_law", "loop", "exact", "")]
)
def test_what_tried_nothing_did_not_pass(part):
    only = {"keys": []} if part.check == "streams" else {"worlds": []}
    given = {"count": 1, "seed": 0, "policy": "greedy"}
    report = run_part(replace(part, arguments=given), only=only)
    assert report.status == "not run here" and not merge("all", [report]).passed


def test_a_check_that_broke_off_fails_what_it_shows_elsewhere():
    """A crash names no clauses; those that the check shows of another mode were once left "passed"."""
    ran = Report("lattice", True, {"rows": 1}, subject="torch float32 match", clauses=("RS-1",))
    broke = Report("lattice", False, {}, subject="torch float32 rejection")
    other = Report("coupling", True, {"rows": 1}, subject="torch float32 match", clauses=("RS-10",))
    cells = {
        row.clause: row.cells[("torch", "float32")]
        for row in clause_table(merge("x", [ran, broke, other])).rows
    }
    assert cells["RS-1"] == "FAILED" and cells["RS-10"] == "passed"


def test_a_right_verifier_of_another_map_is_told_that_it_may_be_right():
    """Correct, but it draws by one cumulative sum: the lattice cannot count it, and its report says so."""

    def verify(target, drafts, laws, accept, close):
        tokens, n_accepted = np.full((len(drafts), drafts.shape[1] + 1), -1), np.zeros(len(drafts), int)
        tokens[:, 0] = (np.cumsum(target[:, 0], axis=-1) <= close[:, :1, 0]).sum(axis=-1)
        return tokens, n_accepted

    report = run_part(
        Part(
            "lattice", "mine", "float32", "", {"mode": "rejection", "dtype": "float32", "count": 6, "seed": 0}
        ),
        bench_of(verify),
    )
    assert not report.passed and "RS-10" in report.counterexample["note"]


def test_a_slow_verifier_gets_fewer_instances_and_rows_of_each_kind():
    def parts(rows):
        adapter = replace(from_callable(lambda p, d, q, a, c: (d, d)), rows=rows)
        return list(subject_parts(bench_of(adapter), SMOKE, seed=0))

    def count(rows, check, what):
        return sum(part.arguments[what] for part in parts(rows) if part.check == check)

    assert count(None, "lattice", "count") == SMOKE.instances
    assert count(200_000, "lattice", "count") == count(500, "lattice", "count") == 2  # V = 4 and V = 5
    assert count(500, "coupling", "rows") == 500 + SMOKE.wide_rows
