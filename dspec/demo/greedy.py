"""Whether drafting leaves greedy output as it is: compared with the target's own generate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dspec.engine import Engine
from dspec.evaluation.bench import Progress
from dspec.evaluation.report import Results
from dspec.evaluation.suites import Prompt, Suite


def own_greedy(engine: Engine, prompt: Prompt, *, max_new_tokens: int) -> tuple[int, ...]:
    """Return what transformers' own greedy `generate` emits: another loop, another cache.

    Args:
        engine: whose target is a transformers model.
        prompt: as for `Engine.generate`.
        max_new_tokens: most tokens.

    Returns:
        The new token ids; an end token is kept.
    """
    model = engine.target.model
    ids = engine.ops.from_host(np.array([engine.encode(prompt)], dtype=np.int64))
    stops = sorted(engine.target.eos_ids)
    out = model.generate(
        ids,
        attention_mask=engine.ops.xp.ones_like(ids),
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
    )
    return tuple(engine.ops.to_host(out)[0][ids.shape[1] :])


def compare_greedy(
    engine: Engine,
    suites: Sequence[Suite],
    results: Results,
    *,
    prompts: int,
    max_new_tokens: int,
    progress: Progress,
) -> dict[str, Any]:
    """Compare what each drafter decoded with the target's own greedy output.

    Args:
        engine: with the target; its drafter is not used.
        suites: that were decoded.
        results: by drafter, then by suite, decoded at temperature 0.
        prompts: to compare, spread evenly over the suites.
        max_new_tokens: as decoded.
        progress: called with (done, all).

    Returns:
        `prompts`, `comparisons` and `equal` counts, and for each difference where it is.
    """
    places = [(suite, i) for i in range(len(suites[0].prompts)) for suite in suites if i < len(suite.prompts)]
    places = places[:prompts]
    equal, differences = 0, []
    for done, (suite, i) in enumerate(places, 1):
        needed = own_greedy(engine, suite.prompts[i], max_new_tokens=max_new_tokens)
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
        "reference": "transformers generate, do_sample=False",
        "differences": differences,
    }


def _difference(
    name: str, suite: str, prompt: int, got: Sequence[int], needed: Sequence[int]
) -> Mapping[str, Any]:
    first = next((i for i, (a, b) in enumerate(zip(got, needed)) if a != b), min(len(got), len(needed)))
    return {"objective": name, "suite": suite, "prompt": prompt, "first_difference": first}
