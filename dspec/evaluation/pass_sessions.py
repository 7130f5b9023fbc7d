"""Sessions at rest after a context, on which the calls of decoding are timed: of one request, or of rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dspec.backends.batch_judge import BatchJudge
from dspec.backends.judge import RequestJudge
from dspec.batching import open_rows
from dspec.core.policies import GREEDY, draft_tokens
from dspec.core.types import Draft, Sampling, Scores
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.rng import Stream


class Alone:
    """The sessions that decoding one request opens, with the context read.

    Args:
        engine: with a drafter or without one.
        context: ids of the prompt.
        sizes: new tokens of the passes to come.
    """

    def __init__(self, engine: Engine, context: Sequence[int], sizes: Sequence[int]) -> None:
        self.ops, self._context = engine.ops, context
        self.at, self.anchor = len(context), int(context[-1])
        drafter, room = engine.drafter, _room(engine, context, sizes)
        layer_ids = () if drafter is None else drafter.layer_ids
        self._judges = {n: _judge(engine, n) for n in sizes}
        self._target = engine.target.session(layer_ids=layer_ids, capacity=room)
        features = self._target.prefill(context).features
        self._drafter: Any = None if drafter is None else drafter.session(engine.target, capacity=room)
        if self._drafter is not None:
            self.propose(self.at, features)  # takes the context in

    def drafts(self, n: int) -> Any:
        """Return drafts of a pass over n new tokens, on the device."""
        return self.ops.from_host(_ids(self._context, n)[None])

    def score(self, drafts: Any) -> Scores:
        """Read the anchor and drafts, and wait for a number of the last one."""
        scores: Scores = self._target.score(self.anchor, drafts)
        return _arrived(self.ops, scores)

    def verdict(self, n: int, scores: Scores, drafts: Any) -> None:
        """Judge a pass over n new tokens, up to the host."""
        self._judges[n].verdict(scores, Draft(drafts), self.at)

    def propose(self, position: int, features: Any) -> None:
        """Draft after the anchor, and wait for it."""
        draft = self._drafter.propose(self.anchor, position, features, _rule(self.ops))
        self.ops.to_host(draft.tokens)

    def rewind(self) -> None:
        """Bring the target back to the context."""
        self._target.rewind(self.at)

    def rewind_drafter(self) -> None:
        """Bring the drafter back to the context."""
        self._drafter.rewind(self.at)


class SideBySide:
    """The sessions that decoding several requests opens, with the context read in every row.

    Args:
        engine: with a drafter or without one.
        context: ids of the prompt, the same in all rows.
        sizes: new tokens of the passes to come.
        rows: B.

    Raises:
        ConfigError: the models have no sessions of rows.
    """

    def __init__(self, engine: Engine, context: Sequence[int], sizes: Sequence[int], rows: int) -> None:
        self.ops, self._context = engine.ops, context
        self.at, self.anchor = len(context), int(context[-1])
        room = _room(engine, context, sizes)
        sessions = open_rows(engine.target, engine.drafter, engine.ops, rows=rows, capacity=room)
        if sessions is None:
            needed = "1: target or drafter has no sessions of several requests"
            raise ConfigError(explain("batch size", rows, needed, clause="DL-12"))
        self._target, self._drafter = sessions
        self._who = list(range(rows))
        self._judges = {n: BatchJudge(engine.ops, [_judge(engine, n)] * rows) for n in sizes}
        for row in self._who:
            self._drafter.prefill(row, self._target.prefill(row, context).features)

    def drafts(self, n: int) -> Any:
        """Return drafts of a pass over n new tokens, on the device."""
        return self.ops.from_host(np.tile(_ids(self._context, n), (len(self._who), 1)))

    def score(self, drafts: Any) -> Scores:
        """Read anchors and drafts of all rows, and wait for a number of the last one."""
        return _arrived(self.ops, self._target.score([self.anchor] * len(self._who), drafts))

    def verdict(self, n: int, scores: Scores, drafts: Any) -> None:
        """Judge a pass over n new tokens of all rows, up to the host."""
        opened = self._judges[n].opened(self._who, *([each] * len(self._who) for each in (self.at, n - 1)))
        opened.verdict(scores, Draft(drafts))

    def propose(self, position: int, features: Any) -> None:
        """Draft after the anchors of all rows, and wait for it."""
        anchors, positions = [self.anchor] * len(self._who), [position] * len(self._who)
        draft = self._drafter.propose(anchors, positions, features, _rule(self.ops))
        self.ops.to_host(draft.tokens)

    def rewind(self) -> None:
        """Bring the target's rows back to the context."""
        self._target.rewind([self.at] * len(self._who))

    def rewind_drafter(self) -> None:
        """Bring the drafter's rows back to the context."""
        self._drafter.rewind([self.at] * len(self._who))


def _room(engine: Engine, context: Sequence[int], sizes: Sequence[int]) -> int:
    own = 0 if engine.drafter is None else engine.drafter.block_size
    return len(context) + max(*sizes, own + 1)


def _ids(context: Sequence[int], n: int) -> Any:
    # Which ids hardly matters for the time; those of the context are surely in the vocabulary.
    return np.resize(np.array(context, dtype=np.int32), n)[1:]


def _judge(engine: Engine, n: int) -> RequestJudge:
    return RequestJudge(engine.ops, GREEDY, Sampling(), Stream(0), n - 1)


def _rule(ops: Any) -> Any:
    def rule(logits: Any, first_slot: int = 0) -> Draft:
        return draft_tokens(logits, GREEDY, Sampling(), None, xp=ops.xp)

    return rule


def _arrived(ops: Any, scores: Scores) -> Scores:
    ops.to_host(scores.logits[-1, -1, :1])  # a lazy backend has run nothing before
    return scores
