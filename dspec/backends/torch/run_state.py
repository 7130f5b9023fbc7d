"""A training run on disk: every learner's weights and optimizer, and what the run was made of."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dspec.backends.torch.drafter import save_drafter
from dspec.backends.torch.learner import Learner
from dspec.config import TrainConfig
from dspec.errors import CheckpointError, explain
from dspec.io.checkpoints import StepFolder, read_header, write_step
from dspec.io.examples import Example
from dspec.io.strict_json import read_object

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
MASTER = "weight"  # in the dtype that is trained; model.safetensors may hold fewer bits
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
SAMPLE = 2**20  # values of a large tensor that a target's digest reads, at least
# Settings that say where, when and how to look on, and leave every weight as it would have been.
HARMLESS = frozenset({"save_every", "validate_every", "validate_examples", "resume", "backend"})


def fingerprint(
    config: TrainConfig, learners: Mapping[str, Learner], examples: Sequence[Example], target: Any
) -> dict[str, Any]:
    """Return all that the weights of a step depend on, as JSON values: settings, objectives, data,
    target.

    Args:
        config: of the run.
        learners: by name.
        examples: trained on, in order.
        target: with `model`, `facts` and `softcap`.

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
    settings["target"] = f"{target.facts.dtype} {_digest(target)}"
    return json.loads(json.dumps(settings))  # tuples become lists, as they will be read back


def _digest(target: Any) -> str:
    """Return a digest of the target, whatever it is called.

    Every tensor counts, the large ones by a million evenly spaced values: another target differs
    everywhere, and billions of weights are not to be read twice.
    """
    seen = hashlib.sha256(f"{replace(target.facts, name='-')} {target.softcap}".encode())
    for name, weight in sorted(target.model.named_parameters()):
        values = weight.detach().flatten()
        some = values[:: max(1, values.numel() // SAMPLE)].contiguous()
        seen.update(f"{name} {tuple(weight.shape)}".encode())
        seen.update(some.view(torch.uint8).cpu().numpy().tobytes())
    return seen.hexdigest()


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
            save_drafter(learner.drafter, folder / name)
            save_file(_tensors(learner), folder / name / OPTIMIZER)
        state = {"step": step, "made_of": dict(made_of)}
        (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_run(found: StepFolder, learners: Mapping[str, Learner], made_of: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights and optimizer into the learners; they go on bit for bit.

    Args:
        found: a valid checkpoint.
        learners: by name; all are changed.
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
    for name, learner in learners.items():
        file = found.path / name / OPTIMIZER
        read_header(file)
        _restore(learner, load_file(file), file)
        learner.step = found.step


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """Return master weights and moments, each under the name of its weight."""
    state = learner.optimizer.state
    tensors = {}
    for name, weight in learner.drafter.named_parameters():
        moments = {key: state[weight][key] for key in MOMENTS}
        for key, tensor in {MASTER: weight.detach(), **moments}.items():
            tensors[f"{name}/{key}"] = tensor.contiguous()
    return tensors


def _restore(learner: Learner, tensors: Mapping[str, Tensor], where: Path) -> None:
    weights = dict(learner.drafter.named_parameters())
    needed = {f"{name}/{key}" for name in weights for key in (MASTER, *MOMENTS)}
    if needed != tensors.keys():
        some = ", ".join(sorted(needed ^ tensors.keys())[:3])
        raise CheckpointError(explain(str(where), f"missing or extra: {some}", "the tensors of this drafter"))
    for name, weight in weights.items():
        with torch.no_grad():
            weight.copy_(tensors[f"{name}/{MASTER}"])
        # AdamW counts its steps on the host, whatever the device of the weights.
        moments = {key: tensors[f"{name}/{key}"] for key in MOMENTS}
        learner.optimizer.state[weight] = {
            key: tensor if key == "step" else tensor.to(weight.device) for key, tensor in moments.items()
        }
