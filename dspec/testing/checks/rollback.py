"""Sessions walked at random against fresh ones: of what was rejected, nothing may be left.

A walk is a list of moves on two requests in turn: read a prompt, read more of it, score drafts and keep
some of them. After each move logits, features and draft logits must be those of a session that has read
the kept tokens only.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dspec.core.types import Draft
from dspec.testing.report import Report

CLAUSES = ("RS-15", "DL-4")
CAPACITY = 40  # positions of a walked request; a longer one begins again
# Two orders of summation of one network, in eps of its dtype times its largest number: sums of some hundred
# terms. Measured on tiny models in float32: up to 10 with torch, 0 with MLX, whose sums keep their order.
ROUNDINGS = 200


@dataclass(frozen=True)
class Move:
    """One step of a walk.

    Args:
        request: 0 or 1.
        kind: "prompt" (forget all, read tokens), "more" (read tokens after the others) or "score".
        tokens: what is read; of a score the anchor, then the drafts.
        keep: drafts that stand after a score; the rest is rewound.
    """

    request: int
    kind: str
    tokens: tuple[int, ...]
    keep: int = 0

    def __str__(self) -> str:
        tail = f", keep {self.keep} of {len(self.tokens) - 1} drafts" if self.kind == "score" else ""
        return f"request {self.request}: {self.kind} {list(self.tokens)}{tail}"


def check_rollback(
    model_factory: Callable[[], Any],
    *,
    steps: int = 40,
    seed: int = 0,
    distance: float | None = None,
    moves: Sequence[Sequence[Any]] | None = None,
) -> Report:
    """Check that sessions after any rejections equal fresh ones that read the kept tokens only.

    Spec: RS-15, DL-4.

    Args:
        model_factory: returns models: anything with `target`, `drafter` (or None) and `ops`, such as a
            `dspec.engine.Engine`; called once a walk.
        steps: moves of the walk.
        seed: of the walk.
        distance: largest difference of two logits or features; None: 0 for numpy arrays, else 200 eps of
            the dtype times the largest of them (2.4e-5 of it in float32).
        moves: walk these instead, [request, kind, tokens, keep] each.

    Returns:
        The report, alpha 0; a failing walk is shortened as far as it still fails. Without a `distance`
        16-bit models are not walked, and the report says so: their roundings may be as large as a fault.

    Example:
        >>> from dspec.testing.models.recall import recall_engine
        >>> check_rollback(recall_engine, steps=5).passed
        True
    """
    models = model_factory()
    given = None if moves is None else [Move(r, kind, tuple(t), keep) for r, kind, t, keep in moves]
    walk = given or list(make_moves(models, steps=steps, seed=seed))
    if distance is None and _narrow(models):
        why = "16-bit models need a distance: how far two orders of summation may part"
        return Report(check="rollback", passed=True, tried={}, not_run=why)
    tried = {"moves": len(walk)}
    found = _walk(models, walk, distance)
    if found is None:
        return Report(check="rollback", passed=True, tried=tried, clauses=CLAUSES)
    walk, found = _shorten(model_factory, walk, distance, found)
    plain = [[move.request, move.kind, list(move.tokens), move.keep] for move in walk]
    example = {"moves": [str(move) for move in walk], **found}
    replay = {"check": "rollback", "arguments": {"moves": plain, "distance": distance}}
    return Report(
        check="rollback",
        passed=False,
        tried=tried,
        clauses=CLAUSES,
        counterexample=example,
        replay=replay,
    )


def make_moves(models: Any, *, steps: int, seed: int) -> Iterator[Move]:
    """Yield a walk; it ends with a score of each request, which sees what the last move left."""
    rng = random.Random(seed)
    vocab, slots = models.target.vocab_size, _slots(models)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocab) for _ in range(count))

    length = [0, 0]
    for _ in range(steps):
        request = int(rng.random() < 0.3)
        begin = not length[request] or length[request] + slots + 1 > CAPACITY - 8 or rng.random() < 0.08
        kind = "prompt" if begin else "more" if rng.random() < 0.1 else "score"
        if kind == "score":
            # None and all are the edges, hence twice as likely as the others.
            keep = rng.choice([0, slots, *range(slots + 1)])
            yield Move(request, kind, tokens(slots + 1), keep)
            length[request] += keep + 1
        else:
            read = rng.randint(1, 5)
            yield Move(request, kind, tokens(read))
            length[request] = read + (0 if kind == "prompt" else length[request])
    for request in (0, 1):
        if length[request]:
            yield Move(request, "score", tokens(slots + 1), 0)


def _slots(models: Any) -> int:
    return 3 if models.drafter is None else int(models.drafter.block_size) - 1


@dataclass
class _Sessions:
    """The sessions of one request and the tokens that they must stand for."""

    models: Any
    kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        models = self.models
        capacity = CAPACITY + 2 * (_slots(models) + 1)
        layer_ids = () if models.drafter is None else models.drafter.layer_ids
        self.target = models.target.session(layer_ids=layer_ids, capacity=capacity)
        self.drafter = models.drafter and models.drafter.session(models.target, capacity=capacity)

    def read(self, move: Move) -> dict[str, Any]:
        """Make one move; return all arrays that it gave, on the host."""
        if move.kind == "prompt" and self.kept:
            self.rewind(0)
        if move.kind == "score":
            drafts = self.models.ops.from_host(np.asarray([move.tokens[1:]], dtype=np.int32))
            scores = self.target.score(move.tokens[0], drafts)
            kept = move.tokens[: move.keep + 1]
        else:
            scores, kept = self.target.prefill(move.tokens), move.tokens
        self.kept += kept
        found = {"logits": scores.logits, "features": scores.features}
        self.target.rewind(len(self.kept))
        if self.drafter is not None:
            found["draft logits"] = self._propose(scores.features)
        return {name: self._host(array) for name, array in found.items() if array is not None}

    def rewind(self, length: int) -> None:
        """Forget every position >= length, in both sessions."""
        del self.kept[length:]
        self.target.rewind(length)
        if self.drafter is not None:
            self.drafter.rewind(length)

    def wrong_length(self) -> dict[str, Any] | None:
        """Return which session says that it holds another number of positions, or None."""
        for name in ("target", "drafter"):
            session = getattr(self, name)
            if session is not None and session.length != len(self.kept):
                return {"what": f"{name}.length", "got": session.length, "needed": len(self.kept)}
        return None

    def _propose(self, features: Any) -> Any:
        xp, slots = self.models.ops.xp, []

        def rule(logits: Any, *first_slot: int) -> Draft:
            slots.append(logits + 0)  # a copy: the drafter may write into its buffer again
            return Draft(xp.astype(xp.argmax(logits, axis=-1), xp.int32))

        anchor = sum(self.kept) % self.models.target.vocab_size
        self.drafter.propose(anchor, len(self.kept), features, rule)
        return xp.concat(slots, axis=1) if len(slots) > 1 else slots[0]

    def _host(self, array: Any) -> tuple[Any, float]:
        numbers = array if isinstance(array, np.ndarray) else np.asarray(self.models.ops.to_host(array))
        return numbers, 0.0 if isinstance(array, np.ndarray) else _eps(array)


def _narrow(models: Any) -> bool:
    """Return whether any array of the models is of 16 bits."""
    first = _Sessions(models).read(Move(0, "prompt", (0,)))
    return any(eps > 2.0**-20 for _, eps in first.values())


def _eps(array: Any) -> float:
    """Return the rounding unit of the array's dtype; 0 for integers."""
    names = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    return names.get(str(array.dtype).rpartition(".")[2], 0.0)


