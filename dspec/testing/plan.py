"""What a level consists of: small parts that any process can run, in any order, with the same answer."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dspec.testing.bench import DTYPES, MODES
from dspec.testing.checks.slot_instances import KINDS
from dspec.testing.levels import SUITE_ALPHA, Level

LOOP = "loop"  # what the parts that need no backend are about: the decode loop, the generator
EXACT = "exact"  # their arithmetic
POLICIES = ("greedy", "one_hot", "rejection", "block", "sample_match")
LOOP_POLICIES = ("greedy", "one_hot", "rejection", "block", "sample_match", "sampled_match")
TREES = ("tree 2", "tree 5")  # draft trees of so many nodes, where a policy's name stands
SAMPLED_TREES = ("sampled tree 2", "sampled tree 5")
BLOCK_FORMS = ("sliding", "aligned", "no fusion", "fused layout")
STATISTICAL = ("distribution", "independence")
WORLDS = ("plain", "mixed")  # warps of the worlds that tables of engines are made of
VOCAB, WIDE_VOCAB = 64, 151_936
# Large enough that starting a part costs little, small enough that a stopped run loses little.
WORLD_CHUNK, INSTANCE_CHUNK, ROW_CHUNK, WIDE_CHUNK, PAIR_CHUNK = 20, 50, 5_000, 10, 500_000


@dataclass(frozen=True)
class Part:
    """One call of one check, in JSON types.

    Args:
        check: a key of `dspec.testing.entries.CHECKS`.
        backend: name for `dspec.backends.registry.open_ops`, or LOOP.
        dtype: of the laws, or EXACT.
        what: verifier, mode or policy, for reports.
        arguments: of the entry.
    """

    check: str
    backend: str
    dtype: str
    what: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Backend, dtype and verifier, as `Report.subject` has them."""
        return " ".join(word for word in (self.backend, self.dtype, self.what) if word)

    @property
    def key(self) -> str:
        """Name of the part's file: a digest of all that it is."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]


def plan(
    level: Level, backends: Sequence[str], *, dtypes: Sequence[str] = DTYPES, seed: int = 0
) -> list[Part]:
    """Return the parts of a level; the statistical ones share the suite's false-fail rate evenly.

    Args:
        level: how much.
        backends: names; each other one is compared with numpy.
        dtypes: of laws; what is float32 by nature runs if float32 is among them.
        seed: of everything random.

    Returns:
        The parts, in the order of reports.

    Example:
        >>> from dspec.testing.levels import SMOKE
        >>> sum(part.arguments.get("alpha", 0) for part in plan(SMOKE, ["numpy"])) < 1e-9
        True
    """
    parts = list(loop_parts(level, seed=seed))
    for backend in backends:
        parts += rule_parts(level, backend, dtypes=dtypes, seed=seed)
        parts += several_parts(level, backend, dtypes=dtypes, seed=seed)
        parts += draft_parts(level, backend, dtypes=dtypes, seed=seed)
        if "float32" in dtypes:
            parts += pair_parts(level, backend, seed=seed) if backend != "numpy" else ()
            parts += engine_parts(level, backend, seed=seed)
    return share_alpha(parts)


def share_alpha(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with the suite's false-fail rate shared out among those that can fail by chance."""
    statistical = sum(part.check in STATISTICAL for part in parts)
    return [
        replace(part, arguments={**part.arguments, "alpha": SUITE_ALPHA / statistical})
        if part.check in STATISTICAL
        else part
        for part in parts
    ]


def loop_parts(level: Level, *, seed: int) -> Iterator[Part]:
    """Yield what needs no backend."""
    for policy in (*LOOP_POLICIES, *TREES, *SAMPLED_TREES):
        for count, at in chunks(level.worlds, WORLD_CHUNK, seed=seed):
            given = {"policy": policy, "count": count, "seed": at}
            yield Part("exact_law", LOOP, EXACT, policy, given)
    yield Part("streams", LOOP, EXACT, "", {"count": level.cases, "seed": seed})
    yield from block_loop_parts(level, seed=seed)


