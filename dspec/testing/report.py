"""What a check answers: passed or not, what was tried, with what power, and one counterexample."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from dspec.errors import DataError, explain

NOT_RUN = "not run here"
_CLAUSE = re.compile(r"[A-Z]{2}-[1-9]\d{0,3}")


@dataclass(frozen=True)
class Report:
    """The answer of one check, or of several merged into one.

    Spec: RS-20.

    Args:
        check: name of the check.
        passed: whether nothing wrong was found.
        tried: what was tried, as counts: {"worlds": 6, "paths": 4312}.
        alpha: chance that a correct sampler fails this check; 0 for exact checks.
        beta: chance that a sampler off by `delta` or more passes; None for exact checks.
        delta: total variation from the law that goes with `beta`; None for exact checks.
        counterexample: the first thing found wrong, for a person to read; None when passed.
        clauses: ids of the clauses that the verdict stands behind.
        subject: what was checked, such as "torch float32 rejection".
        replay: {"check": name, "arguments": {...}} in JSON types, enough for
            `dspec.testing.replay.run` to try the failing instance again; None when passed.
        parts: the reports that this one merges.
        not_run: why the check could not run here; empty if it ran. Such a report proves nothing.

    Example:
        >>> print(Report(check="exact_law", passed=True, tried={"worlds": 6}))
        exact_law: passed; tried 6 worlds; false-fail rate 0
    """

    check: str
    passed: bool
    tried: Mapping[str, int]
    alpha: float = 0.0
    beta: float | None = None
    delta: float | None = None
    counterexample: Mapping[str, Any] | None = None
    clauses: tuple[str, ...] = ()
    subject: str = ""
    replay: Mapping[str, Any] | None = None
    parts: "tuple[Report, ...]" = ()
    not_run: str = ""

    @property
    def status(self) -> str:
        """ "passed", "FAILED" or "not run here"."""
        return NOT_RUN if self.not_run else "passed" if self.passed else "FAILED"

    def leaves(self) -> "list[Report]":
        """Return the reports that merge no others: this one, or those of its parts."""
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]

    def to_json(self) -> str:
        """Return the report as one JSON object; fractions become "a/b"."""
        return json.dumps(_plain(asdict(self)), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return the report that `to_json` wrote; fractions stay text, arrays lists.

        Args:
            text: one JSON object.

        Raises:
            DataError: not JSON, or not a report.

        Example:
            >>> Report.from_json(Report("lattice", True, {"rows": 3}).to_json()).tried
            {'rows': 3}
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(explain("report", f"no JSON ({error})", "what Report.to_json wrote")) from error
        return _from_plain(value)

    def __str__(self) -> str:
        """Return a sentence for a person, and the counterexample if there is one."""
        name = f"{self.check} ({self.subject})" if self.subject else self.check
        if self.not_run:
            return f"{name}: {NOT_RUN}: {self.not_run}"
        tried = ", ".join(f"{count:,} {what}" for what, count in self.tried.items()) or "nothing"
        text = f"{name}: {self.status}; tried {tried}; false-fail rate {self.alpha:g}"
        if self.beta is not None and self.delta is not None:
            seen = f"a total variation of {self.delta:.2f} would pass with chance {self.beta:g}"
            text += f"; {seen if self.delta < 1 else 'too few draws: any total variation may pass'}"
        if self.counterexample is None:
            return text
        lines = [f"  {what}: {_plain(value)}" for what, value in self.counterexample.items()]
        return "\n".join([text, "counterexample:", *lines])


def merge(check: str, reports: Sequence[Report], *, subject: str = "") -> Report:
    """Return one report for several: counts and alphas add, the largest delta and the first failure stay.

    Args:
        check: name of the whole.
        reports: kept as its parts.
        subject: of the whole; empty: that of the parts, if they have one in common.

    Returns:
        Passed if some part ran and none failed; marked as not run if none ran.

    Example:
        >>> merge("both", [Report("a", True, {"rows": 1}), Report("b", False, {"rows": 2})]).tried
        {'rows': 3}
    """
    ran = [report for report in reports if not report.not_run]
    failed = [report for report in ran if not report.passed]
    tried: dict[str, int] = {}
    for report in ran:
        for name, count in report.tried.items():
            tried[name] = tried.get(name, 0) + count
    subjects = {report.subject for report in reports}
    return Report(
        check=check,
        passed=bool(ran) and not failed,
        tried=tried,
        alpha=sum(report.alpha for report in ran),
        # The bluntest of the statistical checks says what all of them are sure to see.
        beta=max((report.beta for report in ran if report.beta is not None), default=None),
        delta=max((report.delta for report in ran if report.delta is not None), default=None),
        counterexample=_first_wrong(failed[0]) if failed else None,
        clauses=tuple(sorted({clause for report in ran for clause in report.clauses}, key=clause_order)),
        subject=subject or (subjects.pop() if len(subjects) == 1 else ""),
        replay=failed[0].replay if failed else None,
        parts=tuple(reports),
        not_run="" if ran else "; ".join(dict.fromkeys(r.not_run for r in reports)) or "no parts",
    )


def clause_order(clause: str) -> tuple[str, int]:
    """Return what sorts RS-9 before RS-10.

    Example:
        >>> sorted(["RS-10", "NU-1", "RS-9"], key=clause_order)
        ['NU-1', 'RS-9', 'RS-10']
    """
    prefix, _, number = clause.partition("-")
    return prefix, int(number)


def _first_wrong(report: Report) -> dict[str, Any]:
    where = {"subject": report.subject} if report.subject else {}
    return {"check": report.check, **where, **(report.counterexample or {})}


def _plain(value: Any) -> Any:
    """Return the value in JSON's types: keys become text, fractions "a/b", arrays lists."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Fraction):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value


# field -> what JSON holds for it. A report from a file is somebody else's until this has looked at it.
_KINDS: dict[str, Any] = {
    "check": str,
    "passed": bool,
    "tried": dict,
    "alpha": (int, float),
    "beta": (int, float, type(None)),
    "delta": (int, float, type(None)),
    "counterexample": (dict, type(None)),
    "clauses": list,
    "subject": str,
    "replay": (dict, type(None)),
    "parts": list,
    "not_run": str,
}


def _from_plain(value: Any) -> Report:
    if not isinstance(value, dict):
        raise DataError(explain("report", f"a JSON {type(value).__name__}", "an object"))
    known = {field.name for field in fields(Report)}
    wrong = sorted(value.keys() - known) + sorted({"check", "passed", "tried"} - value.keys())
    wrong += sorted(name for name, item in value.items() if name in known and not _fits(name, item))
    if wrong:
        raise DataError(explain("report", f"{wrong[0]!r}", "the fields that Report.to_json writes"))
    parts = tuple(_from_plain(part) for part in value.get("parts", ()))
    return Report(**{**value, "clauses": tuple(value.get("clauses", ())), "parts": parts})


def _fits(name: str, item: Any) -> bool:
    if name == "tried":
        return isinstance(item, dict) and all(type(count) is int for count in item.values())
    if name == "clauses":
        return isinstance(item, list) and all(isinstance(c, str) and _CLAUSE.fullmatch(c) for c in item)
    return isinstance(item, _KINDS[name]) and (name == "passed" or not isinstance(item, bool))
