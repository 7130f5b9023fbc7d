"""Table language models whose laws are known exactly: what exactness is checked on.

A world is a target, a drafter and the settings of a generation. The target's next-token weights
depend on the last tokens and on the position (so that stale caches show), the drafter's on the last
token, the slot and, if it is autoregressive, on its own previous draft. A drafter that lies draws from
another law than it reports: a world of such a drafter is for what must fail, or what must not care.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

from dspec.oracle.decode import sequence_law
from dspec.oracle.rejection import Law, argmax, one_hot
from dspec.oracle.warp import warp_weights

PERIOD = 3  # the target's table repeats over positions with this period
KINDS = ("independent", "autoregressive", "deterministic")
LIES = ("tempered", "shifted", "flat", "greedy")  # what a dishonest drafter's tokens are really drawn from


@dataclass(frozen=True)
class Warp:
    """Exact sampling settings: temperature 0 or 1/m, cuts as rationals.

    Spec: RS-13.
    """

    temperature: Fraction | int = 1
    top_k: int = 0
    top_p: Fraction | int = 1
    min_p: Fraction | int = 0

    def law(self, weights: tuple[int, ...]) -> tuple[Fraction, ...]:
        """Return the exact law of integer weights under these settings."""
        return _law(weights, self)


@cache
def _law(weights: tuple[int, ...], warp: Warp) -> tuple[Fraction, ...]:
    cuts: dict[str, Any] = {"top_k": warp.top_k, "top_p": warp.top_p, "min_p": warp.min_p}
    return tuple(warp_weights(weights, temperature=warp.temperature, **cuts))


WARPS = {
    "plain": Warp(),
    "half": Warp(temperature=Fraction(1, 2)),
    "third": Warp(temperature=Fraction(1, 3)),
    "top_p": Warp(top_p=Fraction(9, 10)),
    "top_k": Warp(top_k=2),
    "mixed": Warp(temperature=Fraction(1, 2), top_k=3, top_p=Fraction(9, 10), min_p=Fraction(1, 20)),
    "greedy": Warp(temperature=0),
    "ties": Warp(temperature=0),  # worlds of this name have weights 0..2, so that argmaxes tie
}

Table = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class World:
    """One target, one drafter and one generation, all integers.

    Args:
        target_weights: [position % PERIOD][last token] -> V integer weights.
        drafter_weights: [slot][last token of the context, or last draft] -> V integer weights.
        kind: of the drafter, one of KINDS.
        num_drafts: K.
        max_new_tokens: limit of the generation.
        eos: stop token.
        warp: sampling settings, the same for target and drafter.
        prompt: token ids before the generation.
        reach: how many last tokens the target reads; their sum modulo V picks the row.
        lie: "" for an honest drafter, else one of LIES.
    """

    target_weights: Table
    drafter_weights: Table
    kind: str = "independent"
    num_drafts: int = 2
    max_new_tokens: int = 4
    eos: int = 2
    warp: Warp = field(default_factory=Warp)
    prompt: tuple[int, ...] = (0,)
    reach: int = 1
    lie: str = ""

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.target_weights[0][0])

    def target(self, context: tuple[int, ...]) -> Law:
        """Return the target's law of the token after a context."""
        return self.warp.law(self.raw_target(context))

    def raw_target(self, context: tuple[int, ...]) -> tuple[int, ...]:
        """Return the target's weights before the warp."""
        return self.target_weights[len(context) % PERIOD][sum(context[-self.reach :]) % self.vocab_size]

    def raw_drafter(self, context: tuple[int, ...], drafts: tuple[int, ...]) -> tuple[int, ...]:
        """Return the drafter's weights before the warp."""
        last = drafts[-1] if drafts and self.kind == "autoregressive" else context[-1]
        return self.drafter_weights[len(drafts)][last]

    def drafter(self, context: tuple[int, ...], drafts: tuple[int, ...]) -> Law:
        """Return the law that the drafter reports for the next draft."""
        law = self.warp.law(self.raw_drafter(context, drafts))
        return one_hot(argmax(law), len(law)) if self.kind == "deterministic" else law

    def drawn(self, context: tuple[int, ...], drafts: tuple[int, ...]) -> Law:
        """Return the law that the next draft is drawn from: the reported one, if the drafter is honest.

        Spec: RS-2.
        """
        law = self.drafter(context, drafts)
        return LIARS[self.lie](law) if self.lie else law

    def law(self) -> dict[tuple[int, ...], Fraction]:
        """Return the target's own law of whole generations: the right answer.

        Spec: RS-1.
        """
        return sequence_law(
            self.target, prompt=self.prompt, max_new_tokens=self.max_new_tokens, eos={self.eos}
        )

    def loop(self) -> dict[str, Any]:
        """Return the settings of `dspec.oracle.decode.generate` in this world."""
        return {
            "prompt": self.prompt,
            "num_drafts": self.num_drafts,
            "max_new_tokens": self.max_new_tokens,
            "eos": {self.eos},
        }

    def plain(self) -> dict[str, Any]:
        """Return the world in JSON's types; `read_world` reads it back.

        Example:
            >>> world, = make_worlds(1, seed=0, warps=("third",))
            >>> read_world(world.plain()) == world
            True
        """
        cuts = {name: str(value) for name, value in asdict(self.warp).items()}
        return {**asdict(self), "warp": cuts}


