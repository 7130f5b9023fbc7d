"""The judge of a batch of block-diffusion requests: policy, settings and uniforms, bound to arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import array_api_compat.numpy as host
import numpy as np
from numpy.typing import NDArray

from dspec.backends.protocol import ArrayOps
from dspec.core.estimates import Estimator, acceptance, expected_accepted
from dspec.core.looks import DRAWN
from dspec.core.measures import Measures, measure, without
from dspec.core.numerics import draw, indices_like, widen
from dspec.core.policies import GREEDY, Policy, draft_tokens, judge
from dspec.core.rejection import verify_tempered
from dspec.core.selection import Selection, select
from dspec.core.types import Array, Draft, Sampling, Uniforms, Verdict
from dspec.core.warp import warp
from dspec.errors import NumericsError, explain
from dspec.rng import Purpose, Stream


@dataclass(frozen=True)
class BlockJudge:
    """Decides for the rows of a batch; implements the judges of `core.self_speculation` and `core.denoising`.

    The mask token has no mass in any law that is drawn from.

    Spec: SS-7, SS-14, SS-15, SS-22, RN-1, RN-6, RS-13.

    Args:
        ops: the backend's array operations.
        policy: how drafts are drawn and judged.
        sampling: settings of the requests.
        streams: key of each row's uniforms.
        mask_id: the mask token.
    """

    ops: ArrayOps
    policy: Policy
    sampling: Sampling
    streams: tuple[Stream, ...]
    mask_id: int

    def propose(self, logits: Array, anchors: Sequence[int], counts: Sequence[int]) -> Draft:
        """Return drafts (R, K); past a row's count the mask token, with its one-hot law."""
        xp, width = self.ops.xp, max(counts)
        laws = without(widen(logits[:, :width], xp=xp), self.mask_id, xp=xp)
        uniforms = None
        if self.policy.samples:
            uniforms = self._uniforms(Purpose.DRAFT, anchors, (width, 2))
        draft = draft_tokens(laws, self.policy, self.sampling, uniforms, xp=xp)
        if min(counts) == width:
            return draft
        beyond = self.ops.from_host(np.arange(width)[None] >= np.asarray(counts)[:, None])
        tokens = xp.where(beyond, xp.full_like(draft.tokens, self.mask_id), draft.tokens)
        if draft.probs is None:
            return Draft(tokens)
        nothing = xp.astype(indices_like(draft.probs, xp=xp) == self.mask_id, draft.probs.dtype)
        return Draft(tokens, xp.where(beyond[..., None], nothing, draft.probs))

    def verdicts(
        self, logits: Array, draft: Draft | None, anchors: Sequence[int]
    ) -> list[tuple[int, list[int]]]:
        """Return n_accepted and K + 1 tokens of each row on the host."""
        if draft is None:
            draft = Draft(self.ops.from_host(np.zeros((len(anchors), 0), dtype=np.int32)))
        slots = int(draft.tokens.shape[1])
        uniforms = None
        if self.policy is not GREEDY:
            uniforms = Uniforms(
                self._uniforms(Purpose.ACCEPT, anchors, (slots, 1))[..., 0],
                self._uniforms(Purpose.CLOSE, anchors, (slots + 1, 2)),
            )
        laws = without(logits, self.mask_id, xp=self.ops.xp)
        verdict = self.ops.operation("judge")(
            laws, draft, self.policy, self.sampling, uniforms, xp=self.ops.xp
        )
        return self._read(verdict, anchors)

    def guess(self, logits: Array, draft: Draft, count: int) -> Array:
        """Return drafts, then of each of the first `count` slots the likeliest tokens but its draft.

        Spec: SS-18.

        Args:
            logits: (R, >= K, V) that the drafts were made of.
            draft: what `propose` returned.
            count: guesses a slot, and slots that have any.

        Returns:
            (R, K + min(K, count) * count) int32.
        """
        xp = self.ops.xp
        tokens = xp.astype(draft.tokens, xp.int32)
        rows, width = tokens.shape[0], min(tokens.shape[1], count)
        left, found = without(widen(logits[:, :width], xp=xp), self.mask_id, xp=xp), []
        taken, lowest = tokens[:, :width], xp.full_like(left, -float("inf"))
        ids = indices_like(left, xp=xp)
        for _ in range(count):
            left = xp.where(ids == taken[..., None], lowest, left)
            taken = xp.astype(xp.argmax(left, axis=-1), xp.int32)
            found.append(taken)
        guesses = xp.reshape(xp.stack(found, axis=-1), (rows, width * count))
        return xp.concat([tokens, guesses], axis=1)

    def read(self, tokens: Array) -> list[list[int]]:
        """Return ids on the host."""
        return [list(row) for row in self.ops.to_host(tokens)]

    def measure(
        self,
        logits: Array,
        given: Sequence[Sequence[int]],
        slots: Sequence[Sequence[int]],
        passes: Sequence[int],
    ) -> tuple[NDArray[np.int64], Measures, Draft]:
        """Return tokens and statistics of some slots on the host, and the drafts on the device.

        Spec: SS-10, RN-6.

        Args:
            logits: (R, W, V).
            given: (R, W) what a slot's token is: an id, `DRAWN`, or `BEST` for the argmax.
            slots: (R, W) each one's place in its block: the element of its uniforms.
            passes: number of each row's pass.
        """
        xp, stands, places = self.ops.xp, np.asarray(given), np.asarray(slots)
        wide = widen(logits, xp=xp)
        laws = without(wide, self.mask_id, xp=xp)
        token, probs = xp.astype(xp.argmax(laws, axis=-1), xp.int32), None
        if not self.sampling.greedy:
            probs = warp(laws, self.sampling, xp=xp)
            every = [
                s.uniforms(Purpose.DENOISE, n, (int(places.max()) + 1, 2)) for s, n in self._keys(passes)
            ]
            uniforms = self.ops.from_host(np.stack([u[own] for u, own in zip(every, places, strict=True)]))
            token = xp.where(self.ops.from_host(stands == DRAWN), draw(probs, uniforms, xp=xp), token)
        if (stands >= 0).any():
            known = self.ops.from_host(stands.astype(np.int32))
            token = xp.where(known >= 0, known, token)
        found = measure(wide, token, self.sampling.temperature, xp=xp)
        parts = [found.confidence, found.margin, found.entropy, found.collision]
        # Ids below 2^24 are float32 exactly: one transfer brings all.
        packed = xp.stack([xp.astype(token, parts[0].dtype), *parts], axis=0)
        ids, *values = np.asarray(self.ops.to_host(packed), dtype=np.float64)
        self._refuse_nan(values[0], passes)
        return ids.astype(np.int64), Measures(*values), Draft(token, probs)

    def review(
        self,
        logits: Array,
        draft: Draft,
        counts: Sequence[int],
        passes: Sequence[int],
        *,
        power: float,
        block_size: int,
    ) -> list[tuple[int, list[int]]]:
        """Return the accepted drafts of each row and, after a rejection, the correction.

        Spec: SS-15, SS-19, SS-20, RN-6.

        Args:
            logits: (R, K, V) of the drafts' block-size-one laws, K the largest count.
            draft: of `measure`: the first `counts[r]` slots of each row are judged.
            counts: drafts of each row's run; 0: the row is not verified.
            passes: number of each row's draft pass.
            power: exponent of the ratio, 1 the exact rule.
            block_size: B, which places the elements of the uniforms.
        """
        xp, width = self.ops.xp, max(counts)
        laws = without(widen(logits, xp=xp), self.mask_id, xp=xp)
        laws = xp.concat([laws, laws[:, -1:]], axis=1)  # there is no law after the last draft
        run = Draft(draft.tokens[:, :width], None if draft.probs is None else draft.probs[:, :width])
        if self.sampling.greedy:
            verdict = judge(laws, run, GREEDY, self.sampling, None, xp=xp)
        else:
            u = np.stack([s.uniforms(Purpose.REVIEW, n, (block_size + 2,)) for s, n in self._keys(passes)])
            close = np.ascontiguousarray(u[:, None, block_size:])
            uniforms = Uniforms(self.ops.from_host(u[:, :width]), self.ops.from_host(close))
            verdict = verify_tempered(warp(laws, self.sampling, xp=xp), run, uniforms, power, xp=xp)
        found = []
        for (n_accepted, tokens), count in zip(self._read(verdict, passes), counts, strict=True):
            stood = min(n_accepted, count)
            found.append((stood, tokens[: stood + (stood < count)]))
        return found

    def choose(
        self,
        rule: Selection,
        measures: Measures,
        masked: Sequence[Sequence[bool]],
        budgets: Sequence[int],
    ) -> NDArray[np.bool_]:
        """Return which masked slots (R, W) the selection commits. Spec: SS-8."""
        budget = np.asarray(budgets, dtype=np.int32)
        return select(rule, measures.confidence, measures.entropy, np.asarray(masked), budget, xp=host)

    def expect(
        self, estimator: Estimator, measures: Measures, in_run: Sequence[Sequence[bool]], vocab_size: int
    ) -> list[float]:
        """Return each row's expected accepted length. Spec: SS-11."""
        chance = acceptance(estimator, measures, vocab_size, xp=host)
        return [float(k) for k in expected_accepted(chance, np.asarray(in_run), xp=host)]

    def _uniforms(self, purpose: Purpose, positions: Sequence[int], shape: tuple[int, ...]) -> Array:
        made = [s.uniforms(purpose, p, shape) for s, p in zip(self.streams, positions, strict=True)]
        return self.ops.from_host(np.stack(made))

    def _keys(self, passes: Sequence[int]) -> list[tuple[Stream, int]]:
        return list(zip(self.streams, passes, strict=True))

    def _read(self, verdict: Verdict, places: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Bring verdicts to the host, in one transfer; refuse a malformed law (RS-16)."""
        xp = self.ops.xp
        packed = xp.concat([xp.astype(verdict.n_accepted, xp.int32)[:, None], verdict.tokens], axis=1)
        found = [(row[0], row[1:]) for row in self.ops.to_host(packed)]
        for (n_accepted, _), stream, place in zip(found, self.streams, places, strict=True):
            if n_accepted < 0:
                raise _malformed(stream, place)
        return found

    def _refuse_nan(self, confidence: NDArray[np.float64], passes: Sequence[int]) -> None:
        for row, stream, place in zip(confidence, self.streams, passes, strict=True):
            if not np.isfinite(row).all():
                raise _malformed(stream, place)


def _malformed(stream: Stream, place: int) -> NumericsError:
    where = f"request {stream.request}, pass at {place}"
    got = "a law with NaN, +inf or no mass"
    remedy = "Check the model's weights and dtype; nothing was emitted from this pass."
    return NumericsError(explain(where, got, "finite logits", remedy=remedy, clause="RS-16"))


def streams_of(seed: int, numbers: Sequence[int]) -> tuple[Stream, ...]:
    """Return the keys of requests by their numbers."""
    return tuple(Stream(seed, number) for number in numbers)
