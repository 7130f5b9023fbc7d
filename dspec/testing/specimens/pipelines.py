"""Wrong pipelines, each with the check that must fail on it, and right ones that it must let pass.

What surrounds the accept rule: state, uniforms, batches, stops, ties, proposals. The numbers are those of
the survey of field bugs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat.numpy as npx

from dspec.testing.checks.honesty import check_honesty
from dspec.testing.checks.isolation import check_isolation
from dspec.testing.checks.rollback import check_rollback
from dspec.testing.checks.several import check_several
from dspec.testing.checks.several_coupling import check_several_coupling
from dspec.testing.checks.slot_instances import KINDS
from dspec.testing.checks.stops import check_stop_rules
from dspec.testing.checks.ties import check_greedy
from dspec.testing.report import Report, merge
from dspec.testing.specimens import (
    faulty_batches,
    faulty_loops,
    faulty_rows,
    faulty_rules,
    faulty_sessions,
    faulty_slots,
)


def _every_kind(check: Callable[..., Report], subject: Any, **options: Any) -> Report:
    """Return the first report that failed of the kinds of drafts, or all in one."""
    reports = []
    for kind in KINDS:
        reports.append(check(subject, kind=kind, **options))
        if not reports[-1].passed:
            return reports[-1]
    return replace(merge(reports[0].check, reports), parts=())


# name -> subject to report; all deterministic but the e-value of independence (alpha 1e-9 a run).
PIPELINE_CHECKS: dict[str, Callable[[Any], Report]] = {
    "rollback": lambda subject: check_rollback(subject, steps=40),
    "stop_rules": check_stop_rules,
    "isolation": check_isolation,
    "independence": lambda subject: subject.check(),
    "greedy": lambda subject: check_greedy(subject, xp=npx),
    "honesty": lambda subject: check_honesty(subject, xp=npx),
    "several": lambda subject: _every_kind(check_several, subject),
    "several_coupling": lambda subject: _every_kind(check_several_coupling, subject),
}


@dataclass(frozen=True)
class PipelineSpecimen:
    """One pipeline, or a part of one.

    Args:
        name: what it does.
        subject: what its check takes.
        check: a name in PIPELINE_CHECKS.
        wrong: whether that check must fail.
        number: of the field bug in the survey; 0 for none.
    """

    name: str
    subject: Any
    check: str
    wrong: bool = True
    number: int = 0

    @property
    def killed_by(self) -> str:
        """The check that must fail; "" for a right one."""
        return self.check if self.wrong else ""

    def run(self) -> Report:
        """Run the specimen's check.

        Example:
            >>> PIPELINE_CONTROLS[0].run().passed
            True
        """
        return PIPELINE_CHECKS[self.check](self.subject)


NUMBERS = {
    "rejected drafts stay in the cache": 27,
    "junk after the end token": 28,
    "the end token is dropped": 29,
    "one generator, advanced by every row": 36,
    "one generator a seed, advanced by its rows": 36,
    "requests without drafts advance the others": 36,
    "one uniform for all rows": 13,
    "draft u reused for acceptance": 11,
    "draft u reused for the closing token": 22,
    "one uniform for all slots": 12,
    "the last index of the largest": 35,
    "any largest is accepted": 35,
    "drawn in bfloat16, reported in float32": 34,
    "argmax with a soft law": 21,
    "drawn after top-p, reported before": 23,
}


def _specimens(check: str, subjects: dict[str, Any], *, wrong: bool) -> list[PipelineSpecimen]:
    return [PipelineSpecimen(name, it, check, wrong, NUMBERS.get(name, 0)) for name, it in subjects.items()]


PIPELINE_MUTANTS: list[PipelineSpecimen] = [
    *_specimens("rollback", faulty_sessions.specimens(faulty_sessions.WRONG), wrong=True),
    *_specimens("stop_rules", faulty_loops.WRONG, wrong=True),
    *_specimens("isolation", faulty_batches.WRONG_BATCHES, wrong=True),
    *_specimens("isolation", faulty_rows.WRONG, wrong=True),
    *_specimens("independence", faulty_batches.WRONG_REQUESTS, wrong=True),
    *_specimens("greedy", faulty_rules.WRONG_GREEDY, wrong=True),
    *_specimens("honesty", faulty_rules.WRONG_PROPOSALS, wrong=True),
    *_specimens("several", faulty_slots.WRONG, wrong=True),
    *_specimens("several_coupling", faulty_slots.WRONG_MAPS, wrong=True),
]
PIPELINE_CONTROLS: list[PipelineSpecimen] = [
    *_specimens("rollback", faulty_sessions.specimens(faulty_sessions.RIGHT), wrong=False),
    *_specimens("stop_rules", faulty_loops.RIGHT, wrong=False),
    *_specimens("isolation", faulty_batches.RIGHT_BATCHES, wrong=False),
    *_specimens("isolation", faulty_rows.RIGHT, wrong=False),
    *_specimens("independence", faulty_batches.RIGHT_REQUESTS, wrong=False),
    *_specimens("greedy", faulty_rules.RIGHT_GREEDY, wrong=False),
    *_specimens("honesty", faulty_rules.RIGHT_PROPOSALS, wrong=False),
    *_specimens("several", faulty_slots.RIGHT, wrong=False),
]
