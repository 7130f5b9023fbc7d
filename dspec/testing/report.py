"""What a check answers: passed or not, what was tried, with what power, and one counterexample."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Report:
    """The answer of one check.

    Spec: RS-20.

    Args:
        check: name of the check.
        passed: whether nothing wrong was found.
        tried: what was tried, as counts: {"worlds": 6, "paths": 4312}.
        alpha: chance that a correct sampler fails this check; 0 for exact checks.
        beta: chance that a wrong sampler of the stated size passes; None where not stated.
        counterexample: the first thing found wrong, enough to replay it; None when passed.

    Example:
        >>> print(Report(check="exact_law", passed=True, tried={"worlds": 6}))
        exact_law: passed; tried 6 worlds; false-fail rate 0
    """

    check: str
    passed: bool
    tried: Mapping[str, int]
    alpha: float = 0.0
    beta: float | None = None
    counterexample: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> str:
        """Return the report as one JSON object; fractions become "a/b"."""
        return json.dumps(_plain(asdict(self)), sort_keys=True)

    def __str__(self) -> str:
        """Return a sentence for a person."""
        tried = ", ".join(f"{count} {name}" for name, count in self.tried.items())
        text = f"{self.check}: {'passed' if self.passed else 'FAILED'}; tried {tried}"
        text += f"; false-fail rate {self.alpha:g}"
        if self.beta is not None:
            text += f"; false-pass rate {self.beta:g}"
        if self.counterexample is None:
            return text
        lines = [f"  {name}: {_plain(value)}" for name, value in self.counterexample.items()]
        return "\n".join([text, "counterexample:", *lines])


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


def merge(check: str, reports: list[Report]) -> Report:
    """Return one report for several: counts add, alphas add, the first counterexample stays."""
    tried: dict[str, int] = {}
    for report in reports:
        for name, count in report.tried.items():
            tried[name] = tried.get(name, 0) + count
    failed = [report for report in reports if not report.passed]
    example = {"check": failed[0].check, **(failed[0].counterexample or {})} if failed else None
    alpha = sum(report.alpha for report in reports)
    return Report(check=check, passed=not failed, tried=tried, alpha=alpha, counterexample=example)
