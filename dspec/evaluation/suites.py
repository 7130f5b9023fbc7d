"""Prompt suites: the shipped ones by name, anyone's own by path."""

import difflib
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from dspec.errors import ConfigError, DataError, explain
from dspec.io.records import ChatRecord, PairRecord, TokenRecord, parse_record

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]

DATA = Path(__file__).parent.parent / "demo" / "data"
DOMAINS = {
    "gsm8k": "GSM8K test: grade-school sums in words",
    "humaneval": "HumanEval: Python functions to complete",
    "mt_bench": "MT-Bench: first turns of open questions",
}
PREFIX = "suite_"  # of the files of a folder of suites
TINY = 4  # prompts that the suite `tiny` takes of each domain


@dataclass(frozen=True)
class Suite:
    """Prompts under a name.

    Args:
        name: of the suite, for tables and files.
        prompts: each text, token ids or chat messages, as `Engine.generate` takes them.

    Raises:
        ConfigError: there are no prompts.

    Example:
        >>> Suite("mine", ("2 + 2 =", "3 + 3 =")).take(1)
        Suite(name='mine', prompts=('2 + 2 =',))
    """

    name: str
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError(explain(f"suite {self.name!r}", "no prompts", "at least one prompt"))

    def take(self, n: int | None) -> Self:
        """Return the suite of the first `n` prompts, of all if there are fewer or `n` is None."""
        if n is not None and n < 1:
            raise ConfigError(explain("prompts", n, "an integer >= 1"))
        return replace(self, prompts=self.prompts[:n])


def load_suite(name: str | Path, *, limit: int | None = None) -> Suite:
    """Return a suite by its name, or the one in a JSONL file.

    A record of the file is one that training reads; an answer in it (a "response", a last message
    of the assistant) is left away and need not be there.

    Args:
        name: "gsm8k", "humaneval", "mt_bench", "tiny" (four of each), or a path.
        limit: most prompts to take, >= 1; None takes all.

    Returns:
        The suite; a file's is named after it.

    Raises:
        ConfigError: no suite and no file of that name.
        DataError: a line of the file is no prompt; the message names the line.

    Example:
        >>> load_suite("gsm8k", limit=2).name
        'gsm8k'
    """
    if name in DOMAINS:
        return _read(str(name), DATA / f"eval_{name}.jsonl").take(limit)
    if name == "tiny":
        parts = [load_suite(domain, limit=TINY) for domain in DOMAINS]
        return Suite("tiny", tuple(p for part in parts for p in part.prompts)).take(limit)
    path = Path(name)
    if not path.is_file():
        known = [*DOMAINS, "tiny"]
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"Did you mean {close[0]}?" if close else ""
        needed = f"one of {', '.join(known)}, or a JSONL file"
        raise ConfigError(explain("suite", repr(str(name)), needed, remedy=hint))
    return _read(path.name.split(".")[0], path).take(limit)


def load_suites(folder: str | Path, *, limit: int | None = None) -> tuple[Suite, ...]:
    """Return the suites of a folder: its files `suite_NAME.jsonl`, in the order of their names.

    Args:
        folder: such as `examples/make_study_data.py` writes.
        limit: most prompts to take of each, >= 1; None takes all.

    Returns:
        The suites, each with the NAME of its file.

    Raises:
        ConfigError: there is none.
        DataError: a line of a file is no prompt; the message names the line.

    Example:
        >>> [suite.name for suite in load_suites("study")]                            # doctest: +SKIP
        ['dialogue', 'gsm8k', 'humaneval', 'mbpp', 'mt_bench', 'source']
    """
    paths = sorted(Path(folder).glob(f"{PREFIX}*.jsonl"))
    if not paths:
        raise ConfigError(explain("suites", f"none in {folder}", f"files {PREFIX}NAME.jsonl"))
    return tuple(_read(path.stem.removeprefix(PREFIX), path).take(limit) for path in paths)


def _read(name: str, path: Path) -> Suite:
    return Suite(name, tuple(_prompt(raw, where) for raw, where in _objects(path)))


def _objects(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each line's object and its place, for errors."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    raw = json.loads(line)
                    if not isinstance(raw, dict):
                        raise ValueError(f"a {type(raw).__name__}, not an object")
                    yield raw, f"{path.name}:{number}"
    except (OSError, EOFError, ValueError) as error:
        where = f"{path.name}:{number}"
        if isinstance(error, DataError):
            raise
        raise DataError(explain(where, str(error), "one JSON object a line")) from error


def _prompt(raw: Mapping[str, Any], where: str) -> Prompt:
    """Return the prompt of a record, its answer left away."""
    # A prompt needs no response here, but whatever stands there is checked as in training.
    record = parse_record({"response": "", **raw} if "prompt" in raw else raw, where=where)
    if isinstance(record, ChatRecord):
        last = record.messages[-1]["role"]
        prompt: Prompt = record.messages[:-1] if last == "assistant" else record.messages
    elif isinstance(record, TokenRecord):
        prompt = record.tokens
    else:
        prompt = record.prompt if isinstance(record, PairRecord) else record.text
    if not prompt:
        raise DataError(explain(where, "nothing but an answer", "a prompt before it"))
    return prompt
