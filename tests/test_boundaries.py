"""Edges of the accept rules: extreme uniforms, empty residuals, odd V, bad rows, K = 0, purity."""

import array_api_compat.numpy as npx
import numpy as np
import pytest
from hypothesis import Phase, find, given, settings

from dspec.core.numerics import draw
from dspec.core.policies import ONE_HOT, REJECTION, SAMPLE_MATCH, draft_tokens, judge
from dspec.core.rejection import verify_greedy, verify_sample_match, verify_tokens
from dspec.core.types import Draft, Sampling, Uniforms
from dspec.core.warp import warp
from dspec.errors import ShapeError
from dspec.oracle.rejection import draw_two_level
from dspec.oracle.rejection import verify_greedy as oracle_greedy
from dspec.testing.checks.battery import TOP, battery
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import grid_uniforms
from dspec.testing.models.strategies import edge_rows
from dspec.testing.specimens.arrays import ARRAY_MUTANTS
from tests.namespaces import place
from tests.verifiers import MODES, core_verify

RULES = {"tokens": verify_tokens, "match": verify_sample_match}


@pytest.mark.clause("RS-4", "RS-5", "RS-7", "RS-9", "RS-16", "RS-17", "NU-3", "NU-4")
@pytest.mark.parametrize("mode", MODES)
def test_battery(xp, mode):
    report = check_boundaries(core_verify(xp, mode), xp=xp, mode=mode)
    assert report.passed, report
    assert report.tried["cases"] > 200 and report.tried["rows"] > 800


EDGES = (
    "disjoint, u=0.0", "disjoint, u=0.99", "equal, u=0.99", "one-hot equal", "one-hot against one-hot",
    "threshold itself", "certain", "empty residual", "top of the CDF", "bottom of the CDF", "V=1,", "V=127,",
    "V=128,", "V=129,", "V=257,", "V=1025,", "K=0", "NaN in", "inf in", "-inf in", "negative in", "sum 2 in",
    "all zero in", "rows alone", "rows reversed", "rows in halves", "rows beside a NaN row", "ragged K",
)  # fmt: skip


@pytest.mark.clause("RS-4", "RS-5", "RS-7", "RS-9", "RS-16")
def test_every_edge_of_the_list_is_in_the_battery():
    """A case that falls out of the battery would leave its report green."""
    names = [case.name for case in battery("rejection")]
    assert len(set(names)) == len(names)
    assert [edge for edge in EDGES if not any(name.startswith(edge) for name in names)] == []


@pytest.mark.clause("RS-4", "RS-5", "RS-7", "NU-3", "NU-4")
@settings(deadline=None, max_examples=200, derandomize=True)
@given(case=edge_rows())
def test_edge_rows_found_by_hypothesis(case):
    report = check_boundaries(core_verify(npx, "rejection"), xp=npx, given=[case])
    assert report.passed, (report, case)


@pytest.mark.clause("RS-4", "RS-7", "NU-4")
@pytest.mark.parametrize("number", (31, 32))
def test_edge_rows_find_what_only_edges_show(number):
    mutant = next(m for m in ARRAY_MUTANTS if m.number == number)

    def fails(case):
        return not check_boundaries(mutant.verify, xp=npx, given=[case]).passed

    search = settings(derandomize=True, max_examples=2000, database=None, phases=[Phase.generate])
    assert fails(find(edge_rows(), fails, settings=search))


@pytest.mark.clause("RS-9", "RS-16")
def test_a_failing_case_is_replayed_and_an_exception_is_a_failure():
    mutant = next(m for m in ARRAY_MUTANTS if m.cases == ("rows alone",))
    report = check_boundaries(mutant.verify, xp=npx)
    again = check_boundaries(mutant.verify, xp=npx, **report.replay["arguments"])
    assert not again.passed and again.counterexample == report.counterexample and again.tried["cases"] == 1

    def broken(*arrays):
        raise IndexError("out of rows")

    assert "IndexError: out of rows" in check_boundaries(broken, xp=npx).counterexample["wrong"]


