"""Reports of parts in a folder, so that a run of hours that was stopped goes on where it stopped."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path

from dspec.errors import DataError
from dspec.evaluation.machine import describe_versions
from dspec.testing.plan import Part
from dspec.testing.report import Report

PACKAGE = Path(__file__).parent.parent


class KeptParts:
    """A folder with one file a part. What other code or other packages reported is not read.

    Args:
        folder: made if it is not there; None keeps nothing.

    Example:
        >>> KeptParts(None).read(Part("streams", "loop", "exact", "")) is None
        True
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def read(self, part: Part) -> Report | None:
        """Return the report of a part that this code has run; None: run it."""
        if self._folder is None:
            return None
        try:
            found = json.loads((self._folder / f"{part.key}.json").read_text(encoding="utf-8"))
            report = Report.from_json(json.dumps(found["report"]))
        except (OSError, ValueError, TypeError, KeyError, DataError):
            return None  # not there, or half a file of a process that was killed
        return report if found.get("code") == code_digest() else None

    def write(self, part: Part, report: Report) -> None:
        """Keep a report; the file is whole or not there."""
        if self._folder is None:
            return
        text = json.dumps({"code": code_digest(), "report": json.loads(report.to_json())})
        path = self._folder / f"{part.key}.json"
        path.with_suffix(".new").write_text(text, encoding="utf-8")
        os.replace(path.with_suffix(".new"), path)


@cache
def code_digest() -> str:
    """Return a digest of all of dspec's code and of the packages it computes with."""
    digest = hashlib.sha256(json.dumps(describe_versions(), sort_keys=True).encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]
