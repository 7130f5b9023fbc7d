"""What all drafters of a study share: the target, its own texts, the examples to learn from. Made once."""

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from study_settings import StudySettings

import dspec
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.evaluation.machine import describe_versions
from dspec.evaluation.suites import Suite, load_suite
from dspec.evaluation.texts import Texts, write_texts
from dspec.io.examples import Example, encode
from dspec.io.records import parse_record

TRAIN = "train.jsonl.gz"
HEAD = 400  # characters of a plain text that make its prompt
OWN_SEED = 1_000_000  # first key of the own texts; those of the suites are numbered from evaluation.seed
# Prompts at once. On a GPU a step of 1,024 rows takes about as long as one of 64, for kernels are short.
BATCH = {"cuda": 1024, "cpu": 64}


def make_target(settings: StudySettings, output: Path) -> None:
    """Train the target, unless it stands there."""
    folder, train = settings.target.path, settings.target.train
    if (folder / "config.json").is_file():
        return
    if train is None:
        remedy = "Give [target.train], the options of examples/train_study_target.py."
        raise ConfigError(explain("study: target", f"no model in {folder}", "a folder", remedy=remedy))
    script = Path(__file__).parent / "train_study_target.py"
    options = [word for key, value in train.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command = [sys.executable, str(script), "--data", settings.data, "--output", str(folder), *options]
    subprocess.run(command, check=True)


def open_engine(settings: StudySettings) -> Engine:
    """The target alone."""
    return dspec.load(settings.target.path, backend=settings.backend, dtype=settings.target.dtype)


def read_suites(settings: StudySettings) -> list[Suite]:
    """The prompts of every suite."""
    folder, chosen = Path(settings.data), settings.evaluation
    loaded = [load_suite(folder / f"suite_{name}.jsonl", limit=chosen.prompts) for name in chosen.suites]
    return [replace(suite, name=name) for suite, name in zip(loaded, chosen.suites, strict=True)]


def made_of(settings: StudySettings, engine: Engine) -> dict[str, Any]:
    """All that texts and examples depend on beside the machine, as plain JSON values."""
    folder = Path(settings.data)
    files = [folder / TRAIN, *(folder / f"suite_{name}.jsonl" for name in settings.evaluation.suites)]
    training = settings.train_config(0)
    found = {
        "texts": asdict(settings.texts),
        "evaluation": asdict(settings.evaluation),
        "lengths": [training.seq_len, training.block_size],
        "dtype": settings.target.dtype,
        "target": engine.target.digest(),
        "data_sha256": hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest(),
        "versions": describe_versions(),
    }
    return json.loads(json.dumps(found))


def text_path(output: Path, temperature: float) -> Path:
    """The file of the target's texts at one temperature."""
    return output / "texts" / f"T={temperature:g}.npz"


def write_all(settings: StudySettings, engine: Engine, output: Path, key: dict[str, Any]) -> None:
    """Write texts and examples, unless they stand there and were made by the same settings."""
    folder, stamp = output / "texts", output / "texts" / "made_of.json"
    folder.mkdir(parents=True, exist_ok=True)
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == key:
        return
    stamp.unlink(missing_ok=True)
    chosen = settings.evaluation
    # All suites at once: their texts cost as many steps as those of the longest.
    joined = Suite("all", tuple(p for suite in read_suites(settings) for p in suite.prompts))
    for t in chosen.temperatures:
        texts = _write(settings, engine, joined, t, chosen.max_new_tokens, chosen.seed)
        texts.save(text_path(output, t))
    save_examples(output / "texts" / "examples.npz", make_examples(settings, engine))
    stamp.write_text(json.dumps(key), encoding="utf-8")


def _write(settings: StudySettings, engine: Engine, suite: Suite, t: float, count: int, seed: int) -> Texts:
    beyond = int(settings.train_config(0).block_size)
    batch = BATCH.get(getattr(engine.target.device, "type", "cpu"), 64)
    sizes = {"max_new_tokens": count, "beyond": beyond, "batch": batch}
    return write_texts(engine, suite, temperature=t, seed=seed, **sizes)


def make_examples(settings: StudySettings, engine: Engine) -> list[Example]:
    """Records as they are, then the target's own texts after the prompts of the next ones."""
    chosen, length = settings.texts, settings.train_config(0).seq_len
    with gzip.open(Path(settings.data) / TRAIN, "rt", encoding="utf-8") as file:
        raw = [json.loads(line) for line in file]
    found = []
    for number, line in enumerate(raw[: chosen.records]):
        record = parse_record(line, where=f"{TRAIN}:{number + 1}")
        found.append(encode(record, engine.target.tokenizer, vocab_size=engine.target.vocab_size))
    found += own_examples(settings, engine, raw[chosen.records :])
    return [short for e in found if (short := e.cut(length)).trainable]


def own_examples(settings: StudySettings, engine: Engine, raw: list[dict[str, Any]]) -> list[Example]:
    """Texts that the target writes after prompts of training records; what it wrote is learned."""
    chosen = settings.texts
    if not chosen.own:
        return []
    prompts: list[list[int]] = []
    for line in raw:
        ids = engine.encode(prompt_of(line))
        if len(ids) <= chosen.longest_prompt:
            prompts.append(ids)
        if len(prompts) == chosen.own:
            break
    else:
        needed = f"prompts of at most {chosen.longest_prompt} tokens for texts.own = {chosen.own}"
        raise ConfigError(explain("study: data", f"{len(prompts)} of them", needed))
    found, share = [], len(chosen.own_temperatures)
    for i, t in enumerate(chosen.own_temperatures):
        suite = Suite("own", tuple(prompts[i::share]))
        texts = _write(settings, engine, suite, t, chosen.own_tokens, OWN_SEED + i * chosen.own)
        found += examples_of(texts, range(len(suite.prompts)))
    order = np.random.default_rng(0).permutation(len(found))  # the temperatures mixed
    return [found[i] for i in order]


def prompt_of(line: dict[str, Any]) -> Any:
    """The prompt of a training record: a chat up to its first answer, the head of a plain text."""
    if "messages" in line:
        roles = [m["role"] for m in line["messages"]]
        return line["messages"][: roles.index("assistant")]
    head = line["text"][:HEAD]
    return head[: head.rfind("\n") + 1] or head


def examples_of(texts: Texts, rows: Sequence[int]) -> list[Example]:
    """Texts of the target as examples: what it wrote, its end included, is in the loss."""
    found = []
    for i in rows:
        n_prompt, n = int(texts.prompt_lengths[i]), int(texts.lengths[i])
        tokens = np.concatenate([texts.prompts[i, :n_prompt], texts.tokens[i, :n]]).astype(np.int64)
        found.append(Example(tokens, np.arange(len(tokens)) >= n_prompt))
    return found


def save_examples(path: Path, examples: Sequence[Example]) -> None:
    """Keep examples, so that no process encodes them again (40 s for all records on one core)."""
    lengths = np.array([len(e.tokens) for e in examples])
    tokens = np.concatenate([e.tokens for e in examples]).astype(np.int32)
    np.savez(path, lengths=lengths, tokens=tokens, loss_mask=np.concatenate([e.loss_mask for e in examples]))


def load_examples(path: Path) -> list[Example]:
    """Read what `save_examples` kept."""
    with np.load(path) as file:
        ends = np.cumsum(file["lengths"])[:-1]
        pairs = zip(np.split(file["tokens"], ends), np.split(file["loss_mask"], ends), strict=True)
        return [Example(tokens.astype(np.int64), mask) for tokens, mask in pairs]


def validation_examples(settings: StudySettings, output: Path) -> list[Example]:
    """The greedy texts of the first prompts of each suite, for the learning curve; it chooses nothing."""
    t = min(settings.evaluation.temperatures)
    texts = Texts.load(text_path(output, t))
    rows = [i for part in suite_rows(settings) for i in part[: settings.evaluation.validation_prompts]]
    length = settings.train_config(0).seq_len
    return [short for e in examples_of(texts, rows) if (short := e.cut(length)).trainable]


def suite_rows(settings: StudySettings) -> list[range]:
    """Rows of the joined texts that belong to each suite, in their order."""
    sizes = [len(suite.prompts) for suite in read_suites(settings)]
    ends = np.cumsum(sizes).tolist()
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