@pytest.mark.clause("RS-7", "NU-1", "NU-4")
def test_draw_takes_the_witness_token_at_extreme_uniforms(xp):
    """The four corners of the uniforms, on laws with zeros, at V around the block edges."""
    rng = np.random.default_rng(1)
    corners = np.asarray([(a, b) for a in (0.0, TOP) for b in (0.0, TOP)], np.float32)
    for vocab in (1, 2, 3, 4, 5, 8, 9, 10, 24, 25, 26):
        # Integers over a power of two: sums are exact, so equality is due at the corners too.
        laws = rng.integers(0, 4, (20, vocab)).astype(np.float32)
        laws[:, rng.integers(vocab)] += 1
        for uniforms in corners:
            tiled = xp.asarray(np.tile(uniforms, (len(laws), 1)))
            got = np.asarray(draw(xp.asarray(laws), tiled, xp=xp)).tolist()
            assert got == [draw_two_level(law, uniforms.tolist()) for law in laws.tolist()]


@pytest.mark.clause("NU-1", "NU-4", "RS-7")
def test_draw_on_the_thresholds_themselves(xp):
    """A uniform equal to a threshold belongs to the token above; nothing left takes the last with mass."""
    law = [1.0, 1.0, 2.0, 0.0, 4.0, 0.0]  # two blocks of three: thresholds 1/2, and 1/4, 1/2
    needed = {(0.0, 0.25): 1, (0.0, 0.5): 2, (0.5, 0.0): 4, (1.0, 1.0): 4, (0.0, 1.0): 2}
    for uniforms, token in needed.items():
        got = draw(xp.asarray([law]), xp.asarray([uniforms]), xp=xp)
        assert int(got[0]) == token == draw_two_level(law, uniforms)


@pytest.mark.clause("RS-11", "NU-5", "DL-7")
def test_greedy_breaks_forced_ties_downwards(xp):
    """Integer logits 0..2 tie in almost every row; mutants that take the last index die here."""
    rng = np.random.default_rng(2)
    logits = rng.integers(0, 3, (500, 4, 5)).astype(np.float32)
    drafts = rng.integers(0, 5, (500, 3)).astype(np.int32)
    drafts[:250] = np.argmax(logits[:250, :3], axis=-1)
    verdict = verify_greedy(xp.asarray(logits), Draft(xp.asarray(drafts)), xp=xp)
    tokens, counts = np.asarray(verdict.tokens), np.asarray(verdict.n_accepted)
    ties = (logits == logits.max(-1, keepdims=True)).sum(-1) > 1
    assert ties.mean() > 0.4 and 0 < counts.mean() < 3
    for row in range(500):
        assert tokens[row, : counts[row] + 1].tolist() == oracle_greedy(
            logits[row].tolist(), drafts[row].tolist()
        )
        assert (tokens[row, counts[row] + 1 :] == -1).all()


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("bad", (np.nan, np.inf, "all -inf"))
def test_greedy_flags_rows_without_a_law(xp, bad):
    logits = np.zeros((3, 2, 4), np.float32)
    logits[1, 1] = -np.inf if bad == "all -inf" else [0, bad, 0, 0]
    verdict = verify_greedy(xp.asarray(logits), Draft(xp.asarray(np.zeros((3, 1), np.int32))), xp=xp)
    assert np.asarray(verdict.n_accepted).tolist() == [1, -1, 1]
    assert np.asarray(verdict.tokens)[1].tolist() == [-1, -1]


@pytest.mark.clause("RS-5", "RS-6")
@pytest.mark.parametrize("rule", RULES)
def test_nothing_follows_the_closing_token(xp, rule):
    target = np.tile(np.eye(4, dtype=np.float32)[[1, 2, 3]], (3, 1, 1))
    drafts = np.asarray([[1, 2], [1, 0], [0, 2]], np.int32)
    uniforms = Uniforms(xp.asarray(np.zeros((3, 2), np.float32)), xp.asarray(np.zeros((3, 3, 2), np.float32)))
    verdict = RULES[rule](xp.asarray(target), Draft(xp.asarray(drafts)), uniforms, xp=xp)
    assert np.asarray(verdict.n_accepted).tolist() == [2, 1, 0]
    assert np.asarray(verdict.tokens).tolist() == [[1, 2, 3], [1, 2, -1], [1, -1, -1]]


