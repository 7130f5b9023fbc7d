"""A training run on disk: every learner's weights and optimizer, and what the run was made of.

The files say nothing of a framework, so that a run begun in one backend may go on in another, if both
see the same target: its digest decides.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from dspec.backends.learner import COUNT, MASTER, MOMENTS, Learner
from dspec.config import DrafterConfig, TrainConfig
from dspec.errors import CheckpointError, explain
from dspec.io.checkpoints import StepFolder, read_header, tensor_shapes, write_step
from dspec.io.examples import Example
from dspec.io.strict_json import read_object

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
STORED = {"F32": "float32", "F64": "float64"}
# Settings that say where, when and how to look on, and leave every weight as it would have been.
HARMLESS = frozenset({"save_every", "validate_every", "validate_examples", "resume", "backend", "recompute"})


def fingerprint(
    config: TrainConfig, learners: Mapping[str, Learner], examples: Sequence[Example], target: Any
) -> dict[str, Any]:
    """Return all that the weights of a step depend on, as JSON values: settings, objectives, data,
    target.

    Args:
        config: of the run.
        learners: by name.
        examples: trained on, in order.
        target: with `facts` and `digest`.

    Returns:
        A flat mapping; two runs with equal ones have equal weights at every step.
    """
    settings = {name: value for name, value in config.as_dict().items() if name not in HARMLESS}
    for name, learner in learners.items():
        settings[f"objective of {name}"] = f"{learner.objective}, {learner.objective.reduction}"
        settings[f"drafter of {name}"] = repr(learner.drafter.config)
    data = hashlib.sha256()
    for example in examples:
        data.update(len(example.tokens).to_bytes(8, "little"))
        data.update(example.tokens.astype("<i8").tobytes() + example.loss_mask.tobytes())
    settings["data"] = data.hexdigest()
    settings["target"] = f"{target.facts.dtype} {target.digest()}"
    return json.loads(json.dumps(settings))  # tuples become lists, as they will be read back


def save_run(output: Path, learners: Mapping[str, Learner], step: int, made_of: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step: a folder a learner, each a drafter of its own, and state.json.

    Args:
        output: of the run.
        learners: by name, all at `step`.
        step: optimizer steps done.
        made_of: the run's fingerprint.

    Raises:
        CheckpointError: the disk refused; earlier checkpoints are as they were.
    """
    with write_step(output, step) as folder:
        for name, learner in learners.items():
            learner.save(folder / name)
            save_file(learner.state(), folder / name / OPTIMIZER)
        state = {"step": step, "made_of": dict(made_of)}
        (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_run(found: StepFolder, learners: Mapping[str, Learner], made_of: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights and optimizer into the learners; in the backend that wrote it they go
    on bit for bit.

    Args:
        found: a valid checkpoint.
        learners: by name; all are changed, or none.
        made_of: fingerprint of the run that wants to go on.

    Raises:
        CheckpointError: the checkpoint is of other settings or data, or holds other tensors.
    """
    before = read_object(found.path / STATE).get("made_of", {})
    changed = [key for key in sorted({*before, *made_of}) if before.get(key) != made_of.get(key)]
    if changed:
        found_text = "; ".join(f"{k}: {before.get(k)!r} then, {made_of.get(k)!r} now" for k in changed)
        remedy = "Undo the change, name another output, or start anew with --no-resume (resume=False)."
        needed = "the settings and data of the run it belongs to"
        raise CheckpointError(explain(str(found.path), found_text, needed, remedy=remedy))
    files = {name: found.path / name / OPTIMIZER for name in learners}
    for name, learner in learners.items():
        _check_state(files[name], learner.drafter.config, str(learner.drafter.dtype).rpartition(".")[2])
    for name, learner in learners.items():
        learner.restore(load_file(files[name]), found.step)


def _check_state(path: Path, config: DrafterConfig, dtype: str) -> None:
    """Check by its header that a file holds a learner's state: of this drafter, in its masters' dtype."""
    needed = {
        f"{name}/{key}": () if key == COUNT else shape
        for name, shape in tensor_shapes(config).items()
        for key in (MASTER, *MOMENTS)
    }
    entries = read_header(path)
    if needed.keys() != entries.keys():
        some = ", ".join(sorted(needed.keys() ^ entries.keys())[:3])
        raise CheckpointError(explain(str(path), f"missing or extra: {some}", "the tensors of this drafter"))
    for name, shape in needed.items():
        entry, width = entries[name], "float32" if name.endswith(f"/{COUNT}") else dtype
        if entry.shape != shape or STORED.get(entry.dtype) != width:
            got = f"{entry.dtype} {entry.shape}"
            raise CheckpointError(explain(f"{path}: {name}", got, f"{width} {shape}"))
