"""Batches of requests, wrong and right, for `check_isolation` and `check_independence`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspec.rng import Purpose, Stream
from dspec.testing.checks.independence import Key, check_independence, kinds_of
from dspec.testing.checks.isolation import Asked
from dspec.testing.models.recall import RecallTarget
from dspec.testing.report import Report

VOCAB = 8


def own_uniform(batch: Sequence[Asked], row: int, step: int) -> float:
    """Return the uniform of a request's own key; right."""
    one = batch[row]
    return float(Stream(one.seed, one.number).uniforms(Purpose.CLOSE, len(one.prompt) + step, (1,))[0])


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A batch of samplers in replaceable parts; the defaults are right.

    Args:
        uniform: (batch, row, step) -> uniform of a token.
        prompt: (batch, row) -> tokens that the model reads.
        limit: (batch, row) -> tokens to emit.
        order: (number of rows) -> the order in which they are worked on.
    """

    uniform: Callable[[Sequence[Asked], int, int], float] = own_uniform
    prompt: Callable[[Sequence[Asked], int], tuple[int, ...]] = lambda batch, row: batch[row].prompt
    limit: Callable[[Sequence[Asked], int], int] = lambda batch, row: batch[row].max_new_tokens
    order: Callable[[int], Iterable[int]] = range

    def __call__(self, batch: Sequence[Asked]) -> list[Any]:
        """Return the tokens of each request."""
        found: dict[int, Any] = {}
        for row in self.order(len(batch)):
            session = RecallTarget(VOCAB).session()
            logits, tokens = session.prefill(self.prompt(batch, row)).logits, []
            for step in range(self.limit(batch, row)):
                weights = np.exp(logits[0, -1]).cumsum()
                tokens.append(int((self.uniform(batch, row, step) * weights[-1] >= weights).sum()))
                logits = session.prefill(tokens[-1:]).logits
            found[row] = tuple(tokens)
        return [found[row] for row in range(len(batch))]


def _one_generator(batch: Sequence[Asked], row: int, step: int) -> float:
    return float(np.random.default_rng(batch[0].seed).random((step + 1, len(batch)))[step, row])


def _generator_of_seed(batch: Sequence[Asked], row: int, step: int) -> float:
    alike = [index for index, one in enumerate(batch) if one.seed == batch[row].seed]
    stream = np.random.default_rng(batch[row].seed).random((step + 1, len(alike)))
    return float(stream[step, alike.index(row)])


def _row_number(batch: Sequence[Asked], row: int, step: int) -> float:
    return own_uniform([Asked(**{**vars(one), "number": i}) for i, one in enumerate(batch)], row, step)


def _undrafted_advance(batch: Sequence[Asked], row: int, step: int) -> float:
    return own_uniform(batch, row, step + sum(not one.drafts for one in batch[:row]))


def _private(batch: Sequence[Asked], row: int, step: int) -> float:
    return float(np.random.default_rng([batch[row].seed, batch[row].number]).random(step + 1)[step])


def _padded(batch: Sequence[Asked], row: int) -> tuple[int, ...]:
    return (0,) * (max(len(one.prompt) for one in batch) - len(batch[row].prompt)) + batch[row].prompt


class Carrying:
    """Begins with the last token of the call before; wrong."""

    def __init__(self) -> None:
        self._last: tuple[int, ...] = ()

    def __call__(self, batch: Sequence[Asked]) -> list[Any]:
        """Return the tokens of each request."""
        left = self._last
        outputs = Batches(prompt=lambda batch, row: left + batch[row].prompt)(batch)
        self._last = outputs[-1][-1:]
        return outputs


def _once(batch: Sequence[Asked]) -> list[Any]:
    """Work on equal requests once; right."""
    different = list(dict.fromkeys(batch))
    known = dict(zip(different, Batches()(different)))
    return [known[one] for one in batch]


def _by_two(batch: Sequence[Asked]) -> list[Any]:
    """Work on two requests at a time; right."""
    return [out for start in range(0, len(batch), 2) for out in Batches()(batch[start : start + 2])]


WRONG_BATCHES: dict[str, Any] = {
    "one generator, advanced by every row": Batches(uniform=_one_generator),
    "one generator a seed, advanced by its rows": Batches(uniform=_generator_of_seed),
    "the row is the request's number": Batches(uniform=_row_number),
    "requests without drafts advance the others": Batches(uniform=_undrafted_advance),
    "padding is read": Batches(prompt=_padded),
    "the limit of the longest": Batches(limit=lambda batch, row: max(one.max_new_tokens for one in batch)),
    "all end with the shortest": Batches(limit=lambda batch, row: min(one.max_new_tokens for one in batch)),
    "begins with what the last call left": Carrying(),
}
RIGHT_BATCHES: dict[str, Any] = {
    "one by one": Batches(),
    "from the last to the first": Batches(order=lambda count: reversed(range(count))),
    "a generator of its own for each request": Batches(uniform=_private),
    "equal requests once": _once,
    "two at a time": _by_two,
}

# Requests of independent tokens ---------------------------------------------------------------------

LAW, DRAFT_LAW = (0.5, 0.3, 0.2), (0.2, 0.3, 0.5)
PROMPT, SLOTS = 2, 2
KeyMap = Callable[..., Key]


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Rejection sampling of independent tokens, K = 2, with replaceable keys; the default is right.

    Args:
        key: (seed, request, position, purpose, element, pass number) -> the key that is really read.
        known: whether its keys can be looked at.
        match: sample-match by the drafts' own uniforms, a sharing that is exact.
    """

    key: KeyMap = lambda *key: key[:5]
    known: bool = True
    match: bool = False

    def outputs(self, seed: int, count: int) -> list[tuple[int, ...]]:
        """Return the tokens of requests 0..count - 1."""
        return [self._request(seed, number, []) for number in range(count)]

    def keys(self, seed: int) -> list[Key]:
        """Return the keys of four requests under each of two seeds."""
        log: list[Key] = []
        for near in (seed, seed + 1):
            for number in range(4):
                self._request(near, number, log)
        return log

    def check(self, *, n: int = 150, seed: int = 0) -> Report:
        """Return the check's report on them."""
        law = {(token,): chance for token, chance in enumerate(LAW)}
        kinds = kinds_of(self.outputs, apart=SLOTS + 1)
        return check_independence(kinds, law, n=n, seed=seed, keys=self.keys if self.known else None)

    def _request(self, seed: int, number: int, log: list[Key]) -> tuple[int, ...]:
        passes = 0

        def uniform(purpose: Purpose, position: int, element: int = 0) -> float:
            log.append(self.key(seed, number, position, int(purpose), element, passes))
            keyed_seed, request, place, use, index = log[-1]
            return float(Stream(keyed_seed, request).uniforms(Purpose(use), place, (index + 1,))[index])

        tokens = [_pick(LAW, uniform(Purpose.CLOSE, PROMPT - 1))]
        while len(tokens) < SLOTS + 3:
            passes += 1
            tokens += self._pass(PROMPT - 1 + len(tokens), uniform)
        return tuple(tokens)

    def _pass(self, anchor: int, uniform: Any) -> list[int]:
        drawn = [uniform(Purpose.DRAFT, anchor, slot) for slot in range(SLOTS)]
        drafts = [_pick(DRAFT_LAW, u) for u in drawn]
        if self.match:
            own = [_pick(LAW, u) for u in drawn]
            agree = next((k for k, pair in enumerate(zip(own, drafts)) if pair[0] != pair[1]), SLOTS)
            return own[: agree + 1] if agree < SLOTS else [*own, _pick(LAW, uniform(Purpose.CLOSE, anchor))]
        for slot, draft in enumerate(drafts):
            if not uniform(Purpose.ACCEPT, anchor, slot) * DRAFT_LAW[draft] < LAW[draft]:
                left = [max(p - q, 0.0) for p, q in zip(LAW, DRAFT_LAW)]
                return [*drafts[:slot], _pick(left, uniform(Purpose.CLOSE, anchor))]
        return [*drafts, _pick(LAW, uniform(Purpose.CLOSE, anchor))]


