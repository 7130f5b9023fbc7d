"""Whole requests of an engine on a backend, watched: keys, reads, counts, caches, failures, settings."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dspec.backends.judge import RequestJudge
from dspec.core.decode import Limits, Pass, decode
from dspec.core.policies import POLICIES, choose_policy
from dspec.core.types import Sampling
from dspec.decoders import Autoregressive
from dspec.engine import Engine
from dspec.errors import ConfigError, DspecError, NumericsError
from dspec.rng import Purpose, Stream
from dspec.testing.models.table_engine import table_engine
from dspec.testing.models.worlds import make_worlds
from dspec.testing.report import Report

Fact = Callable[["Room"], str]
LENGTH = 24
UNKNOWN = ({"typical": 0.3}, {"top_p": 0.0}, {"temperature": -1.0}, {"policy": "lossy"}, {"seed": -1})


@dataclass(frozen=True)
class Room:
    """What the facts are looked at in: one world's engine on one backend."""

    ops: Any
    seed: int
    make: Callable[..., Engine] = table_engine

    def engine(self) -> Engine:
        """Return an engine that ends at the length only."""
        world = make_worlds(1, seed=self.seed, vocab_size=5, num_drafts=3, kinds=("autoregressive",))[0]
        return self.make(world, self.ops)

    def tokens(self, engine: Engine, prompt: Any = (0, 1), **settings: Any) -> Any:
        """Return what an engine emits."""
        given = {"max_new_tokens": LENGTH, "temperature": 1.0, "ignore_eos": True, "seed": 3, **settings}
        out = engine.generate(prompt, **given)
        return [one.tokens for one in out] if isinstance(out, list) else out.tokens