def _walk(models: Any, moves: Sequence[Move], distance: float | None) -> dict[str, Any] | None:
    """Return what is wrong after the first move that leaves something wrong, or None."""
    open_: dict[int, _Sessions] = {}
    for number, move in enumerate(moves, 1):
        if move.request not in open_:
            if move.kind != "prompt":
                continue  # its prompt was taken out of the walk
            open_[move.request] = _Sessions(models)
        sessions = open_[move.request]
        before = [] if move.kind == "prompt" else list(sessions.kept)
        needed = _fresh(models, before, move)
        try:
            got = sessions.read(move)
        except Exception as error:  # a fresh session took the same: what was left over is refused
            wrong: dict[str, Any] | None = {"what": "an exception", "got": f"{type(error).__name__}: {error}"}
        else:
            wrong = _difference(got, needed, distance) or sessions.wrong_length()
        if wrong is not None:
            return {"after move": number, "kept tokens": list(sessions.kept), **wrong}
    return None


def _fresh(models: Any, before: Sequence[int], move: Move) -> dict[str, Any]:
    """Return what a session gives that has read nothing but `before`, in one piece."""
    sessions = _Sessions(models)
    if not before:
        return sessions.read(move)
    if move.kind != "score":
        whole = sessions.read(Move(0, "prompt", (*before, *move.tokens)))
        rows, eps = whole.get("features", (None, 0.0))
        return whole if rows is None else {**whole, "features": (rows[:, len(before) :], eps)}
    sessions.read(Move(0, "prompt", tuple(before)))
    scored = sessions.read(move)
    if sessions.drafter is not None:
        again = _Sessions(models).read(Move(0, "prompt", (*before, *move.tokens[: move.keep + 1])))
        scored["draft logits"] = again["draft logits"]
    return scored


def _difference(got: Any, needed: Any, distance: float | None) -> dict[str, Any] | None:
    """Return the first array that is further off than allowed."""
    for name, (ours, eps) in got.items():
        theirs = needed[name][0]
        allowed = ROUNDINGS * eps * _largest(theirs) if distance is None else distance
        if ours.shape != theirs.shape:
            return {"what": name, "shape": ours.shape, "needed": theirs.shape}
        with np.errstate(invalid="ignore"):
            apart = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
        if not (apart <= allowed).all():  # NaN is wrong too
            row = int(np.argmax(~(apart <= allowed).all(axis=-1)[0]))
            return {"what": f"{name}, row {row}", "apart": float(apart.max()), "allowed": allowed}
    return None


def _largest(array: Any) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _shorten(
    model_factory: Callable[[], Any], moves: list[Move], distance: float | None, found: dict[str, Any]
) -> tuple[list[Move], dict[str, Any]]:
    """Take out moves, from the last to the first, while the walk still fails."""
    moves = moves[: found["after move"]]
    for index in reversed(range(len(moves))):
        fewer = moves[:index] + moves[index + 1 :]
        again = _walk(model_factory(), fewer, distance)
        if again is not None:
            moves, found = fewer[: again["after move"]], again
    return moves, found
