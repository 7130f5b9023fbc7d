"""A target's own texts after the prompts of a suite, written once and kept for many drafters."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dspec.backends.registry import open_room
from dspec.backends.written import Written
from dspec.core.settings import read_integer
from dspec.core.types import Sampling
from dspec.engine import Engine
from dspec.errors import DataError, explain
from dspec.evaluation.suites import Suite
from dspec.request import check_length
from dspec.rng import Purpose, Stream

ARRAYS = ("prompts", "prompt_lengths", "tokens", "lengths")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a target writes after the prompts of a suite.

    Letters: N prompts, P the longest one's tokens, C tokens written after each.

    Args:
        suite: its name.
        target: digest of the target that wrote.
        settings: max_new_tokens, seed, beyond, and those of `Sampling`.
        prompts: (N, P) int64, padded with 0 on the right.
        prompt_lengths: (N,) int64.
        tokens: (N, C) int64, C = max_new_tokens + beyond; stops do not end them.
        lengths: (N,) int64, tokens up to the first stop or the limit: what decoding would return.
    """

    suite: str
    target: str
    settings: Mapping[str, Any]
    prompts: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def sampling(self) -> Sampling:
        """The law that the tokens were drawn from."""
        return Sampling(**{name: self.settings[name] for name in ("temperature", "top_k", "top_p", "min_p")})

    def outputs(self) -> Iterator[tuple[int, ...]]:
        """Yield each output as decoding would return it."""
        yield from (tuple(row[:n].tolist()) for row, n in zip(self.tokens, self.lengths))

    def save(self, path: str | Path) -> None:
        """Write them into a .npz file."""
        facts = {"suite": self.suite, "target": self.target, "settings": dict(self.settings)}
        arrays = {name: getattr(self, name) for name in ARRAYS}
        with Path(path).open("wb") as file:
            np.savez_compressed(file, facts=np.array(json.dumps(facts)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or another kind of file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**json.loads(str(file["facts"])), **{name: file[name] for name in ARRAYS})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(explain(str(path), str(error), "a file of Texts.save")) from error

    def batches(self, size: int, n_slots: int) -> Iterator[tuple[NDArray[np.int64], Written]]:
        """Yield (numbers of the prompts, their texts), texts of like length together."""
        whole = self.prompt_lengths + self.lengths + n_slots
        order = np.argsort(whole, kind="stable")
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            tokens = np.zeros((len(rows), int(whole[rows].max())), dtype=np.int64)
            for i, row in enumerate(rows):
                n_prompt = self.prompt_lengths[row]
                text = np.concatenate([self.prompts[row, :n_prompt], self.tokens[row]])
                tokens[i, : len(text)] = text[: tokens.shape[1]]
            yield rows, Written(tokens, self.prompt_lengths[rows], self.lengths[rows])


def write_texts(
    engine: Engine,
    suite: Suite,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    beyond: int = 16,
    batch: int = 64,
    **sampling: Any,
) -> Texts:
    """Return what the target writes after each prompt, without a drafter, many prompts at a time.

    Prompt i has the uniforms of the seed `seed + i`: its text is that of
    `engine.generate(prompt, decoder=Autoregressive(), seed=seed + i)`, up to logits that tie within
    rounding. Each text goes on beyond its end, a stop included, as far as a last pass may look.

    Spec: DL-10, RN-1.

    Args:
        engine: its drafter, if any, is not used.
        suite: prompts.
        max_new_tokens: most tokens a text, >= 1.
        temperature: 0 is greedy.
        seed: key of the first prompt's uniforms.
        beyond: tokens after the end, >= 0; drafters of up to `beyond` + 1 drafted slots can be replayed.
        batch: prompts at once, >= 1.
        **sampling: top_k, top_p, min_p.

    Returns:
        The texts.

    Raises:
        ConfigError: a setting out of range, or more positions than the target can read.

    Example:
        >>> engine = dspec.load("Qwen/Qwen3-4B")                                      # doctest: +SKIP
        >>> write_texts(engine, load_suite("gsm8k", limit=8)).save("gsm8k.npz")       # doctest: +SKIP
    """
    law = Sampling(temperature=temperature, **sampling)
    for name, value, low in (
        ("max_new_tokens", max_new_tokens, 1),
        ("beyond", beyond, 0),
        ("batch", batch, 1),
    ):
        read_integer(name, value, low, 2**31, f"an integer >= {low}", clause="DL-10")
    prompts = [engine.encode(prompt) for prompt in suite.prompts]
    n_prompt = np.array([len(prompt) for prompt in prompts])
    count = max_new_tokens + beyond
    check_length(int(n_prompt.max()) + count, engine.target.max_positions)
    write, order = scores_of(engine.target).write_texts, np.argsort(n_prompt, kind="stable")
    tokens = np.zeros((len(prompts), count), dtype=np.int64)
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        u = None if law.greedy else np.stack([_uniforms(seed + i, n_prompt[i], count) for i in rows.tolist()])
        tokens[rows] = write(engine.target, [prompts[i] for i in rows], u, sampling=law, count=count)
    padded = np.zeros((len(prompts), int(n_prompt.max())), dtype=np.int64)
    for row, prompt in zip(padded, prompts):
        row[: len(prompt)] = prompt
    settings = {"max_new_tokens": max_new_tokens, "seed": seed, "beyond": beyond, **vars(law)}
    return Texts(
        suite=suite.name,
        target=engine.target.digest(),  # type: ignore[attr-defined]  # of both rooms, not of tables
        settings=settings,
        prompts=padded,
        prompt_lengths=n_prompt,
        tokens=tokens,
        lengths=_cut(tokens[:, :max_new_tokens], engine.target.eos_ids),
    )


def scores_of(target: Any) -> Any:
    """Return the module `block_scores` of the room that a target lives in."""
    room, _ = open_room("auto", lent=(target,))
    return import_module(f"{room.__package__}.block_scores")


def _uniforms(seed: int, n_prompt: int, count: int) -> NDArray[np.float32]:
    """Return (count, 2): the keys under which decoding token by token draws them."""
    stream = Stream(seed)
    places = range(int(n_prompt) - 1, int(n_prompt) - 1 + count)
    return np.stack([stream.uniforms(Purpose.CLOSE, place, (2,)) for place in places])


def _cut(tokens: NDArray[np.int64], eos_ids: frozenset[int]) -> NDArray[np.int64]:
    """Return how many tokens of each row are emitted: up to its first stop, which is kept."""
    stops = np.isin(tokens, sorted(eos_ids))
    found: NDArray[np.int64] = np.where(stops.any(axis=1), stops.argmax(axis=1) + 1, tokens.shape[1])
    return found
