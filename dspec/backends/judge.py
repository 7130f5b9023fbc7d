"""The judge of one request: policy, sampling settings and uniforms, bound to a backend's arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspec.backends.ledger import Ledger, pack, reported, unpack
from dspec.backends.protocol import ArrayOps
from dspec.core.batch import Found
from dspec.core.numerics import draw, widen
from dspec.core.policies import GREEDY, Policy, draft_tokens
from dspec.core.types import Array, Draft, Sampling, Scores, Uniforms, Verdict
from dspec.core.warp import warp
from dspec.errors import NumericsError, ShapeError, explain
from dspec.rng import Purpose, Stream


@dataclass(frozen=True)
class RequestJudge:
    """Decides for one request; implements `core.decode.Judge`.

    The uniforms of a pass are made when it needs them, keyed by its anchor's position, and the
    greedy policy makes none.

    Spec: RN-1, RN-2, RS-10, RS-13, RS-19, DL-6, DL-13.

    Args:
        ops: the backend's array operations.
        policy: how to draft and verify.
        sampling: settings of the request.
        stream: key of its uniforms.
        n_slots: K, drafted slots of a pass before it is cut.
        ledger: what log-probabilities are written to; None: there are none.
    """

    ops: ArrayOps
    policy: Policy
    sampling: Sampling
    stream: Stream
    n_slots: int
    ledger: Ledger | None = None

    def first(self, scores: Scores, position: int) -> int:
        """Return the token after the prompt, drawn at the key of the last prompt position."""
        logits = scores.logits[:, -1, :]
        close = None
        if self.policy is not GREEDY:
            close = self._uniforms(Purpose.CLOSE, position, (1, 1, 2))[:, 0, :]
        verdict = first_tokens(logits, self.sampling, close, xp=self.ops.xp, warp=self.ops.operation("warp"))
        return self._read(verdict, logits[:, None, :], position)[1][0]

    def rule(self, position: int) -> Callable[..., Draft]:
        """Return the drafting rule of the pass whose anchor is at `position`."""
        uniforms = (
            self._uniforms(Purpose.DRAFT, position, (1, self.n_slots, 2)) if self.policy.samples else None
        )
        warp = self.ops.operation("warp")

        def rule(logits: Array, first_slot: int = 0) -> Draft:
            u = None if uniforms is None else uniforms[:, first_slot : first_slot + logits.shape[1], :]
            return draft_tokens(logits, self.policy, self.sampling, u, xp=self.ops.xp, warp=warp)

        return rule

    def verdict(self, scores: Scores, draft: Draft, position: int) -> tuple[int, Sequence[int]]:
        """Return n_accepted and the k + 1 tokens on the host, k <= K being the drafts given."""
        uniforms, n_slots = None, draft.tokens.shape[1]  # k <= K; a slot's key does not depend on k
        if self.policy is not GREEDY:
            uniforms = Uniforms(
                self._uniforms(Purpose.ACCEPT, position, (1, n_slots)),
                self._uniforms(Purpose.CLOSE, position, (1, n_slots + 1, 2)),
            )
        judge = self.ops.operation("judge")
        verdict = judge(scores.logits, draft, self.policy, self.sampling, uniforms, xp=self.ops.xp)
        return self._read(verdict, scores.logits, position)

    def _uniforms(self, purpose: Purpose, position: int, shape: tuple[int, ...]) -> Array:
        return self.ops.from_host(self.stream.uniforms(purpose, position, shape))

    @property
    def reports(self) -> Sampling | None:
        """Settings of the law whose log-probabilities are reported; None: nothing is."""
        return None if self.ledger is None else self.ledger.law

    def _read(self, verdict: Verdict, logits: Array, position: int) -> tuple[int, Sequence[int]]:
        """Bring one verdict to the host, in one transfer; refuse a malformed law (RS-16)."""
        told = reported(self.reports, logits, verdict.tokens, self.ops)
        packed = self.ops.to_host(pack(listed(verdict, xp=self.ops.xp), told, xp=self.ops.xp))
        found = self.take(packed[0], verdict.tokens.shape[1], position)
        if isinstance(found, Exception):
            raise found
        return found

    def take(self, row: Sequence[Any], n_tokens: int, position: int) -> Found:
        """Return n_accepted and tokens of a verdict on the host, or the error of a malformed law (RS-16).

        Its log-probabilities, if there are any, go to the ledger.
        """
        (n_accepted, *tokens), log_probs = unpack(row, 1 + n_tokens)
        if n_accepted < 0:
            return malformed(self.stream, position)
        if self.ledger is not None:
            self.ledger.write(log_probs[: n_accepted + 1])
        return n_accepted, tokens


def first_tokens(
    logits: Array,
    sampling: Sampling,
    close: Array | None,
    *,
    xp: Any,
    warp: Callable[..., Array] = warp,
) -> Verdict:
    """Return the tokens after some prompts, as verdicts of no drafts.

    Spec: DL-1, RS-9, RS-13, RS-16.

    Args:
        logits: (B, V) after the last token of each prompt.
        sampling: settings of all of them.
        close: (B, 2) uniforms; None: the policy is greedy and draws nothing.
        xp: array namespace of all arrays.
        warp: `dspec.core.warp.warp`, or what a backend runs in its place.

    Returns:
        n_accepted 0, or -1 where a law is malformed, and tokens (B, 1).

    Example:
        >>> import array_api_compat.numpy as xp
        >>> first_tokens(np.array([[0.0, 1.0]]), Sampling(), None, xp=xp).tokens.tolist()
        [[1]]
    """
    logits = widen(logits, xp=xp)
    greedy = close is None
    token = xp.argmax(logits, axis=-1) if greedy else draw(warp(logits, sampling, xp=xp), close, xp=xp)
    sound = xp.isfinite(xp.max(logits, axis=-1))
    return Verdict(xp.where(sound, 0, -1), xp.astype(token, xp.int32)[:, None])


def listed(verdict: Verdict, *, xp: Any) -> Array:
    """Return the ids of verdicts as one array: n_accepted, then the tokens.

    Spec: DL-6.

    Args:
        verdict: of B rows.
        xp: array namespace of its arrays.

    Returns:
        (B, K + 2) int32.

    Example:
        >>> import array_api_compat.numpy as xp
        >>> listed(Verdict(np.array([0]), np.array([[7]])), xp=xp).tolist()
        [[0, 7]]
    """
    return xp.concat([xp.astype(verdict.n_accepted, xp.int32)[:, None], verdict.tokens], axis=1)


def malformed(stream: Stream, position: int) -> NumericsError:
    """Return the error of a pass whose law is none.

    Spec: RS-16.

    Args:
        stream: key of the request.
        position: the anchor's.

    Example:
        >>> str(malformed(Stream(0, 3), 7)).split(":")[0]
        'request 3, pass at position 7'
    """
    where = f"request {stream.request}, pass at position {position}"
    got = "a law with NaN, +inf, a negative entry or no mass"
    remedy = "Check the model's weights and dtype; nothing was emitted from this pass."
    return NumericsError(explain(where, got, "finite logits", remedy=remedy, clause="RS-16"))


class NoDrafter:
    """A drafter that proposes nothing: the loop then decodes one token a pass.

    Spec: DL-1.

    Args:
        ops: the backend's array operations.
    """

    def __init__(self, ops: ArrayOps) -> None:
        self.length = 0
        self._nothing = ops.from_host(np.zeros((1, 0), dtype=np.int32))

    def propose(
        self, anchor: int, position: int, features: object, rule: object, n_slots: int | None = None
    ) -> Draft:
        """Return a draft of no tokens."""
        self.length = position
        return Draft(self._nothing)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self.length = length


def check_ids(tokens: Sequence[int], vocab_size: int, where: str) -> None:
    """Raise unless every id lies in [0, vocab_size).

    Spec: NT-3.

    Args:
        tokens: token ids.
        vocab_size: V.
        where: name of the argument, for the message.

    Raises:
        ShapeError: an id lies outside.

    Example:
        >>> check_ids([0, 3], 4, "prompt")
    """
    for place, token in enumerate(tokens):
        if not 0 <= token < vocab_size:
            raise ShapeError(
                explain(f"{where}[{place}]", token, f"an id in [0, {vocab_size})", clause="NT-3")
            )
