"""The edges that sampling never meets: a verifier on every case of the boundary battery."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dspec.errors import ConfigError, explain
from dspec.testing.checks.battery import TOP, Answer, Case, battery
from dspec.testing.checks.lattice import Verify, answer
from dspec.testing.report import Report

__all__ = ["TOP", "Case", "check_boundaries"]

CLAUSES = ("RS-4", "RS-5", "RS-7", "RS-9", "RS-16", "RS-17", "NU-3", "NU-4")


def check_boundaries(
    verify: Verify,
    *,
    xp: Any,
    mode: str = "rejection",
    only: str = "",
    given: Iterable[Case] | None = None,
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check the edges: support, strict acceptance, empty residual, odd V, K = 0, bad rows, purity, rows.

    Spec: RS-4, RS-5, RS-7, RS-9, RS-16, RS-17, NU-3, NU-4.

    Args:
        verify: see `dspec.testing.checks.lattice.Verify`; a malformed row must come back with n_accepted -1.
        xp: array namespace of its arguments.
        mode: "rejection", "block", "one_hot" or "match".
        only: name of one case of the battery (replay); empty: all.
        given: judge these instead of the battery.
        to_numpy: brings results to the host.

    Returns:
        The report; alpha is 0. A case on which the verifier raises is a failure.

    Raises:
        ConfigError: the battery has no case of the name `only`.
    """
    tried: dict[str, int] = {"cases": 0, "rows": 0}
    for case in battery(mode) if given is None else given:
        if only and case.name != only:
            continue
        tried["cases"] += 1
        tried["rows"] += len(case.arrays[1])
        wrong = _tried(verify, case, xp=xp, to_numpy=to_numpy)
        if wrong:
            again = {"mode": mode, "only": case.name}
            return Report(
                check="boundaries",
                passed=False,
                tried=tried,
                counterexample={"case": case.name, "wrong": wrong},
                clauses=CLAUSES,
                replay={"check": "boundaries", "arguments": again} if given is None else None,
            )
    if only and not tried["cases"]:
        raise ConfigError(explain("only", repr(only), "the name of a case of the battery"))
    return Report(check="boundaries", passed=True, tried=tried, clauses=CLAUSES)


def _tried(verify: Verify, case: Case, *, xp: Any, to_numpy: Callable[[Any], Any]) -> str:
    """Return what is wrong, an exception of the verifier included: it is a finding, not our crash."""

    def call(arrays: Any) -> Answer:
        return _call(verify, arrays, xp=xp, to_numpy=to_numpy)

    try:
        return _judge(call, case) if case.relation is None else case.relation(call, case.arrays)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def _judge(call: Callable[[Any], Answer], case: Case) -> str:
    """Return what is wrong with the answer to a case, or nothing."""
    tokens, n_accepted, arrays = call(case.arrays)
    for before, after in zip(case.arrays, arrays):
        if before is not None and not np.array_equal(before, after, equal_nan=True):
            return "an input was modified"
    malformed = np.zeros(len(tokens), bool) if case.malformed is None else case.malformed
    if (n_accepted[malformed] != -1).any():
        return f"malformed row not flagged: n_accepted {n_accepted.tolist()}"
    if case.n_accepted is not None and (n_accepted != case.n_accepted)[~malformed].any():
        return f"n_accepted {n_accepted.tolist()}; needed {np.asarray(case.n_accepted).tolist()}"
    for row in np.nonzero(~malformed)[0]:
        wrong = _outside_support(case.arrays[0][row], tokens[row], int(n_accepted[row]))
        if wrong:
            return f"row {row}: {wrong}"
    return ""


def _call(verify: Verify, arrays: Any, *, xp: Any, to_numpy: Callable[[Any], Any]) -> Answer:
    given = [None if part is None else xp.asarray(part.copy()) for part in arrays]
    tokens, n_accepted = answer(verify, given, to_numpy)
    return tokens, n_accepted, [None if part is None else np.asarray(to_numpy(part)) for part in given]


def _outside_support(target: Any, tokens: Any, n_accepted: int) -> str:
    if not 0 <= n_accepted < len(target):
        return f"n_accepted {n_accepted}"
    for slot in range(n_accepted + 1):
        token = int(tokens[slot])
        if not 0 <= token < target.shape[-1]:
            return f"slot {slot}: id {token} outside [0, {target.shape[-1]})"
        if not target[slot, token] > 0:
            return f"slot {slot}: id {token} has target probability {target[slot, token]}"
    return ""