def _pick(law: Sequence[float], uniform: float) -> int:
    running = np.cumsum(law)
    return int((uniform * running[-1] >= running).sum())


def _reading(wrong: Purpose, other: Purpose) -> KeyMap:
    """Return a key map on which one purpose reads another's uniforms."""

    def key(seed: int, number: int, position: int, purpose: int, element: int, passes: int) -> Key:
        return (seed, number, position, int(other) if purpose == wrong else purpose, element)

    return key


def _by_place(seed: int, number: int, position: int, purpose: int, element: int, passes: int) -> Key:
    """The drafted token's place is the key: a rejected slot's uniform is read again in the next pass."""
    drafts = purpose == Purpose.DRAFT
    return (seed, number, position + element if drafts else position, purpose, 0 if drafts else element)


def _one_slot(seed: int, number: int, position: int, purpose: int, element: int, passes: int) -> Key:
    return (seed, number, position, purpose, 0)


def _late_prefill(seed: int, number: int, position: int, purpose: int, element: int, passes: int) -> Key:
    return (seed, number, position if passes else position + 1, purpose, element)


WRONG_REQUESTS: dict[str, Requests] = {
    "one uniform for all rows": Requests(key=lambda s, n, *key: (s, 0, *key[:3]), known=False),
    "request numbers wrap at 50": Requests(key=lambda s, n, *key: (s, n % 50, *key[:3]), known=False),
    "the seed and the number are added": Requests(key=lambda s, n, *key: (s + n, 0, *key[:3]), known=False),
    "the same uniforms in every pass": Requests(key=lambda s, n, p, *key: (s, n, 0, *key[:2]), known=False),
    "draft u reused for acceptance": Requests(key=_reading(Purpose.ACCEPT, Purpose.DRAFT)),
    "draft u reused for the closing token": Requests(key=_reading(Purpose.CLOSE, Purpose.DRAFT)),
    "a key is read again after a rewind": Requests(key=_by_place),
    "one uniform for all slots": Requests(key=_one_slot),
    "prefill and first pass share a key": Requests(key=_late_prefill),
}
RIGHT_REQUESTS: dict[str, Requests] = {
    "keys by position": Requests(),
    "keys by pass": Requests(key=lambda s, n, p, use, e, passes: (s, n, passes, use, e)),
    "seed and number exchanged": Requests(key=lambda s, n, *key: (n, s, *key[:3])),
    "sample-match sharing the drafts' uniforms": Requests(match=True),
    "not one key is known": Requests(known=False),
}
