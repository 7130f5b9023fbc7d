"""Writes spec/vectors/objectives.json from the oracle: `python -m tests.objective_vectors`.

The format is described in spec/README.md.
"""

import json
import math
from pathlib import Path
from typing import Any

from dspec.oracle.law import row
from dspec.oracle.law_terms import READS
from dspec.oracle.objectives import (
    REDUCTIONS,
    accepted_prefix,
    objective_gradients,
    objective_value,
    part_sums,
    wasted_hits,
)
from dspec.oracle.schedules import value_at

PATH = Path(__file__).parent.parent / "spec" / "vectors" / "objectives.json"
EDITION = "dspec spec, edition 1"
K = 4

# Probabilities of the gold token, hits and masks, chosen so that each term meets its corner cases.
INPUTS: dict[str, dict[str, list[list[float]]]] = {
    "plain": {
        "prob": [[0.9, 0.8, 0.3, 0.6], [0.5, 0.25, 0.125, 0.0625]],
        "hit": [[1, 1, 0, 1], [0, 0, 0, 0]],
        "mask": [[1, 1, 1, 1], [1, 1, 1, 1]],
        "overlap": [[0.95, 0.7, 0.4, 0.6], [0.5, 0.125, 0.001, 0.25]],
        "divergence": [[0.02, 0.3, 1.5, 0.7], [0.9, 4.0, 9.0, 2.5]],
        "confidence": [[0.95, 0.6, 0.8, 0.5], [0.9, 0.3, 0.01, 0.7]],
    },
    "gaps and a padded block": {
        "prob": [[0.7, 0.01, 0.6, 0.9], [0.2, 0.4, 0.8, 0.99], [0.5, 0.5, 0.5, 0.5]],
        "hit": [[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]],
        "mask": [[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]],
        "overlap": [[0.8, 0.02, 0.7, 0.9], [0.3, 0.45, 0.85, 0.99], [0.5, 0.5, 0.5, 0.5]],
        "divergence": [[0.2, 5.0, 0.4, 0.1], [1.2, 0.8, 0.15, 0.01], [0.7, 0.7, 0.7, 0.7]],
        "confidence": [[0.6, 0.05, 0.9, 0.8], [0.4, 0.5, 0.7, 0.99], [0.5, 0.5, 0.5, 0.5]],
    },
    "all correct": {
        "prob": [[1.0, 0.99, 0.98, 0.97]],
        "hit": [[1, 1, 1, 1]],
        "mask": [[1, 1, 1, 1]],
        "overlap": [[1.0, 0.99, 0.97, 1.0]],
        "divergence": [[0.0, 0.01, 0.03, 0.0]],
        "confidence": [[1.0, 1.0, 0.95, 0.97]],
    },
    "nothing supervised": {
        "prob": [[0.5, 0.5, 0.5, 0.5]],
        "hit": [[0, 0, 0, 0]],
        "mask": [[0, 0, 0, 0]],
        "overlap": [[0.5, 0.5, 0.5, 0.5]],
        "divergence": [[0.7, 0.7, 0.7, 0.7]],
        "confidence": [[0.5, 0.5, 0.5, 0.5]],
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
    "auf(1)": [("auf", {})],
    "dpace_cumulative(0.5)": [("dpace_cumulative", {"alpha": 0.5})],
    "dpace_continuation(0.5)": [("dpace_continuation", {"alpha": 0.5})],
    "revive(0.5)": [("revive", {"alpha": 0.5})],
    "cat(1)": [("cat", {})],
    "kl(4)": [("kl", {"gamma": 4.0})],
    "tv(4)": [("tv", {"gamma": 4.0})],
    "log_overlap(4)": [("log_overlap", {"gamma": 4.0})],
    "lk(3, 4)": [("lk", {"eta": 3.0, "gamma": 4.0})],
    "overlap_chain(40)": [("overlap_chain", {"weight": 40.0})],
    "reach(0.5)": [("reach", {"alpha": 0.5})],
    "reach(0.5, follow=0.5)": [("reach", {"alpha": 0.5, "follow": 0.5})],
    "decay(10)+lk(3)+overlap_chain(40)": [
        ("decay", {"gamma": 10.0}),
        ("lk", {"eta": 3.0}),
        ("overlap_chain", {"weight": 40.0}),
    ],
}
# Logits of drafter and target: apart, cooled, with a target nearly sure, with tokens that it never says. None
# has q = p, where the last bit decides on the slope of the overlap.
ROWS: list[tuple[list[float], list[float], int, float]] = [
    ([0.5, -1.0, 2.0, 0.0, -3.0], [2.0, 0.25, 1.0, -1.5, 0.0], 2, 1.0),
    ([0.5, -1.0, 2.0, 0.0, -3.0], [2.0, 0.25, 1.0, -1.5, 0.0], 0, 0.25),
    ([1.0, 0.5, 0.0], [0.0, 0.0, 20.0], 2, 1.0),
    ([1000.0, 998.0, 999.0, 999.5], [-500.0, -2000.0, -501.0, -2000.0], 2, 1.0),
]
SCHEDULES: list[dict[str, Any]] = [
    {"start": 4.5, "end": 10.5, "shape": "linear", "share": 1.0},
    {"start": 40.0, "end": 0.0, "shape": "linear", "share": 0.4},
    {"start": 0.0, "end": 8.0, "shape": "cosine", "share": 0.6},
    {"start": 1.0, "end": 3.0, "shape": "epoch", "share": 1.0},
]
STEPS, EPOCHS = 7, 3  # the epoch of step s is s * EPOCHS // STEPS: 0, 0, 0, 1, 1, 2, 2
SIGNAL_KEYS = {"overlap": "overlap_gradient", "divergence": "divergence_gradient"}


def log_probs(name: str) -> list[list[float]]:
    """Return the (N, K) log-probabilities of an input."""
    return logarithms(INPUTS[name]["prob"])


def logarithms(rows: list[list[float]]) -> list[list[float]]:
    """Return the logarithm of each number."""
    return [[math.log(p) for p in row] for row in rows]


def case(name: str, text: str, reduction: str) -> dict[str, Any]:
    """Return one case; its law and the gradients by the law stand there if a term reads the law."""
    terms, arrays = OBJECTIVES[text], INPUTS[name]
    law = arrays["overlap"], arrays["divergence"], logarithms(arrays["confidence"])
    block = log_probs(name), arrays["hit"], arrays["mask"]
    gradients = objective_gradients(terms, *block, reduction, law=law)
    by_law = {key: gradients[signal].tolist() for signal, key in SIGNAL_KEYS.items()}
    return {
        "input": name,
        "objective": text,
        "reduction": reduction,
        "sums": [list(pair) for pair in part_sums(terms, [(*block, law)], reduction)],
        "value": objective_value(terms, *block, reduction, law=law),
        "gradient": gradients["gold"].tolist(),
        **(by_law if any(term in READS for term, _ in terms) else {}),
    }


def law_rows() -> list[dict[str, Any]]:
    """Return what the laws of each row of logits give."""
    return [
        {
            "drafter_logits": ours,
            "target_logits": theirs,
            "gold": gold,
            "temperature": temperature,
            **row(ours, theirs, gold, temperature=temperature)._asdict(),
        }
        for ours, theirs, gold, temperature in ROWS
    ]


def schedules() -> list[dict[str, Any]]:
    """Return the values of each schedule at the steps of a run."""
    found = []
    for schedule in SCHEDULES:
        epochs = [step * EPOCHS // STEPS for step in range(STEPS)]
        values = [
            value_at(**schedule, step=step, steps=STEPS, epoch=epoch, epochs=EPOCHS)
            for step, epoch in enumerate(epochs)
        ]
        found.append({**schedule, "epoch": epochs, "epochs": EPOCHS, "values": values})
    return found


def vectors() -> dict[str, Any]:
    """Return the whole file as the oracle gives it now."""
    cases = [
        case(name, text, reduction) for name in INPUTS for text in OBJECTIVES for reduction in REDUCTIONS
    ]
    inputs = {
        name: {
            "log_prob": log_probs(name),
            "hit": arrays["hit"],
            "mask": arrays["mask"],
            "overlap": arrays["overlap"],
            "divergence": arrays["divergence"],
            "confidence": logarithms(arrays["confidence"]),
        }
        for name, arrays in INPUTS.items()
    }
    blocks = {
        name: {
            "accepted_prefix": accepted_prefix(arrays["hit"], arrays["mask"]),
            "wasted_hits": wasted_hits(arrays["hit"], arrays["mask"]),
        }
        for name, arrays in INPUTS.items()
    }
    return {
        "edition": EDITION,
        "K": K,
        "inputs": inputs,
        "blocks": blocks,
        "cases": cases,
        "rows": law_rows(),
        "schedules": schedules(),
    }


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
