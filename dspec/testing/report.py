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
        beta: chance that a sampler off by `delta` or more passes; None for exact checks.
        delta: total variation from the law that goes with `beta`; None for exact checks.
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
    delta: float | None = None
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
            text += f"; a total variation of {self.delta:.2f} would pass with chance {self.beta:g}"
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
    """Return one report for several: counts and alphas add, the largest delta and the first failure stay."""
    tried: dict[str, int] = {}
    for report in reports:
        for name, count in report.tried.items():
            tried[name] = tried.get(name, 0) + count
    failed = [report for report in reports if not report.passed]
    example = {"check": failed[0].check, **(failed[0].counterexample or {})} if failed else None
    return Report(
        check=check,
        passed=not failed,
        tried=tried,
        alpha=sum(report.alpha for report in reports),
        # The bluntest of the statistical checks says what all of them are sure to see.
        beta=max((report.beta for report in reports if report.beta is not None), default=None),
        delta=max((report.delta for report in reports if report.delta is not None), default=None),
        counterexample=example,
    )
