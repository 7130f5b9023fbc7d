"""What a subject offers to the checks: verifiers on its arrays, engines of tables, or its own outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import array_api_compat.numpy as npx
import numpy as np

from dspec.core.joint import verify_block
from dspec.core.rejection import verify_sample_match, verify_tokens
from dspec.core.several import verify_several
from dspec.core.types import Draft, Uniforms
from dspec.testing.checks.lattice import Verify
from dspec.testing.report import Report

DTYPES = ("float32", "bfloat16", "float16")
RULES: dict[str, Callable[..., Any]] = {
    "rejection": verify_tokens,
    "block": verify_block,
    "one_hot": verify_tokens,
    "match": verify_sample_match,
}
MODES = tuple(RULES)


@dataclass(frozen=True)
class Bench:
    """One subject as the checks see it; which of the fields are given decides which checks can run.

    Args:
        name: of the backend or adapter, for reports.
        ops: a backend's `ArrayOps`: its accept rules, and engines of tables on its arrays.
        engine: an `Engine` whose real outputs are looked at.
        adapter: a sampler of somebody else (`dspec.testing.adapters`).
        lm: a block-diffusion model (`dspec.block_engine.BlockDiffusion`) that speculates by itself.
    """

    name: str
    ops: Any = None
    engine: Any = None
    adapter: Any = None
    lm: Any = None

    def dtypes(self) -> Sequence[str]:
        """Return the dtypes of laws that can be checked here."""
        if self.ops is None:
            return ("float32",)
        return tuple(dtype for dtype in DTYPES if hasattr(self.ops.xp, dtype))

    def verifier(self, mode: str, dtype: str) -> tuple[Verify, dict[str, Any]]:
        """Return a verifier and what every check of it needs to know."""
        if self.adapter is not None:
            adapter = self.adapter
            return adapter.verify, {"xp": adapter.xp, "mode": adapter.mode, "to_numpy": adapter.to_numpy}
        return on_device(RULES[mode], self.ops, dtype), {"xp": npx, "mode": mode, "to_numpy": np.asarray}

    def report_missing(self, check: str, what: str) -> Report:
        """Return the report of a check that cannot run on this subject."""
        return Report(check=check, passed=True, tried={}, not_run=f"{self.name} has no {what}")


def on_device(rule: Callable[..., Any], ops: Any, dtype: str = "float32") -> Verify:
    """Return an accept rule as the kit calls it: numpy in, the backend's device inside, numpy out.

    Args:
        rule: `verify_tokens`, `verify_sample_match` or `verify_block` of core.
        ops: the backend's `ArrayOps`.
        dtype: of the laws on the device; uniforms stay float32.

    Returns:
        The verifier.
    """

    def verify(target: Any, tokens: Any, probs: Any, accept: Any, close: Any) -> tuple[Any, Any]:
        laws = None if probs is None else law_on_device(probs, ops, dtype)
        draft = Draft(ops.from_host(tokens), laws)
        uniforms = Uniforms(ops.from_host(accept), ops.from_host(close))
        verdict = rule(law_on_device(target, ops, dtype), draft, uniforms, xp=ops.xp)
        return to_numpy(verdict.tokens, ops), to_numpy(verdict.n_accepted, ops)

    return verify


def several_on_device(ops: Any, dtype: str = "float32") -> Callable[..., tuple[Any, Any]]:
    """Return core's rule of several drafts as the kit calls it: numpy in and out, the device inside.

    Args:
        ops: the backend's `ArrayOps`.
        dtype: of the laws on the device; uniforms stay float32.

    Returns:
        A `dspec.testing.checks.several.VerifySeveral`.
    """

    def verify(target: Any, tokens: Any, laws: Any, accept: Any, close: Any) -> tuple[Any, Any]:
        given = [None if part is None else law_on_device(part, ops, dtype) for part in (target, laws)]
        drafted, *uniforms = (ops.from_host(part) for part in (tokens, accept, close))
        choice = verify_several(given[0], drafted, given[1], *uniforms, xp=ops.xp)
        return to_numpy(choice.index, ops), to_numpy(choice.tokens, ops)

    return verify


def law_on_device(values: Any, ops: Any, dtype: str) -> Any:
    """Return float32 laws of numpy on a device, cast there: numpy has no bfloat16 to hand them over in.

    Args:
        values: float32.
        ops: the backend's `ArrayOps`.
        dtype: name of a dtype of its namespace.
    """
    given = ops.from_host(values)
    return given if dtype == "float32" else ops.xp.astype(given, getattr(ops.xp, dtype))


def to_numpy(array: Any, ops: Any) -> Any:
    """Return a device array as numpy, its shape kept.

    Args:
        array: of the backend; no 16-bit floats.
        ops: the backend's `ArrayOps`.
    """
    try:
        return np.from_dlpack(array)  # a million rows as nested lists take a second
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return np.asarray(ops.to_host(array)).reshape(array.shape)
