"""One failing instance of a saved report, tried again."""

import json
from dataclasses import fields
from typing import Any

from dspec.backends.registry import ROOMS
from dspec.errors import DataError, explain
from dspec.testing.bench import Bench
from dspec.testing.entries import CHECKS
from dspec.testing.plan import LOOP, Part
from dspec.testing.report import Report
from dspec.testing.run import bench_of, run_part


def run(report_json: str, subject: Any = None) -> Report:
    """Try the first failing instance of a report again.

    Spec: RS-20.

    Args:
        report_json: what `Report.to_json` or `dspec check --json` wrote.
        subject: what the report was about, as for `dspec.check_exactness`; None: the backend by name.

    Returns:
        The report of that one instance: failed if it still fails.

    Raises:
        DataError: no report, or none that failed; or it is about a subject that only the caller has.

    Example:
        >>> from dspec.testing.run import check_subject
        >>> def always(target, drafts, laws, accept, close):
        ...     return drafts, 0 * drafts[:, 0] + drafts.shape[1]
        >>> run(check_subject(always).to_json(), always).passed
        False
    """
    report = read(report_json)
    failed = next((leaf for leaf in report.leaves() if leaf.status == "FAILED" and leaf.replay), None)
    if failed is None or failed.replay is None:
        raise DataError(explain("replay", f"a report that {report.status}", "one with a failed check"))
    part, only = _parsed(failed.replay)
    if subject is None and part.backend not in (LOOP, "numpy", *ROOMS):
        remedy = "Call dspec.testing.replay.run(text, subject)."
        raise DataError(explain("replay", f"a report of {part.backend!r}", "that subject", remedy=remedy))
    bench: Bench | None = None if subject is None else bench_of(subject)
    return run_part(part, bench, only=only)


def read(text: str) -> Report:
    """Return the report in a text: alone, or under "report" beside what it was run on."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(explain("replay", f"no JSON ({error})", "a saved report")) from error
    inner = found.get("report", found) if isinstance(found, dict) else found
    return Report.from_json(json.dumps(inner))


def _parsed(replay: Any) -> tuple[Part, dict[str, Any]]:
    """Return the part and the arguments that narrow it, or say what is wrong with them.

    The file is somebody else's: a name is looked up among the checks, and never anything else.
    """
    part, only = replay.get("part"), replay.get("arguments")
    names = {field.name for field in fields(Part)}
    if not isinstance(part, dict) or set(part) != names or not isinstance(only, dict):
        raise DataError(explain("replay", repr(replay)[:200], "a part and arguments, as a report has them"))
    kinds = {name: dict if name == "arguments" else str for name in names}
    if any(not isinstance(part[name], kind) for name, kind in kinds.items()) or part["check"] not in CHECKS:
        raise DataError(explain("replay", repr(part)[:200], f"a check among {', '.join(CHECKS)}"))
    return Part(**part), only
