"""Two engines on the same weights, pass by pass: where they part, a number must have lain near an edge.

Two backends add in another order, so their logits differ in the last digits. The same uniforms then
give the same tokens, except where one of the numbers that a pass compares lies nearer to its threshold
than the logits' difference can move it. Such a pass is excused and counted; any other difference, and
logits that lie further apart than declared, are failures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat.numpy as npx
import numpy as np
from numpy.typing import NDArray

from dspec.core.policies import GREEDY, SAMPLE_MATCH
from dspec.core.warp import warp
from dspec.request import Request, parse_request
from dspec.rng import Purpose, Stream
from dspec.testing.checks.coupling import draw_distance, edge_distance
from dspec.testing.report import Report

Row = NDArray[Any]


@dataclass
class _Pass:
    """What one engine saw in its last pass: all that its tokens were decided by, on the host."""

    position: int = 0
    drafts: Row | None = None  # (K,)
    draft_logits: Row | None = None  # (K, V)
    logits: Row | None = None  # (K + 1, V); of a prefill (1, V)


def compare_engines(
    first: Any, second: Any, prompts: Sequence[Any], *, distance: float, seed: int = 0, **settings: Any
) -> Report:
    """Check that two engines emit the same tokens, apart from counted near-edge passes.

    Both decode every prompt pass by pass. While they agree, the target's logits of each pass must
    agree within `distance`. A pass that differs is excused if a number it compared lay within four times
    `distance` of its threshold (a logit moved by d moves a probability by up to 2 d, and the two sides
    of a comparison may move apart); what follows in that request is another text and is not compared.

    Spec: RS-10, RS-12.

    Args:
        first: a `dspec.engine.Engine`.
        second: another with the same weights, on another backend.
        prompts: as for `Engine.generate`.
        distance: largest difference of two logits, nats.
        seed: of prompt 0; prompt i has seed + i.
        **settings: as for `Engine.generate`.

    Returns:
        The report. `tried` counts prompts, tokens that were compared, and near-edge passes.
    """
    tally = {"prompts": 0, "tokens": 0, "passes": 0, "near-edge passes": 0}
    for i, prompt in enumerate(prompts):
        request = parse_request({**settings, "seed": seed + i})
        tally["prompts"] += 1
        found = _Pair(first, second, request, distance).run(prompt, {**settings, "seed": seed + i}, tally)
        if found is not None:
            example = {"prompt": i, "seed": seed + i, **found}
            return Report(check="engines", passed=False, tried=tally, counterexample=example)
    return Report(check="engines", passed=True, tried=tally)


class _Pair:
    """Two engines in step on one request."""

    def __init__(self, first: Any, second: Any, request: Request, distance: float) -> None:
        self.seen = (_Pass(), _Pass())
        self.engines = [_watched(e, seen) for e, seen in zip((first, second), self.seen, strict=True)]
        self.request, self.distance = request, distance

    def run(self, prompt: Any, settings: dict[str, Any], tally: dict[str, int]) -> dict[str, Any] | None:
        """Decode until the end or the first difference; return an unexplained one."""
        streams = [engine.stream(prompt, **settings) for engine in self.engines]
        for ours, theirs in zip(*streams, strict=True):
            apart = self._apart()
            if apart > self.distance:
                return {"position": self.seen[0].position, "logits apart": apart, "allowed": self.distance}
            tally["passes"] += 1
            if (ours.tokens, ours.n_accepted) != (theirs.tokens, theirs.n_accepted):
                margin = self._margin(min(ours.n_accepted or 0, theirs.n_accepted or 0))
                if margin > 4 * self.distance:
                    return {
                        "position": self.seen[0].position,
                        "tokens": [ours.tokens, theirs.tokens],
                        "n_accepted": [ours.n_accepted, theirs.n_accepted],
                        "edge distance": margin,
                    }
                tally["near-edge passes"] += 1
                return None
            tally["tokens"] += len(ours.tokens)
        return None

    def _apart(self) -> float:
        """Return the largest difference of the logits that both must agree on.

        Rows after the first draft that differs stand behind another text.
        """
        ours, theirs = (seen.logits for seen in self.seen)
        assert ours is not None and theirs is not None
        rows = self._common_drafts() + 1
        difference = np.abs(ours[:rows] - theirs[:rows])
        return float(difference[np.isfinite(ours[:rows])].max())

    def _common_drafts(self) -> int:
        ours, theirs = (seen.drafts for seen in self.seen)
        if ours is None or theirs is None:
            return 0
        same = ours == theirs
        return len(same) if same.all() else int(same.argmin())

    def _margin(self, n_accepted: int) -> float:
        """Return how near the number that decided lay to its threshold.

        Args:
            n_accepted: the lesser of the two engines' counts; 0 for a prefill.
        """
        seen, policy = self.seen[0], self.request.rule()
        common = self._common_drafts()
        if seen.drafts is not None and common < len(seen.drafts) and common <= n_accepted:
            return self._draft_margin(common)
        if policy is GREEDY:
            return _gap(seen.logits, n_accepted)
        if seen.drafts is None:
            close = self._uniforms(Purpose.CLOSE, seen.position, (1, 1, 2))[0, 0]
            return draw_distance(self._law(seen.logits)[0], close)
        return self._verify_margin(n_accepted)

    def _draft_margin(self, slot: int) -> float:
        seen = self.seen[0]
        if not self.request.rule().samples:
            return _gap(seen.draft_logits, slot)
        law = self._law(seen.draft_logits)[slot]
        return draw_distance(law, self._uniforms(Purpose.DRAFT, seen.position, (1, slot + 1, 2))[0, slot])

    def _verify_margin(self, slot: int) -> float:
        """The acceptance test at `slot`, or the draw that closed the pass there."""
        seen, policy = self.seen[0], self.request.rule()
        assert seen.drafts is not None
        n_slots = len(seen.drafts)
        accept = self._uniforms(Purpose.ACCEPT, seen.position, (1, n_slots))[0]
        close = self._uniforms(Purpose.CLOSE, seen.position, (1, n_slots + 1, 2))[0]
        laws, drafts, mode = self._law(seen.logits), seen.drafts, "rejection"
        drafter = self._law(seen.draft_logits) if policy.samples else None
        if policy is SAMPLE_MATCH:
            mode = "match"
        # The slots before were accepted by both: what lies there decided nothing.
        row = (laws[slot:], drafts[slot:], drafter if drafter is None else drafter[slot:], accept[slot:])
        return edge_distance((*row, close[slot:] if mode == "match" else close), [0], mode)

    def _law(self, logits: Row | None) -> Row:
        assert logits is not None
        return warp(logits, self.request.sampling, xp=npx)

    def _uniforms(self, purpose: Purpose, position: int, shape: tuple[int, ...]) -> Row:
        return Stream(self.request.seed, self.request.number).uniforms(purpose, position, shape)


def _gap(logits: Row | None, slot: int) -> float:
    """Return the lead of a row's largest logit over its second."""
    assert logits is not None
    second, best = np.sort(logits[slot])[-2:]
    return float(best - second)


