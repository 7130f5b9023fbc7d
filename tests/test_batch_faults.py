"""Faults of a batch are seen: rows that mix, calls and settings that do not fit."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from dspec.backends import batch_checks, table_batch
from dspec.backends.batch_judge import BatchJudge
from dspec.core import batch as loop
from dspec.errors import ConfigError, ShapeError
from tests.batches import alone, gathered, letters, mixed, ragged, tables, together


def swapped_lengths(patch):
    plain = table_batch.TableTargetBatch.rewind
    patch.setattr(
        table_batch.TableTargetBatch, "rewind", lambda self, lengths: plain(self, list(lengths)[::-1])
    )


def never_rewound(patch):
    patch.setattr(table_batch.TableTargetBatch, "rewind", lambda self, lengths: None)


def swapped_anchors(patch):
    plain = table_batch.TableDrafterBatch.propose
    patch.setattr(
        table_batch.TableDrafterBatch,
        "propose",
        lambda self, anchors, *rest, **rows: plain(self, list(anchors)[::-1], *rest, **rows),
    )


def neighbours_uniforms(patch):
    plain = BatchJudge._host

    def wrong(self, who, positions, parts):
        return [np.roll(array, 1, axis=0) for array in plain(self, who, positions, parts)]

    patch.setattr(BatchJudge, "_host", wrong)


def one_group(patch):
    plain = BatchJudge._grouped

    def wrong(self, who, lengths):
        groups = plain(self, who, lengths)
        alike = [replace(group, sampling=groups.each[0].sampling) for group in groups.each]
        return replace(groups, each=tuple(alike))

    patch.setattr(BatchJudge, "_grouped", wrong)


def back_to_front(patch):
    plain = BatchJudge._grouped

    def wrong(self, who, lengths):
        groups = plain(self, who, lengths)
        return groups if groups.back is None else replace(groups, back=groups.back[::-1])

    patch.setattr(BatchJudge, "_grouped", wrong)


def left_over(patch):
    """A stopped request keeps its row: what follows it is shown as its own."""
    patch.setattr(loop._Rows, "leave", lambda self, row, who: None)


@pytest.mark.parametrize(
    "mutant",
    [
        swapped_lengths,
        never_rewound,
        swapped_anchors,
        neighbours_uniforms,
        one_group,
        back_to_front,
        left_over,
    ],
)
@pytest.mark.clause("DL-12", "DL-4", "RN-4")
def test_rows_that_mix_are_seen(mutant, monkeypatch):
    engine = letters()
    prompts = ["".join("abcd"[i] for i in ids if i < 4) or "a" for ids in ragged(12, seed=5)]
    settings = [{**one, "stop": "ab"} for one in mixed(12, ignore_eos=True)]
    own = alone(engine, prompts, settings)
    assert together(engine, prompts, settings, 4) == own
    mutant(monkeypatch)
    with contextlib.suppress(ConfigError, ShapeError):  # refused is seen as well
        assert together(engine, prompts, settings, 4) != own


@pytest.mark.clause("RS-13", "DL-12")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e.generate([[1], [2]], batch_size=0), "batch_size: got 0"),
        (lambda e: e.generate([1], batch_size="8"), "batch_size: got '8'"),
        (lambda e: e.stream_many([[1]], batch_size=True), "batch_size: got True"),
        (lambda e: e.stream_many([1, 2]), r"prompts: got \[1, 2\]; needs a list of prompts"),
        (lambda e: e.stream_many("text"), "prompts: got 'text'"),
        (lambda e: e.stream_many([[1], [2]], settings=[{}]), "settings: got .*needs 2 mappings"),
        (lambda e: e.stream_many([[1]], settings={"seed": 1}), "settings: got"),
        (lambda e: e.stream_many([[1]], settings=[{"sed": 1}]), "the setting 'sed'"),
        (lambda e: e.stream_many([[1], []]), r"prompt\[1\]: got no tokens"),
        (lambda e: e.stream_many([[1]], settings=[{"stop": "x"}]), "stop: got"),
    ],
)
def test_what_cannot_be_honoured_raises_at_the_call(call, words):
    with pytest.raises(ConfigError, match=words):
        call(tables())


def test_no_prompts_are_no_chunks_and_own_settings_go_before_shared_ones():
    engine = tables()
    assert list(engine.stream_many([])) == []
    found = gathered(
        2,
        engine.stream_many(
            [[1], [2]], settings=[{}, {"max_new_tokens": 2}], max_new_tokens=5, ignore_eos=True
        ),
    )
    assert [sum(len(c.tokens) for c in chunks) for chunks in found] == [5, 2]
    assert list(engine.stream_many(np.array([[1, 2], [3, 4]]), max_new_tokens=1))[1][0] == 1


@pytest.mark.clause("DL-12", "DL-4", "DL-5", "NT-3", "NT-4")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: batch_checks.check_batch_rows(0), "rows: got 0"),
        (lambda: batch_checks.check_prompt_row(2, [0, 0]), "row: got 2; needs one of 2 rows"),
        (lambda: batch_checks.check_prompt_row(1, [0, 3]), "row 1 with 3 positions"),
        (lambda: batch_checks.check_rewind_rows([1], [1, 2]), "lengths: got 1 rows"),
        (lambda: batch_checks.check_rewind_rows([1, -1], [1, 2]), r"lengths\[1\]: got -1"),
        (lambda: batch_checks.check_window(1, 2, 2), "rows of a pass: got 2 rows from row 1 on"),
        (lambda: batch_checks.check_window(0, 0, 2), "rows of a pass: got 0 rows"),
        (lambda: scored([0], (2, 3)), "score: got 1 anchors"),
        (lambda: scored([0, 0], (1, 3)), "score: got"),
        (lambda: scored([0, 9], (2, 3)), r"anchors\[1\]: got 9"),
        (lambda: scored([0, 0], (2, 7)), "capacity: got 11; needs at most 10 positions a row"),
        (lambda: proposed([0], [1, 4]), "propose: got 1 anchors"),
        (lambda: proposed([0, 9], [1, 4]), r"anchors\[1\]: got 9"),
        (lambda: proposed([0, 0], [1, 4], (1, 2, 5)), "features: got"),
        (lambda: proposed([0, 0], [1, 4], (2, 5, 5)), "features: got"),
        (lambda: proposed([0, 0], [1, 6], (2, 2, 5)), r"positions\[1\]: got 6; needs 3..5"),
        (lambda: proposed([0, 0], [1, 2], (2, 2, 5)), r"positions\[1\]: got 2"),
        (lambda: proposed([0, 0], [1, 7], (2, 4, 5)), "capacity: got 11"),
    ],
)
def test_rows_that_do_not_fit_are_refused(call, words):
    with pytest.raises((ConfigError, ShapeError), match=words):
        call()


def scored(anchors, shape):
    batch_checks.check_score_rows(anchors, np.zeros(shape), [1, 3], capacity=10, vocab_size=9)


def proposed(anchors, positions, shape=(2, 2, 5)):
    sizes = {"capacity": 10, "block_size": 4, "vocab_size": 9}
    added = batch_checks.check_features(np.zeros(shape), 2, 4)
    batch_checks.check_proposal_rows(anchors, positions, [1, 3], [added] * 2, **sizes)
