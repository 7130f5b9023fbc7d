"""Writes spec/vectors/objectives.json from the oracle: `python -m tests.objective_vectors`.

The format is described in spec/README.md.
"""

import json
import math
from pathlib import Path
from typing import Any

from dspec.oracle.objectives import (
    REDUCTIONS,
    accepted_prefix,
    objective_gradient,
    objective_value,
    part_sums,
    wasted_hits,
)

PATH = Path(__file__).parent.parent / "spec" / "vectors" / "objectives.json"
EDITION = "dspec spec, edition 1"
K = 4

# Probabilities of the gold token, hits and masks, chosen so that each term meets its corner cases.
INPUTS: dict[str, dict[str, list[list[float]]]] = {
    "plain": {
        "prob": [[0.9, 0.8, 0.3, 0.6], [0.5, 0.25, 0.125, 0.0625]],
        "hit": [[1, 1, 0, 1], [0, 0, 0, 0]],
        "mask": [[1, 1, 1, 1], [1, 1, 1, 1]],
    },
    "gaps and a padded block": {
        "prob": [[0.7, 0.01, 0.6, 0.9], [0.2, 0.4, 0.8, 0.99], [0.5, 0.5, 0.5, 0.5]],
        "hit": [[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]],
        "mask": [[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]],
    },
    "all correct": {
        "prob": [[1.0, 0.99, 0.98, 0.97]],
        "hit": [[1, 1, 1, 1]],
        "mask": [[1, 1, 1, 1]],
    },
    "nothing supervised": {
        "prob": [[0.5, 0.5, 0.5, 0.5]],
        "hit": [[0, 0, 0, 0]],
        "mask": [[0, 0, 0, 0]],
    },
}
OBJECTIVES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "decay(inf)": [("decay", {"gamma": math.inf})],
    "decay(7)": [("decay", {"gamma": 7.0})],
    "first_error(0.3, 10)": [("first_error", {"weight": 0.3, "gamma": 10.0})],
    "chain(40)": [("chain", {"weight": 40.0})],
    "dpace(0.5)": [("dpace", {"alpha": 0.5})],
    "decay(10)+first_error(0.3)+chain(40)": [
        ("decay", {"gamma": 10.0}),
        ("first_error", {"weight": 0.3}),
        ("chain", {"weight": 40.0}),
    ],
}


def log_probs(name: str) -> list[list[float]]:
    """Return the (N, K) log-probabilities of an input."""
    return [[math.log(p) for p in row] for row in INPUTS[name]["prob"]]


def vectors() -> dict[str, Any]:
    """Return the whole file as the oracle gives it now."""
    cases = []
    for name, arrays in INPUTS.items():
        block = log_probs(name), arrays["hit"], arrays["mask"]
        for text, terms in OBJECTIVES.items():
            for reduction in REDUCTIONS:
                cases.append(
                    {
                        "input": name,
                        "objective": text,
                        "reduction": reduction,
                        "sums": [list(pair) for pair in part_sums(terms, [block], reduction)],
                        "value": objective_value(terms, *block, reduction),
                        "gradient": objective_gradient(terms, *block, reduction).tolist(),
                    }
                )
    inputs = {
        name: {"log_prob": log_probs(name), "hit": arrays["hit"], "mask": arrays["mask"]}
        for name, arrays in INPUTS.items()
    }
    blocks = {
        name: {
            "accepted_prefix": accepted_prefix(arrays["hit"], arrays["mask"]),
            "wasted_hits": wasted_hits(arrays["hit"], arrays["mask"]),
        }
        for name, arrays in INPUTS.items()
    }
    return {"edition": EDITION, "K": K, "inputs": inputs, "blocks": blocks, "cases": cases}


def text(content: dict[str, Any]) -> str:
    """Return the file's text: one line an input, block and case, so that differences are readable."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{json.dumps(key)}: {{\n{rows}\n}}")
        elif isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(v)}" for v in value)
            lines.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text(vectors()), encoding="utf-8")
    print(f"wrote {PATH.name}: {PATH.stat().st_size} bytes")
