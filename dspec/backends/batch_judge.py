"""The judge of a batch: rows of unlike settings judged in groups, read in one transfer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.backends.batch_groups import Group, Groups
from dspec.backends.judge import RequestJudge, first_tokens, listed
from dspec.backends.ledger import pack, reported
from dspec.backends.protocol import ArrayOps
from dspec.core.batch import Found
from dspec.core.numerics import widen
from dspec.core.policies import GREEDY, draft_tokens
from dspec.core.types import Array, Draft, Scores, Uniforms, Verdict
from dspec.rng import Purpose


class BatchJudge:
    """Decides for several requests; implements `core.batch.BatchJudge`.

    Rows with one policy, one set of settings and one draft length are judged by one call, whose arithmetic
    is row by row (RS-9) and which sees their own drafts alone (DL-13). The uniforms of a pass are drawn on
    the host by each request's own key and sent in one piece.

    Spec: DL-6, DL-12, DL-13, RN-1, RN-2, RN-4, RS-9, RS-10, RS-13.

    Args:
        ops: the backend's array operations.
        judges: of the requests, each as it would decide alone.
    """

    def __init__(self, ops: ArrayOps, judges: Sequence[RequestJudge]) -> None:
        self.ops, self.judges = ops, judges
        # Who sits where changes when a row is taken or freed: between, the indices stay on the device.
        # Draft lengths may change with every pass: rows by settings and length are kept apart.
        self._last: dict[bool, tuple[Any, Groups]] = {}

    def first(self, logits: Sequence[Array], who: Sequence[int], positions: Sequence[int]) -> list[Found]:
        """Return the tokens after some prompts, each drawn at the key of its last position."""
        xp, groups, warp = self.ops.xp, self.groups(who).each, self.ops.operation("warp")
        rows = xp.concat([one[:, -1, :] for one in logits], axis=0)
        close = None
        if any(group.policy is not GREEDY for group in groups):
            close = self.ops.from_host(self._host(who, positions, [(Purpose.CLOSE, 2)])[0])
        verdicts = []
        for group in groups:
            own = None if close is None or group.policy is GREEDY else group.pick(close, xp=xp)
            picked = group.pick(rows, xp=xp)
            verdicts.append(first_tokens(picked, group.sampling, own, xp=xp, warp=warp))
        return self.read(groups, verdicts, rows[:, None, :], who, positions)

    def opened(
        self, who: Sequence[int | None], positions: Sequence[int], lengths: Sequence[int]
    ) -> "BatchPass":
        """Return the judge of a pass of all rows."""
        return BatchPass(self, tuple(who), tuple(positions), tuple(lengths))

    def groups(self, who: Sequence[int | None], lengths: Sequence[int] | None = None) -> Groups:
        """Return the rows by policy and settings, and by draft length if lengths are given.

        A row without a request goes with the first ones.
        """
        key, cut = (tuple(who), lengths), lengths is not None
        if cut not in self._last or self._last[cut][0] != key:
            self._last[cut] = key, self._grouped(who, lengths or [None] * len(who))
        return self._last[cut][1]

    def uniforms(
        self, who: Sequence[int | None], positions: Sequence[int], k: int
    ) -> tuple[Array | None, Array | None, Array | None]:
        """Return uniforms to draft (B, k, 2), accept (B, k) and close (B, k + 1, 2), in one transfer.

        A request's are those that `RequestJudge` draws: none for a greedy one. None where nobody has any.
        """
        rows = len(who)
        if all(one is None or self.judges[one].policy is GREEDY for one in who):
            return None, None, None
        parts = [(Purpose.DRAFT, 2 * k), (Purpose.ACCEPT, k), (Purpose.CLOSE, 2 * (k + 1))]
        sent, xp = self.ops.from_host(np.concatenate(self._host(who, positions, parts), axis=1)), self.ops.xp
        draft, accept, close = sent[:, : 2 * k], sent[:, 2 * k : 3 * k], sent[:, 3 * k :]
        return xp.reshape(draft, (rows, k, 2)), accept, xp.reshape(close, (rows, k + 1, 2))

    def read(
        self,
        groups: Sequence[Group],
        verdicts: Sequence[Verdict],
        logits: Array,
        who: Sequence[int | None],
        positions: Sequence[int],
    ) -> list[Found]:
        """Bring all verdicts on logits (B, N, V) to the host at once; a malformed law is a row's error."""
        xp, asked = self.ops.xp, any(group.reports is not None for group in groups)
        parts = []
        for group, verdict in zip(groups, verdicts, strict=True):
            own = logits if group.reports is None else group.pick(logits, xp=xp)
            told = reported(group.reports, own, verdict.tokens, self.ops, wide=asked)
            parts.append(pack(listed(verdict, xp=xp), told, xp=xp))
        packed = self.ops.to_host(parts[0] if len(parts) == 1 else xp.concat(parts, axis=0))
        found: list[Found] = [(0, ())] * len(who)
        for row, of_row in zip((row for group in groups for row in group.rows), packed, strict=True):
            one = who[row]
            if one is not None:
                found[row] = self.judges[one].take(of_row, verdicts[0].tokens.shape[1], positions[row])
        return found

    def _grouped(self, who: Sequence[int | None], lengths: Sequence[int | None]) -> Groups:
        found: dict[Any, list[int]] = {}
        kinds: dict[Any, tuple[RequestJudge, int | None]] = {}
        for row, one in enumerate(who):
            if one is not None:
                own = self.judges[one]
                # Greedy rows are alike whatever their other settings: nothing is warped.
                kind: Any = GREEDY if own.policy is GREEDY else (own.policy, own.sampling)
                key = (kind, own.reports, lengths[row])
                found.setdefault(key, []).append(row)
                kinds.setdefault(key, (own, lengths[row]))
        lists = list(found.values())
        lists[0].extend(row for row, one in enumerate(who) if one is None)
        if len(lists) == 1:
            rows: Sequence[Sequence[int]] = [range(len(who))]
            index = back = None
        else:
            order = np.array([row for own_rows in lists for row in own_rows], dtype=np.int32)
            rows, index = lists, self.ops.from_host(order)
            back = self.ops.from_host(np.argsort(order).astype(np.int32))
        ends = np.cumsum([len(own_rows) for own_rows in rows]).tolist()
        each = [
            Group(own.policy, own.sampling, k, tuple(of), index, slice(end - len(of), end), own.reports)
            for (own, k), of, end in zip(kinds.values(), rows, ends)
        ]
        return Groups(tuple(each), back)

    def _host(
        self, who: Sequence[int | None], positions: Sequence[int], parts: Sequence[tuple[Purpose, int]]
    ) -> list[NDArray[np.float32]]:
        """Return (B, n) float32 a part; rows that draw nothing for a purpose hold 0."""
        made = [np.zeros((len(who), count), dtype=np.float32) for _, count in parts]
        for row, (one, position) in enumerate(zip(who, positions)):
            own = None if one is None else self.judges[one]
            if own is None or own.policy is GREEDY:
                continue
            for (purpose, count), array in zip(parts, made):
                if purpose is not Purpose.DRAFT or own.policy.samples:
                    array[row] = own.stream.uniforms(purpose, position, (count,))
        return made


