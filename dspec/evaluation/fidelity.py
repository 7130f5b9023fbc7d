"""Fidelity: how likely an output is to the autoregressive mode of the block-diffusion model that wrote it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.backends.judge import check_ids
from dspec.block_engine import BlockDiffusion
from dspec.core.layouts import Layout, causal, drafted
from dspec.core.measures import without
from dspec.core.numerics import gather, widen
from dspec.core.plans import Plan, verifying
from dspec.core.types import Array
from dspec.prompt import Prompt
from dspec.request import check_length

CHUNK = 256  # tokens judged in one pass: bounds the mask, of up to 2 * CHUNK slots each way, and the logits


@dataclass(frozen=True)
class Fidelity:
    """What the block-size-one laws of a model say of an output.

    Args:
        log_probs: (n,) log-likelihood in nats of each token given those before it.
        best: (n,) the token that greedy block-size-one decoding would write in its place.

    Example:
        >>> Fidelity(np.array([-1.0, -0.5]), np.array([7, 8])).log_likelihood
        -1.5
    """

    log_probs: NDArray[np.float64]
    best: NDArray[np.int64]

    @property
    def log_likelihood(self) -> float:
        """Of the whole output, nats."""
        return float(self.log_probs.sum())


def fidelity(lm: BlockDiffusion, prompt: Prompt, tokens: Sequence[int], *, chunk: int = CHUNK) -> Fidelity:
    """Judge an output by the block-size-one laws of a model, at temperature 1 and without warps.

    Token i is judged by the law of its position given the prompt and the tokens before it, read causally;
    the mask token has no mass. One pass judges `chunk` tokens: the layout that verifies drafts gives all
    their laws at once (SS-6). Whatever decoder wrote the tokens plays no part.

    Spec: SS-2, SS-6, SS-7, NU-2.

    Args:
        lm: the engine of the model, aligned or shifted, on any backend.
        prompt: text, token ids or chat messages, as `lm.generate` takes them.
        tokens: ids of the output.
        chunk: tokens judged in one pass, >= 1; it bounds memory and changes no figure but by rounding.

    Returns:
        Log-likelihood and most likely token of each position; no entries of no tokens.

    Raises:
        ConfigError: not a prompt, or more positions than the model can read.
        ShapeError: a token id outside the vocabulary.

    Example:
        >>> out = lm.generate("Q: 2 + 2?", max_new_tokens=16)                 # doctest: +SKIP
        >>> fidelity(lm, "Q: 2 + 2?", out.tokens).log_likelihood              # doctest: +SKIP
        -4.17

    Source: arXiv 2603.25702, the position-aligned verifier; the use as a yardstick is ours.
    """
    ids, given = lm.encode(prompt), [int(token) for token in tokens]
    check_ids(given, lm.model.vocab_size, "tokens")
    check_length(len(ids) + len(given), lm.model.max_positions)
    parts = [_judge(lm, logits, part) for logits, part in _laws(lm.model, ids, given, chunk)]
    log_probs = np.array([value for values, _ in parts for value in values], dtype=np.float64)
    best = np.array([token for _, chosen in parts for token in chosen], dtype=np.int64)
    return Fidelity(log_probs, best)


def matching_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens two outputs share.

    Example:
        >>> matching_prefix((5, 6, 7), (5, 6, 8, 9)), matching_prefix((5,), (5, 6))
        (2, 1)
    """
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def _laws(
    model: Any, ids: Sequence[int], tokens: Sequence[int], chunk: int
) -> Iterator[tuple[Array, list[int]]]:
    """Yield the logits (1, W, V) of the laws of some tokens after another, and the tokens."""
    session = model.session(rows=1, capacity=len(ids) + len(tokens) + chunk + 1)
    # Shifted, the slot of the last known token gives the next law: it is read with the tokens it judges.
    _prefill(session, ids[: len(ids) - model.shifted], chunk)
    known = list(ids[-1:]) if model.shifted else []
    for i in range(0, len(tokens), chunk):
        part = list(tokens[i : i + chunk])
        hidden = session.read([_given(model, known, len(ids) + i, part)])
        first = 0 if model.shifted else len(part)
        yield session.logits(hidden, [list(range(first, first + len(part)))]), part
        session.commit([len(known) + len(part) - model.shifted])
        known = part[-1:] if model.shifted else []


def _prefill(session: Any, ids: Sequence[int], chunk: int) -> None:
    """Keep the keys and values of known tokens, causal."""
    for i in range(0, len(ids), chunk):
        part = tuple(ids[i : i + chunk])
        session.read([causal(part, start=i)])
        session.commit([len(part)])


def _given(model: Any, known: Sequence[int], start: int, part: Sequence[int]) -> Layout:
    """Return the layout that verifies drafts, the drafts being tokens that the host knows."""
    plan = Plan(mask_id=model.mask_id, shifted=model.shifted, block_size=len(part), bonus=False)
    layout = verifying(known, start, len(part), plan)
    ids = {drafted(k): token for k, token in enumerate(part)}
    return replace(layout, tokens=tuple(ids.get(token, token) for token in layout.tokens))


def _judge(lm: BlockDiffusion, logits: Array, part: Sequence[int]) -> tuple[list[float], list[int]]:
    """Return log-probabilities and argmaxes on the host."""
    xp, mask = lm.ops.xp, lm.model.mask_id
    laws = without(widen(logits, xp=xp), mask, xp=xp)
    laws = laws - xp.max(laws, axis=-1, keepdims=True)
    own = gather(laws, lm.ops.from_host(np.array([part], dtype=np.int32)), xp=xp)
    log_probs = own - xp.log(xp.sum(xp.exp(laws), axis=-1))
    best = xp.astype(xp.argmax(laws, axis=-1), xp.int32)
    return lm.ops.to_host(log_probs)[0], lm.ops.to_host(best)[0]
