"""Whether drafting leaves greedy output as it is: compared with the target's own generate."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from dspec.backends.registry import open_room
from dspec.engine import Engine
from dspec.evaluation.bench import Progress
from dspec.evaluation.report import Results
from dspec.evaluation.suites import Suite


def open_reference(backend: str) -> ModuleType:
    """Return a backend's `reference`: the framework's own greedy decoding and its name.

    Args:
        backend: any that `dspec.load` takes.
    """
    room, _ = open_room(backend)
    return import_module(f"{room.__package__}.reference")


def compare_greedy(
    engine: Engine,
    suites: Sequence[Suite],
    results: Results,
    *,
    backend: str,
    prompts: int,
    max_new_tokens: int,
    progress: Progress,
) -> dict[str, Any]:
    """Compare what each drafter decoded with the target's own greedy output.

    Args:
        engine: with the target; its drafter is not used.
        suites: that were decoded.
        results: by drafter, then by suite, decoded at temperature 0.
        backend: of the engine.
        prompts: to compare, spread evenly over the suites.
        max_new_tokens: as decoded.
        progress: called with (done, all).

    Returns:
        `prompts`, `comparisons` and `equal` counts, and for each difference where it is.
    """
    reference = open_reference(backend)
    places = [(suite, i) for i in range(len(suites[0].prompts)) for suite in suites if i < len(suite.prompts)]
    places = places[:prompts]
    equal, differences = 0, []
    for done, (suite, i) in enumerate(places, 1):
        ids = engine.encode(suite.prompts[i])
        needed = reference.own_greedy(engine.target, ids, max_new_tokens=max_new_tokens)
        for name, by_suite in results.items():
            got = by_suite[suite.name].prompts[i].tokens
            equal += got == needed
            if got != needed:
                differences.append(_difference(name, suite.name, i, got, needed))
        progress(done, len(places))
    return {
        "prompts": len(places),
        "comparisons": len(places) * len(results),
        "equal": equal,
        "reference": reference.NAME,
        "differences": differences,
    }


def _difference(
    name: str, suite: str, prompt: int, got: Sequence[int], needed: Sequence[int]
) -> Mapping[str, Any]:
    first = next((i for i, (a, b) in enumerate(zip(got, needed)) if a != b), min(len(got), len(needed)))
    return {"objective": name, "suite": suite, "prompt": prompt, "first_difference": first}