class BatchPass:
    """One pass of all rows: the rule of its drafts, and its verdict; implements `core.batch.PassJudge`.

    Args:
        parent: the batch's judge.
        who: the request of each row, or None.
        positions: of the anchors.
        lengths: drafts of each row.
    """

    def __init__(
        self,
        parent: BatchJudge,
        who: tuple[int | None, ...],
        positions: tuple[int, ...],
        lengths: tuple[int, ...],
    ) -> None:
        self._parent, self._who, self._positions = parent, who, positions
        # All rows draft as far as the longest; each is judged by as many drafts as it asked for.
        self._groups = self._cut = parent.groups(who)
        if len({k for one, k in zip(who, lengths) if one is not None}) > 1:
            self._cut = parent.groups(who, lengths)
        self._draft, self._accept, self._close = parent.uniforms(who, positions, max(lengths))

    def rule(self, logits: Array, first_slot: int = 0) -> Draft:
        """Return drafts of all rows, each by its own policy; logits (B, k, V), or some slots of them."""
        xp, uniforms = self._parent.ops.xp, self._draft
        if uniforms is not None:
            uniforms = uniforms[:, first_slot : first_slot + logits.shape[1], :]
        drafts = [self._drafted(group, logits, uniforms) for group in self._groups.each]
        back = self._groups.back
        if back is None:
            return drafts[0]
        tokens = xp.take(xp.concat([draft.tokens for draft in drafts], axis=0), back, axis=0)
        if all(draft.probs is None for draft in drafts):
            return Draft(tokens)
        # A row whose draft is deterministic has a law too where others' are kept; it is not read.
        laws = [
            xp.zeros_like(widen(group.pick(logits, xp=xp), xp=xp)) if draft.probs is None else draft.probs
            for group, draft in zip(self._groups.each, drafts)
        ]
        return Draft(tokens, xp.take(xp.concat(laws, axis=0), back, axis=0))

    def verdict(self, scores: Scores, draft: Draft) -> list[Found]:
        """Return what each row decided."""
        verdicts = [self._judged(group, scores, draft) for group in self._cut.each]
        return self._parent.read(self._cut.each, verdicts, scores.logits, self._who, self._positions)

    def _drafted(self, group: Group, logits: Array, uniforms: Array | None) -> Draft:
        ops = self._parent.ops
        xp, warp = ops.xp, ops.operation("warp")
        own = group.pick(uniforms, xp=xp) if group.policy.samples else None
        return draft_tokens(group.pick(logits, xp=xp), group.policy, group.sampling, own, xp=xp, warp=warp)

    def _judged(self, group: Group, scores: Scores, draft: Draft) -> Verdict:
        """Return the verdict of a group's own drafts, -1 in the slots that others have and it has not."""
        ops, width = self._parent.ops, draft.tokens.shape[1]
        xp, judge = ops.xp, ops.operation("judge")
        k = width if group.n_slots is None else group.n_slots
        # A cut block has fewer slots than the drafter's, of the same keys; of no drafts there is no law.
        probs = group.pick(draft.probs[:, :k], xp=xp) if group.policy.samples and k else None
        own = Draft(group.pick(draft.tokens[:, :k], xp=xp), probs)
        uniforms = None
        if group.policy is not GREEDY:
            accept, close = group.pick(self._accept[:, :k], xp=xp), group.pick(self._close[:, : k + 1], xp=xp)
            uniforms = Uniforms(accept, close)
        logits = group.pick(scores.logits[:, : k + 1], xp=xp)
        verdict: Verdict = judge(logits, own, group.policy, group.sampling, uniforms, xp=xp)
        if k == width:
            return verdict
        beyond = xp.full_like(draft.tokens[: len(group.rows), k:], -1)
        tokens = xp.concat([verdict.tokens, xp.astype(beyond, verdict.tokens.dtype)], axis=1)
        return Verdict(verdict.n_accepted, tokens)


class NoDrafterBatch:
    """A drafter of several rows that proposes nothing: one token a pass and row.

    Spec: DL-1, DL-12.

    Args:
        ops: the backend's array operations.
        rows: B.
    """

    def __init__(self, ops: ArrayOps, rows: int) -> None:
        self.lengths = [0] * rows
        self._nothing = ops.from_host(np.zeros((rows, 0), dtype=np.int32))

    def prefill(self, row: int, features: object) -> None:
        """Take no features in."""

    def propose(
        self,
        anchors: Sequence[int],
        positions: Sequence[int],
        features: object,
        rule: object,
        *,
        first: int = 0,
        n_slots: int | None = None,
    ) -> Draft:
        """Return a draft of no tokens in the rows from `first` on."""
        self.lengths[first : first + len(positions)] = positions
        return Draft(self._nothing[: len(positions)])

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget positions."""
        self.lengths = [min(old, new) for old, new in zip(self.lengths, lengths)]

    def clear(self, row: int) -> None:
        """Forget a row."""
        self.lengths[row] = 0