def read_world(plain: Mapping[str, Any]) -> World:
    """Return the world that `World.plain` wrote down."""
    tables = {
        name: tuple(tuple(tuple(row) for row in table) for table in plain[name])
        for name in ("target_weights", "drafter_weights")
    }
    cuts = {name: Fraction(value) for name, value in plain["warp"].items()}
    warp = Warp(**{**cuts, "top_k": int(cuts["top_k"])})  # type: ignore[arg-type]
    return World(**{**plain, **tables, "warp": warp, "prompt": tuple(plain["prompt"])})


def _tempered(law: Law) -> Law:
    squares = [mass * mass for mass in law]
    return [Fraction(square, sum(squares)) for square in squares]


LIARS: dict[str, Callable[[Law], Law]] = {
    "tempered": _tempered,
    "shifted": lambda law: [*law[1:], law[0]],
    "flat": lambda law: [Fraction(1, len(law))] * len(law),
    "greedy": lambda law: one_hot(argmax(law), len(law)),
}


def random_row(rng: random.Random, size: int, *, top: int = 8) -> tuple[int, ...]:
    """Return V weights 1..top, each set to 0 with probability 12 %, at least one kept."""
    row = [0 if rng.random() < 0.12 else rng.randint(1, top) for _ in range(size)]
    if not any(row):
        row[rng.randrange(size)] = 1
    return tuple(row)


def random_table(rng: random.Random, count: int, size: int, *, top: int = 8) -> Table:
    """Return `count` tables of V rows of V weights."""
    return tuple(tuple(random_row(rng, size, top=top) for _ in range(size)) for _ in range(count))


def inverse_table(target: Table, count: int) -> Table:
    """Return drafter tables that like what the target dislikes (q about 1/p): rejections abound."""

    def flip(row: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(9 - weight if weight else 8 for weight in row)

    return tuple(tuple(flip(row) for row in target[slot % PERIOD]) for slot in range(count))


def make_worlds(
    count: int,
    *,
    seed: int,
    vocab_size: int = 3,
    num_drafts: int = 2,
    max_new_tokens: int = 4,
    warps: tuple[str, ...] = ("plain",),
    kinds: tuple[str, ...] = ("independent", "autoregressive"),
    reach: int = 1,
    lies: tuple[str, ...] = ("",),
) -> list[World]:
    """Return worlds of every listed kind, warp and lie in turn; every third drafter is q about 1/p.

    Args:
        count: how many.
        seed: of their tables.
        vocab_size: V; the last id is the stop token.
        num_drafts: K.
        max_new_tokens: limit of each generation.
        warps: names in WARPS, cycled.
        kinds: of drafters, cycled.
        reach: how many last tokens the target reads.
        lies: "" or names in LIES, cycled.

    Returns:
        `count` worlds.

    Example:
        >>> world, = make_worlds(1, seed=0)
        >>> sum(world.law().values())
        Fraction(1, 1)
    """
    rng = random.Random(seed)
    worlds = []
    for index in range(count):
        warp = warps[index % len(warps)]
        top = 2 if warp == "ties" else 8
        target = random_table(rng, PERIOD, vocab_size, top=top)
        drafter = random_table(rng, max(num_drafts, 1), vocab_size, top=top)
        if index % 3 == 2:
            drafter = inverse_table(target, max(num_drafts, 1))
        worlds.append(
            World(
                target_weights=target,
                drafter_weights=drafter,
                kind=kinds[index % len(kinds)],
                num_drafts=num_drafts,
                max_new_tokens=max_new_tokens,
                eos=vocab_size - 1,
                warp=WARPS[warp],
                reach=reach,
                lie=lies[index % len(lies)],
            )
        )
    return worlds


def mixed_worlds(
    *, seed: int, warps: tuple[str, ...] = ("plain",), size: int = 1, lies: tuple[str, ...] = ("",)
) -> list[World]:
    """Return cheap worlds first: K = 1 and 2 with 3 tokens, then K = 2 with 4, where a bonus shows.

    The worlds of K = 2 read two tokens back: a cache that kept a wrong one shows twice.

    Args:
        seed: of the tables.
        warps: names in WARPS, cycled.
        size: 9 worlds each.
        lies: "" or names in LIES, cycled.

    Returns:
        9 * size worlds.

    Example:
        >>> len(mixed_worlds(seed=0))
        9
    """
    worlds = []
    for drafts, tokens, count in ((1, 3, 4), (2, 3, 4), (2, 4, 1)):
        worlds += make_worlds(
            count * size,
            seed=seed + drafts + tokens,
            num_drafts=drafts,
            max_new_tokens=tokens,
            warps=warps,
            reach=drafts,
            lies=lies,
        )
    return worlds