def _watched(engine: Any, seen: _Pass) -> Any:
    """Return the engine with models whose last pass is kept."""
    drafter = engine.drafter and _Watched(engine.drafter, engine.ops, seen)
    return replace(engine, target=_Watched(engine.target, engine.ops, seen), drafter=drafter)


class _Watched:
    """A model, or one of its sessions, that notes what its last pass was decided by."""

    def __init__(self, inner: Any, ops: Any, seen: _Pass) -> None:
        self._inner, self._ops, self._seen = inner, ops, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def session(self, *arguments: Any, **options: Any) -> Any:
        """Return a watched session; a drafter's is opened beside the target itself."""
        plain = [part._inner if isinstance(part, _Watched) else part for part in arguments]
        return _Watched(self._inner.session(*plain, **options), self._ops, self._seen)

    def prefill(self, tokens: Sequence[int]) -> Any:
        """Note the logits after the prompt."""
        self._seen.position, self._seen.drafts, self._seen.draft_logits = len(tokens) - 1, None, None
        return self._note(self._inner.prefill(tokens))

    def score(self, anchor: int, draft_tokens: Any) -> Any:
        """Note the logits of the anchor and the drafts, and the drafts themselves."""
        self._seen.drafts = np.asarray(self._ops.to_host(draft_tokens)[0], dtype=np.int64)
        self._seen.position = self._inner.length
        return self._note(self._inner.score(anchor, draft_tokens))

    def propose(self, anchor: int, position: int, features: Any, rule: Any, **cut: Any) -> Any:
        """Note the logits that the drafts come from."""
        slots: list[Row] = []

        def watching(logits: Any, *first_slot: int) -> Any:
            slots.append(np.asarray(self._ops.to_host(logits)[0], dtype=np.float64))
            return rule(logits, *first_slot)

        draft = self._inner.propose(anchor, position, features, watching, **cut)
        self._seen.draft_logits = np.concatenate(slots)
        return draft

    def _note(self, scores: Any) -> Any:
        self._seen.logits = np.asarray(self._ops.to_host(scores.logits)[0], dtype=np.float64)
        return scores