@pytest.mark.clause("RS-7", "NU-2")
@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_narrow_laws_never_emit_a_token_of_no_mass(room, dtype):
    """Low-precision inputs at the top of the CDF, with a third of the vocabulary at zero."""
    rng = np.random.default_rng(3)
    weights = rng.random((200, 2, 300)) * (rng.random((200, 2, 300)) > 1 / 3)
    weights[..., -50:] = 0
    laws = room.array((weights / weights.sum(-1, keepdims=True)).astype(np.float32), dtype)
    drafts = room.array(rng.integers(0, 300, (200, 1)).astype(np.int32))
    mass = room.numpy(laws)
    for u in (0.0, TOP):
        uniforms = Uniforms(room.xp.full((200, 1), u), room.xp.full((200, 2, 2), u))
        for rule in RULES.values():
            verdict = rule(laws, Draft(drafts), uniforms, xp=room.xp)
            counts, tokens = room.numpy(verdict.n_accepted), room.numpy(verdict.tokens)
            assert (counts >= 0).all()
            for row in range(200):
                for slot in range(counts[row] + 1):
                    assert mass[row, slot, tokens[row, slot]] > 0


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fault", ("rows", "slots", "vocabulary", "rank"))
def test_shapes_that_disagree_raise(xp, rule, fault):
    shapes = {"rows": (3, 3, 4), "slots": (2, 2, 4), "vocabulary": (2, 3, 4), "rank": (2, 4)}
    target = xp.full(shapes[fault], 0.25)
    vocab = 5 if fault == "vocabulary" else 4
    draft = Draft(xp.zeros((2, 2), dtype=xp.int32), xp.full((2, 2, vocab), 1 / vocab))
    uniforms = Uniforms(xp.zeros((2, 2)), xp.zeros((2, 3, 2)))
    with pytest.raises(ShapeError, match="NT-4"):
        RULES[rule](target, draft, uniforms, xp=xp)


@pytest.mark.clause("RS-2")
@pytest.mark.parametrize("vocab", (7, 4096))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_reported_law_is_the_law_that_was_drawn_from(room, dtype, vocab):
    """V is large because a law rounded after the draw shows in 0.07 % of rows at V = 3, 20 % at 4096."""
    rng = np.random.default_rng(4)
    logits = room.array(2 * rng.standard_normal((32, 2, vocab), dtype=np.float32), dtype)
    uniforms = grid_uniforms(rng, (32, 2, 2))
    sampling = Sampling(temperature=0.8, top_p=0.95)
    draft = draft_tokens(logits, REJECTION, sampling, room.array(uniforms), xp=room.xp)
    assert draft.probs.dtype == room.xp.float32
    laws, tokens = room.numpy(draft.probs), room.numpy(draft.tokens)
    wrong = 0
    for row in range(32):
        for slot in range(2):
            law = laws[row, slot].tolist()
            wrong += draw_two_level(law, uniforms[row, slot].tolist()) != tokens[row, slot]
    assert wrong == 0


@pytest.mark.clause("RS-13", "RS-2")
def test_drafts_are_drawn_from_the_warped_law(xp):
    """Drafting from the raw law stays exact but is not the one warp, and accepts less."""
    (logits,) = place([np.random.default_rng(7).standard_normal((2, 3, 9))], xp)
    sampling = Sampling(temperature=0.5, top_k=4)
    draft = draft_tokens(logits, REJECTION, sampling, xp.zeros((2, 3, 2)), xp=xp)
    assert np.array_equal(np.asarray(draft.probs), np.asarray(warp(logits, sampling, xp=xp)))


@pytest.mark.clause("RS-18")
def test_the_sample_match_policy_reads_the_uniforms_of_every_slot(xp):
    """Its law equals that of one-hot rejection (lemma 2), so only equal uniforms tell them apart."""
    rng = np.random.default_rng(8)
    logits, u = place((rng.standard_normal((50, 3, 6)), rng.random((50, 3, 2))), xp)
    draft = Draft(xp.asarray(np.argmax(np.asarray(logits)[:, :2], axis=-1).astype(np.int32)))
    uniforms = Uniforms(*place([rng.random((50, 2))], xp), u)
    sampling = Sampling(temperature=1.0)
    got = judge(logits, draft, SAMPLE_MATCH, sampling, uniforms, xp=xp)
    needed = verify_sample_match(warp(logits, sampling, xp=xp), draft, uniforms, xp=xp)
    assert np.array_equal(np.asarray(got.tokens), np.asarray(needed.tokens))
    other = verify_tokens(warp(logits, sampling, xp=xp), draft, uniforms, xp=xp)
    assert not np.array_equal(np.asarray(got.tokens), np.asarray(other.tokens))


@pytest.mark.clause("RS-2", "RS-18")
def test_argmax_drafts_report_no_law(xp):
    logits = xp.asarray([[[0.0, 2.0, 2.0]]])
    draft = draft_tokens(logits, ONE_HOT, Sampling(temperature=1.0), None, xp=xp)
    assert draft.probs is None and np.asarray(draft.tokens).tolist() == [[1]]
