"""The one configuration file of the objective study: typed, and strict about what it does not know."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dspec.config import TrainConfig
from dspec.core.objectives import Objective
from dspec.demo.settings import TARGET
from dspec.errors import ConfigError, explain

SUITES = ("gsm8k", "humaneval", "mbpp", "mt_bench", "dialogue", "source")
# What a study itself decides of a training run.
NOT_TRAINING = ("objective", "reduction", "seed", "resume", "save_every", "backend", "validate_examples")


@dataclass(frozen=True)
class Arm:
    """One objective under test.

    Args:
        objective: its text.
        reduction: "block_sum" or "weighted_mean".
    """

    objective: str
    reduction: str = "block_sum"

    def __post_init__(self) -> None:
        Objective.parse(self.objective, reduction=self.reduction)


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Which target; how to make it if it is not there.

    Args:
        folder: Hugging Face folder; "shipped" is the tiny target of the package.
        train: options of examples/train_study_target.py by name; None: the folder must be there.
        dtype: of its weights while the study runs.
    """

    folder: str = "shipped"
    train: Mapping[str, Any] | None = None
    dtype: str = "auto"

    @property
    def path(self) -> Path:
        """Of the folder."""
        return TARGET if self.folder == "shipped" else Path(self.folder)


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """What drafters learn from: records of train.jsonl.gz, and the target's own texts.

    Args:
        records: first records of the file, as they are.
        own: texts that the target writes after the prompts of the next records, as papers train; the rest
            of such a text is the target's own.
        own_tokens: of each such text.
        own_temperatures: the own texts are shared out evenly among them.
        longest_prompt: in tokens; records with a longer one give no own text.
    """

    records: int = 4096
    own: int = 0
    own_tokens: int = 192
    own_temperatures: tuple[float, ...] = (0.0, 1.0)
    longest_prompt: int = 256


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured.

    Args:
        suites: read from suite_NAME.jsonl of the data folder.
        prompts: of each suite, at most.
        max_new_tokens: of each text of the target.
        temperatures: of the target's texts; the mean over them is the study's main figure.
        policies: above temperature 0; the first one counts, the others are reported.
        drafter_dtype: drafters are converted to it before they draft; bfloat16 is how checkpoints are stored.
        validation_prompts: greedy texts of each suite that the learning curve is measured on.
        seed: of the texts.
    """

    suites: tuple[str, ...] = SUITES
    prompts: int = 64
    max_new_tokens: int = 128
    temperatures: tuple[float, ...] = (0.0, 1.0)
    policies: tuple[str, ...] = ("rejection", "one_hot")
    drafter_dtype: str = "float32"
    validation_prompts: int = 8
    seed: int = 0

    @property
    def cells(self) -> dict[str, tuple[float, str | None]]:
        """Temperature and policy of each column of figures, by name."""
        found: dict[str, tuple[float, str | None]] = {}
        for t in self.temperatures:
            if t == 0:
                found["T=0"] = (t, None)
            for policy in self.policies if t else ():
                main = policy == self.policies[0]
                found[f"T={t:g}" if main else f"T={t:g} {policy}"] = (t, policy)
        return found

    @property
    def main_cells(self) -> tuple[str, ...]:
        """One column a temperature: those whose mean is the study's main figure."""
        return tuple(f"T={t:g}" for t in self.temperatures)


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Everything a study is made of.

    Args:
        arms: by name.
        training: keys of `TrainConfig`, but for those that the study decides.
        data: folder that examples/make_study_data.py wrote.
        baselines: arms that all others are compared with.
        seeds: of weights, order and anchors.
        jobs: processes, each with a seed at a time.
        arms_at_once: arms trained side by side; results do not depend on it.
        draws: samples of the bootstrap.
        backend: "auto", "cpu", "cuda" ...
    """

    arms: Mapping[str, Arm]
    training: Mapping[str, Any]
    data: str
    baselines: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    arms_at_once: int = 8
    draws: int = 4000
    backend: str = "auto"
    target: TargetSettings = field(default_factory=TargetSettings)
    texts: TextSettings = field(default_factory=TextSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        absent = [name for name in self.baselines if name not in self.arms]
        checks = (
            ("arms", list(self.arms), bool(self.arms), "at least one"),
            ("baselines", absent, not absent, f"names of arms: {', '.join(self.arms)}"),
            (
                "seeds",
                self.seeds,
                len(set(self.seeds)) == len(self.seeds) > 0,
                "different numbers, >= 1 of them",
            ),
            ("jobs", self.jobs, self.jobs >= 1, "an integer >= 1"),
            ("arms_at_once", self.arms_at_once, self.arms_at_once >= 1, "an integer >= 1"),
            ("texts", self.texts, self.texts.records + self.texts.own > 0, "records or own texts"),
        )
        for name, got, ok, needed in checks:
            if not ok:
                raise ConfigError(explain(f"study: {name}", got, needed))
        self.train_config(0)

    def train_config(self, seed: int) -> TrainConfig:
        """The settings of one seed's run; its objective is each arm's."""
        for key in NOT_TRAINING:
            if key in self.training:
                raise ConfigError(explain(f"study: training.{key}", self.training[key], "left to the study"))
        given = {**self.training, "seed": seed, "resume": False, "backend": self.backend}
        return TrainConfig.from_mapping(given, where="study: training")

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def decides(self) -> dict[str, Any]:
        """What the figures of an arm and seed depend on, beside arm, target, texts and versions; as JSON."""
        config = self.train_config(0).as_dict()
        return json.loads(json.dumps({"training": {k: v for k, v in config.items() if k != "seed"}}))


def read_settings(path: Path) -> StudySettings:
    """The study of a TOML file.

    Raises:
        ConfigError: unreadable, an unknown or a missing key, a value of the wrong kind or out of range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(explain(f"study: {path}", str(error), "a TOML file")) from error
    parts = {"target": TargetSettings, "texts": TextSettings, "evaluation": EvaluationSettings}
    made = {name: _make(kind, raw.pop(name), name) for name, kind in parts.items() if name in raw}
    arms = {name: _arm(name, value) for name, value in raw.pop("arms", {}).items()}
    return _make(StudySettings, {**raw, **made, "arms": arms}, "the file")


def _arm(name: str, value: Any) -> Arm:
    return Arm(value) if isinstance(value, str) else _make(Arm, value, f"arms.{name}")


def _make(kind: Any, values: Any, where: str) -> Any:
    """Build a dataclass of a table: no key unknown, none missing, lists as tuples, numbers as declared."""
    if not isinstance(values, Mapping):
        raise ConfigError(explain(f"study: {where}", repr(values), "a table"))
    known = {f.name: f for f in fields(kind)}
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {close[0]}?" if close else ""
            needed = f"one of {', '.join(known)}"
            raise ConfigError(explain(f"study: {where}", f"the key {key!r}", needed, remedy=remedy))
        default = known[key].default
        if default not in (MISSING, None, ()) and not _alike(default, value):
            raise ConfigError(explain(f"study: {where}, {key}", repr(value), f"like {default!r}"))
    missing = [
        n
        for n, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and n not in values
    ]
    if missing:
        raise ConfigError(
            explain(f"study: {where}", "no " + ", ".join(missing), "all keys without a default")
        )
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def _alike(default: Any, value: Any) -> bool:
    if isinstance(default, tuple):
        if not isinstance(value, list) or not value:
            return False
        like = default[0]
        numbers = isinstance(like, float)
        return all(isinstance(v, (int, float) if numbers else type(like)) for v in value)
    return type(value) is type(default)
