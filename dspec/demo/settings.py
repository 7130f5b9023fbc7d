"""What the demo trains and decodes: everything that decides its figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from dspec.config import TrainConfig
from dspec.errors import CheckpointError, explain
from dspec.evaluation.suites import DATA, DOMAINS

TARGET = Path(__file__).parent / "target"
TRAIN, VALIDATION = DATA / "train.jsonl.gz", DATA / "validation.jsonl.gz"

# By name, in the order of the tables: the baselines first, then the interventions as they add up.
ARMS = {
    "uniform": "uniform",
    "decay(7)": "dflash",
    "decay+first_error": "decay(10)+first_error(0.3)",
    "ltr": "ltr",
}
BASELINES = ("uniform", "decay(7)")


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Everything that decides the demo's figures, beside the target and the text.

    Args:
        steps: optimizer steps of every drafter.
        batch_size: texts a step.
        anchors: blocks a text.
        seq_len: longest text, in tokens.
        lr: peak learning rate. After 800 steps the validation tau was, at 1e-3, 2e-3 and 4e-3: uniform
            1.302, 1.295, 1.287; ltr 1.337, 1.347, 1.357. 2e-3 lies between the best of each.
        block_size: anchor and drafted slots.
        layers: of each drafter.
        prompts: decoded in each domain.
        max_new_tokens: decoded for each prompt.
        greedy_prompts: compared with the target's own greedy output, spread over the domains.
        seed: of weights, order and anchors.
        domains: suites to decode.

    Example:
        >>> DemoSettings().quick().steps < DemoSettings().steps
        True
    """

    steps: int = 400
    batch_size: int = 8
    anchors: int = 16
    seq_len: int = 256
    lr: float = 2e-3
    block_size: int = 8
    layers: int = 2
    prompts: int = 24
    max_new_tokens: int = 64
    greedy_prompts: int = 12
    seed: int = 0
    domains: tuple[str, ...] = tuple(DOMAINS)

    def quick(self) -> Self:
        """Return settings of a minute's run: it shows that all works, its figures mean little."""
        return replace(self, steps=30, prompts=3, max_new_tokens=24, greedy_prompts=3)

    def train_config(self, *, backend: str) -> TrainConfig:
        """Return the settings of the training run that all drafters share."""
        return TrainConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            anchors=self.anchors,
            seq_len=self.seq_len,
            lr=self.lr,
            block_size=self.block_size,
            layers=self.layers,
            seed=self.seed,
            # A validation reads as much text as eight steps: a short run has one, at its end.
            validate_every=self.steps // 4 if self.steps >= 40 else 0,
            backend=backend,
        )

    def as_dict(self) -> Mapping[str, Any]:
        """Return the settings and the objectives as plain values."""
        return {**asdict(self), "objectives": dict(ARMS)}


def shipped_target() -> Path:
    """Return the folder of the target that ships.

    Raises:
        CheckpointError: this installation lacks it.
    """
    if not (TARGET / "model.safetensors").is_file():
        remedy = "Install dspec anew, or make a target with examples/train_tiny_target.py."
        raise CheckpointError(explain("demo", "no target in the package", "demo/target", remedy=remedy))
    return TARGET
