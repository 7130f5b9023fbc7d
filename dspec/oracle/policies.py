"""Policies by name: how drafts are chosen from the drafter's laws, and which rule judges them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dspec.oracle.joint import verify_block
from dspec.oracle.rejection import Draw, draw, verify_greedy, verify_sample_match, verify_tokens

Verify = Callable[..., list[int]]


@dataclass(frozen=True)
class Policy:
    """How drafts are chosen from the drafter's laws, and how they are verified.

    Args:
        samples_drafts: draw each draft from its law; False takes the argmax, whose law is one-hot.
        verify: (target_rows, draft_tokens, draft_rows or None, accept, close, draw=) -> emitted ids.

    Example:
        >>> POLICIES["block"].verify([[0.0, 1.0], [1.0, 0.0]], [1], [[0.5, 0.5]], [0.9], [0.5])
        [1, 0]
    """

    samples_drafts: bool
    verify: Verify


def _match(p: Any, tokens: Any, _q: Any, _accept: Any, close: Any, *, draw: Draw = draw) -> list[int]:
    return verify_sample_match(p, tokens, close, draw=draw)


def _greedy(p: Any, tokens: Any, _q: Any, _accept: Any, _close: Any, *, draw: Draw = draw) -> list[int]:
    return verify_greedy(p, tokens)


POLICIES = {
    "rejection": Policy(samples_drafts=True, verify=verify_tokens),
    "block": Policy(samples_drafts=True, verify=verify_block),
    "one_hot": Policy(samples_drafts=False, verify=verify_tokens),
    "sample_match": Policy(samples_drafts=False, verify=_match),
    "sampled_match": Policy(samples_drafts=True, verify=_match),
    "greedy": Policy(samples_drafts=False, verify=_greedy),
}