def check_requests(
    ops: Any, *, seed: int = 0, facts: Sequence[str] | None = None, make: Callable[..., Engine] = table_engine
) -> Report:
    """Check what a request must do beside having the right law.

    Spec: DL-1, DL-2, DL-4, DL-5, DL-6, DL-7, DL-8, RN-2, RN-4, RS-8, RS-9, RS-10, RS-13, RS-16, RS-18.

    Args:
        ops: the backend's `ArrayOps`.
        seed: of the world.
        facts: names in FACTS; None: all.
        make: (world, ops) -> the engine that is watched.

    Returns:
        The report; alpha is 0.

    Example:
        >>> from dspec.backends.numpy import NumpyOps
        >>> check_requests(NumpyOps()).passed
        True
    """
    room = Room(ops, seed, make)
    names = list(FACTS if facts is None else facts)
    for index, name in enumerate(names):
        clauses, fact = FACTS[name]
        try:
            wrong = fact(room)
        except (DspecError, ValueError, TypeError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            return Report(
                check="requests",
                passed=False,
                tried={"facts": index + 1},
                counterexample={"fact": name, "wrong": wrong},
                clauses=clauses,
                replay={"check": "requests", "arguments": {"facts": [name], "seed": seed}},
            )
    clauses = tuple(dict.fromkeys(clause for name in names for clause in FACTS[name][0]))
    return Report(check="requests", passed=True, tried={"facts": len(names)}, clauses=clauses)


@dataclass(frozen=True)
class LoggedStream(Stream):
    """A stream that remembers the elements of every key that were asked for."""

    log: list[tuple[Purpose, int, int]] = field(default_factory=list, compare=False)

    def uniforms(self, purpose: Purpose, position: int, shape: tuple[int, ...]) -> Any:
        """Return the uniforms and remember their keys."""
        self.log.extend((purpose, position, element) for element in range(int(np.prod(shape))))
        return super().uniforms(purpose, position, shape)


class CountingOps:
    """`ArrayOps` that count what is brought to the host."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.reads = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def to_host(self, array: Any) -> Any:
        """Count, then read."""
        self.reads += 1
        return self._inner.to_host(array)


def _run(room: Room, policy: str, *, stream: Stream, ops: Any, spy: Any = None) -> list[Pass]:
    """Run the loop with parts that can be watched."""
    engine = room.engine()
    sampling = Sampling(temperature=0.0 if policy == "greedy" else 1.0)
    drafter: Any = engine.drafter
    slots = drafter.block_size - 1
    judge = RequestJudge(ops, choose_policy(policy, sampling), sampling, stream, slots)
    target = engine.target.session(layer_ids=(), capacity=2 * LENGTH)
    session = drafter.session(engine.target, capacity=2 * LENGTH)
    if spy is not None:
        session = spy(target, session)
    return list(decode(target, session, judge, [0, 1], Limits(LENGTH)))


def no_key_twice(room: Room) -> str:
    """No uniform decides two things; greedy needs none."""
    for policy in POLICIES:
        stream = LoggedStream(3, 2)
        _run(room, policy, stream=stream, ops=room.ops)
        twice = [key for key, times in Counter(stream.log).items() if times > 1]
        if twice:
            return f"policy {policy}: the key {tuple(map(int, twice[0]))} is read twice"
        if policy == "greedy" and stream.log:
            return "the greedy policy draws"
    return ""


def one_read_a_pass(room: Room) -> str:
    """A pass brings values to the host once."""
    for policy in POLICIES:
        ops = CountingOps(room.ops)
        passes = _run(room, policy, stream=Stream(1), ops=ops)
        if ops.reads != len(passes):
            return f"policy {policy}: {ops.reads} reads in {len(passes)} passes"
    return ""


def counts(room: Room) -> str:
    """The prefill emits one token and judges nothing; a pass emits its accepted drafts and one more."""
    out = room.engine().generate([0, 1], max_new_tokens=LENGTH, temperature=1.0, ignore_eos=True)
    first, *passes = out.chunks
    if first.n_accepted is not None or len(first.tokens) != 1:
        return f"prefill: {first}"
    for chunk in passes[:-1]:
        if len(chunk.tokens) != chunk.n_accepted + 1:
            return f"a pass emits {len(chunk.tokens)} tokens with {chunk.n_accepted} accepted"
    mean = sum(chunk.n_accepted + 1 for chunk in passes) / len(passes)
    return "" if out.stats.tau == mean else f"tau {out.stats.tau}; needed {mean}"


def anchors(room: Room) -> str:
    """Before a pass both caches hold what lies before the anchor, no more and no less."""
    seen: list[tuple[int, int, int]] = []

    class Spy:
        def __init__(self, target: Any, drafter: Any) -> None:
            self._target, self._drafter = target, drafter

        def propose(self, anchor: int, position: int, features: Any, rule: Any, **cut: Any) -> Any:
            draft = self._drafter.propose(anchor, position, features, rule, **cut)
            seen.append((position, self._target.length, self._drafter.length))
            return draft

        def rewind(self, length: int) -> None:
            self._drafter.rewind(length)

    passes = _run(room, "rejection", stream=Stream(2), ops=room.ops, spy=Spy)
    starts = np.cumsum([2, *((step.n_emitted or 0) for step in passes[1:-1])]).tolist()
    needed = [(start, start, start) for start in starts]
    return "" if seen == needed else f"(anchor, target's length, drafter's length) {seen}; needed {needed}"


def greedy(room: Room) -> str:
    """Temperature 0 gives what one token a pass gives."""
    engine = room.engine()
    fast = room.tokens(engine, temperature=0.0)
    slow = room.tokens(engine, temperature=0.0, decoder=Autoregressive())
    return "" if fast == slow else f"{fast}; one token a pass: {slow}"


def again(room: Room) -> str:
    """A request gives the same again, alone and in any list; another seed gives another output."""
    engine = room.engine()
    for policy in ("one_hot", "rejection", "sample_match"):
        alone = room.tokens(engine, policy=policy)
        beside = room.tokens(engine, [[0, 1], [2]], policy=policy)
        other = room.tokens(engine, [[4, 4, 4], [2], [0]], policy=policy)
        if alone != beside[0] or alone != room.tokens(room.engine(), policy=policy):
            return f"policy {policy}: the same request, two outputs"
        if beside[1] != other[1]:
            return f"policy {policy}: a neighbour changes an output"
        # Two seeds may agree by chance where the law is peaked; eight of them do not.
        if all(alone == room.tokens(engine, policy=policy, seed=seed) for seed in range(4, 12)):
            return f"policy {policy}: nine seeds, one output"
    return ""


def failure(room: Room) -> str:
    """A law of NaN emits nothing, names request and position, and leaves nothing behind."""
    engine = room.engine()
    before = room.tokens(engine)
    broken = Engine(_Broken(engine.target, room.ops), engine.drafter, engine.ops)
    for policy in POLICIES:
        heat = 0.0 if policy == "greedy" else 1.0
        try:
            got = room.tokens(broken, policy=policy, temperature=heat)
            return f"policy {policy}: a law of NaN emits {got}"
        except NumericsError as error:
            if "request 0" not in str(error) or "position" not in str(error):
                return f"policy {policy}: {error}"
    return "" if room.tokens(engine) == before else "a failed request changes the next one"


class _Broken:
    """A target whose logits are NaN from the first pass on."""

    def __init__(self, inner: Any, ops: Any) -> None:
        self._inner, self._ops = inner, ops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def session(self, **options: Any) -> Any:
        session = self._inner.session(**options)
        score = session.score

        def broken(anchor: int, drafts: Any) -> Any:
            scores = score(anchor, drafts)
            nan = np.full(scores.logits.shape, np.nan, np.float32)
            return type(scores)(self._ops.from_host(nan), scores.features)

        session.score = broken
        return session


def settings(room: Room) -> str:
    """A setting that is unknown or out of range raises; so does a verifier by an unknown name."""

    def ignored() -> Iterator[str]:
        for given in UNKNOWN:
            try:
                room.tokens(room.engine(), **given)
                yield str(given)
            except ConfigError:
                pass

    taken = next(ignored(), "")
    return f"accepted without a word: {taken}" if taken else ""


FACTS: dict[str, tuple[tuple[str, ...], Fact]] = {
    "no key twice": (("RN-2", "RS-8"), no_key_twice),
    "one read a pass": (("DL-6",), one_read_a_pass),
    "counts": (("DL-1", "DL-2"), counts),
    "anchors": (("DL-4", "DL-5"), anchors),
    "greedy": (("DL-7", "RS-11"), greedy),
    "again": (("RS-9", "RS-10", "RN-4"), again),
    "failure": (("DL-8", "RS-16"), failure),
    "settings": (("RS-13", "RS-18"), settings),
}
