"""Wrong and right sessions around any models, for `check_rollback`."""

from collections.abc import Callable, Sequence
from typing import Any

from dspec.testing.models.recall import recall_engine
from dspec.testing.models.wrapping import Factory, Wrapped, around


def rewinding(length: Callable[[Any, int], int | None]) -> Callable[[Any], Any]:
    """Return a wrapper whose `rewind` goes to length(session, wanted); None: nowhere."""

    class Session(Wrapped):
        def rewind(self, wanted: int) -> None:
            to = length(self._inner, wanted)
            if to is not None:
                self._inner.rewind(to)

    return Session


class Remembering(Wrapped):
    """Keeps scores by anchor and drafts, whatever stood before them; wrong."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._known: dict[int, Any] = {}

    def score(self, anchor: int, draft_tokens: Any) -> Any:
        """Score, or repeat what was scored after the same anchor."""
        scores = self._inner.score(anchor, draft_tokens)
        return self._known.setdefault(anchor % 2, scores)


class Counting(Wrapped):
    """Counts its positions right and keeps rejected ones all the same; wrong."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._gone = 0

    @property
    def length(self) -> int:
        """Positions that should be there."""
        return int(self._inner.length) - self._gone

    def rewind(self, length: int) -> None:
        """Empty the cache, or just count."""
        if length == 0:
            self._inner.rewind(0)
        self._gone = self._inner.length - length


class Stale(Wrapped):
    """A drafter that writes rows of rejected drafts over the next ones; wrong."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._left: Any = None

    def propose(self, anchor: int, position: int, features: Any, rule: Any, **cut: Any) -> Any:
        """Replace the first new rows by what was left over."""
        fresh = self._inner.length == 0
        left, new = self._left, position - self._inner.length
        if left is not None and not fresh:
            rows = min(left.shape[1], new)
            features = _joined(left[:, :rows], features[:, rows:])
        self._left = features[:, new:] if new < features.shape[1] else None
        return self._inner.propose(anchor, position, features, rule, **cut)


class Shifted(Wrapped):
    """A drafter that reads each pass's features one row late; wrong."""

    def propose(self, anchor: int, position: int, features: Any, rule: Any, **cut: Any) -> Any:
        """Repeat the first row."""
        late = _joined(features[:, :1], features[:, :-1]) if self._inner.length else features
        return self._inner.propose(anchor, position, late, rule, **cut)


def _joined(first: Any, second: Any) -> Any:
    """Return two arrays of rows, one behind the other, in any framework."""
    import array_api_compat

    if first.__class__.__module__.startswith("mlx"):
        import mlx.core as mx

        return mx.concatenate([first, second], axis=1)
    return array_api_compat.array_namespace(first).concat([first, second], axis=1)


class OneForAll:
    """Gives every request the same session, emptied when one begins; wrong."""

    def __init__(self) -> None:
        self._session: Any = None

    def __call__(self, inner: Any) -> Any:
        """Return the first session that was opened."""
        if self._session is None:
            self._session = inner
        self._session.rewind(0)
        return self._session


class Again(Wrapped):
    """Reads all tokens again for every score, in two passes; right, and slow."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._tokens: list[int] = []

    @property
    def length(self) -> int:
        """Committed positions."""
        return len(self._tokens)

    def prefill(self, tokens: Sequence[int]) -> Any:
        """Read on."""
        self._again()
        self._tokens += tokens
        return self._inner.prefill(list(tokens))

    def score(self, anchor: int, draft_tokens: Any) -> Any:
        """Read all again, then score."""
        self._again()
        self._tokens += [anchor, *draft_tokens[0].tolist()]
        return self._inner.score(anchor, draft_tokens)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        del self._tokens[length:]

    def _again(self) -> None:
        self._inner.rewind(0)
        half = len(self._tokens) // 2
        for part in (self._tokens[:half], self._tokens[half:]):
            if part:
                self._inner.prefill(part)


class Lazy(Wrapped):
    """Notes a rewind and makes it before it next reads; right, and looks like no rollback."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._to: int | None = None

    @property
    def length(self) -> int:
        """Committed positions."""
        return int(self._inner.length if self._to is None else min(self._to, self._inner.length))

    def rewind(self, length: int) -> None:
        """Note it."""
        self._to = length if self._to is None else min(length, self._to)

    def prefill(self, tokens: Sequence[int]) -> Any:
        """Rewind, then read."""
        self._settle()
        return self._inner.prefill(tokens)

    def score(self, anchor: int, draft_tokens: Any) -> Any:
        """Rewind, then score."""
        self._settle()
        return self._inner.score(anchor, draft_tokens)

    def _settle(self) -> None:
        if self._to is not None:
            self._inner.rewind(self._to)
        self._to = None


class Garbage(Wrapped):
    """A drafter that is fed rubbish for rejected rows; right: nothing may read them."""

    def propose(self, anchor: int, position: int, features: Any, rule: Any, **cut: Any) -> Any:
        """Overwrite the rows at and behind the anchor by the first one."""
        new = position - self._inner.length
        rest = features.shape[1] - new
        rows = [features[:, :new], *[features[:, :1]] * rest]
        for row in rows[1:]:
            rows[0] = _joined(rows[0], row)
        return self._inner.propose(anchor, position, rows[0], rule, **cut)


def _only_if_rejected(session: Any, wanted: int) -> int | None:
    return wanted if wanted < session.length else None


# name -> change of a model factory. The right ones look wrong.
WRONG: dict[str, Callable[[Factory], Factory]] = {
    "rejected drafts stay in the cache": around(
        target=rewinding(lambda session, wanted: None if wanted else 0)
    ),
    "rejected drafts stay, but are not counted": around(target=Counting),
    "rewinds to one position too many": around(
        target=rewinding(lambda session, wanted: wanted + 1 if wanted else 0)
    ),
    "rewinds to one position too few": around(target=rewinding(lambda session, wanted: max(wanted - 1, 0))),
    "does not empty the cache for a new prompt": around(
        target=rewinding(lambda session, wanted: wanted if wanted else 1)
    ),
    "scores remembered by anchor": around(target=Remembering),
    "features of rejected drafts kept": around(drafter=Stale),
    "features one row late": around(drafter=Shifted),
    "drafter not emptied for a new prompt": around(drafter=rewinding(lambda session, wanted: None)),
}
RIGHT: dict[str, Callable[[Factory], Factory]] = {
    "plain": lambda factory: factory,
    "rewinds only if something was rejected": around(target=rewinding(_only_if_rejected)),
    "rewinds when it next reads": around(target=Lazy),
    "reads everything again for every pass": around(target=Again),
    "rubbish as features of rejected drafts": around(drafter=Garbage),
}


def one_session_for_all(factory: Factory) -> Factory:
    """Return a factory whose requests share one session; wrong."""
    return lambda: around(target=OneForAll())(factory)()


WRONG["one cache for all requests"] = one_session_for_all


def specimens(changes: dict[str, Callable[[Factory], Factory]]) -> dict[str, Factory]:
    """Return the changes applied to models that remember everything."""
    return {name: change(recall_engine) for name, change in changes.items()}