def block_loop_parts(level: Level, *, seed: int) -> Iterator[Part]:
    """Yield the enumeration of the loop of self-speculation."""
    for policy in POLICIES:
        # Sampled drafts take ten times the paths; 14 worlds have every form in both alignments.
        count = max(14, level.worlds // (5 if policy in ("rejection", "block") else 1))
        for part, at in chunks(count, WORLD_CHUNK, seed=seed):
            given = {"policy": policy, "count": part, "seed": at}
            yield Part("self_speculation", LOOP, EXACT, policy, given)


def block_parts(level: Level, name: str, *, seed: int) -> Iterator[Part]:
    """Yield the checks of a block-diffusion model that speculates by itself."""
    for form in BLOCK_FORMS:
        yield Part("greedy_blocks", name, "float32", form, {"form": form})
        for policy in POLICIES[1:]:
            given = {"policy": policy, "form": form, "n": level.draws, "seed": seed}
            yield Part("distribution", name, "float32", f"{policy}, {form}", given)
    yield from block_loop_parts(level, seed=seed)


def rule_parts(
    level: Level, backend: str, *, dtypes: Sequence[str], seed: int, modes: Sequence[str] = MODES
) -> Iterator[Part]:
    """Yield the checks of a backend's verifiers."""
    for dtype in dtypes:
        for mode in modes:
            for count, at in chunks(level.instances, INSTANCE_CHUNK, seed=seed):
                given = {"mode": mode, "dtype": dtype, "count": count, "seed": at}
                yield Part("lattice", backend, dtype, mode, given)
    for mode in modes if "float32" in dtypes else ():
        yield Part("boundaries", backend, "float32", mode, {"mode": mode})
        sizes = ((VOCAB, 3, level.coupled_rows, ROW_CHUNK), (WIDE_VOCAB, 2, level.wide_rows, WIDE_CHUNK))
        for vocab, drafts, rows, most in sizes:
            for count, at in chunks(rows, most, seed=seed):
                given = {"mode": mode, "rows": count, "vocab": vocab, "num_drafts": drafts, "seed": at}
                yield Part("coupling", backend, "float32", f"{mode} V={vocab}", given)


def several_parts(level: Level, backend: str, *, dtypes: Sequence[str], seed: int) -> Iterator[Part]:
    """Yield the checks of a backend's rule of several drafts of one slot."""
    for dtype in dtypes:
        for kind in KINDS:
            if kind == "apart" and dtype != "float32":
                continue  # a law of thirds, in bfloat16, sums to 1.002: it is flagged as none
            for count, at in chunks(level.instances, INSTANCE_CHUNK, seed=seed):
                given = {"kind": kind, "dtype": dtype, "count": count, "seed": at}
                yield Part("several", backend, dtype, kind, given)
    for kind in KINDS if "float32" in dtypes else ():
        for rows, at in chunks(level.coupled_rows // 4, ROW_CHUNK, seed=seed):
            given = {"kind": kind, "rows": rows, "vocab": VOCAB, "seed": at}
            yield Part("several_coupling", backend, "float32", kind, given)


def pair_parts(level: Level, backend: str, *, seed: int) -> Iterator[Part]:
    """Yield the comparison of a backend with numpy."""
    for count, at in chunks(level.pair_rows, PAIR_CHUNK, seed=seed):
        given = {"mode": "rejection", "rows": count, "seed": at}
        yield Part("coupled_arrays", backend, "float32", "rejection", given)


def draft_parts(level: Level, backend: str, *, dtypes: Sequence[str], seed: int) -> Iterator[Part]:
    """Yield the checks of a backend's greedy verdicts and of its drafts."""
    for dtype in dtypes:
        yield Part("greedy", backend, dtype, "greedy", {"dtype": dtype, "count": level.cases, "seed": seed})
    for policy, cut in (("rejection", False), ("rejection", True), ("one_hot", False)):
        if "float32" in dtypes:
            given = {"policy": policy, "cut": cut, "vocab": 4096, "count": level.cases, "seed": seed}
            yield Part("honesty", backend, "float32", f"{policy}{' top-p' if cut else ''}", given)


def engine_parts(level: Level, backend: str, *, seed: int) -> Iterator[Part]:
    """Yield the checks of whole requests, on engines of tables."""
    common = {"seed": seed, "world": seed + 3}
    yield Part("requests", backend, "float32", "", {"seed": seed})
    for policy in ("greedy", "rejection"):
        given = {"policy": policy, "longest": level.longest, "slots": list(range(level.longest // 2 + 1))}
        yield Part("stop_rules", backend, "float32", policy, given)
    for form in ("listed", "interleaved", "batched", "side by side", "own lengths"):
        yield Part("isolation", backend, "float32", form, {**common, "form": form, "policy": "rejection"})
    yield Part("rollback", backend, "float32", "", {"steps": level.steps, "seed": seed})
    for policy in (*POLICIES[1:], TREES[-1], SAMPLED_TREES[-1]):
        for warp in WORLDS:
            given = {**common, "policy": policy, "warp": warp, "n": level.draws}
            yield Part("distribution", backend, "float32", f"{policy} {warp}", given)
    for policy in POLICIES[1:]:
        given = {"policy": policy, "n": level.independent, "seed": seed}
        yield Part("independence", backend, "float32", policy, given)


def chunks(total: int, most: int, *, seed: int) -> Iterator[tuple[int, int]]:
    """Yield (count, seed) pairs that make up a total.

    Seeds lie 100 apart: the kit's makers add small numbers to theirs.

    Example:
        >>> list(chunks(5, 2, seed=7))
        [(2, 7), (2, 107), (1, 207)]
    """
    for index, start in enumerate(range(0, total, most)):
        yield min(most, total - start), seed + 100 * index
