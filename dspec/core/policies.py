"""Policies: how drafts are drawn and judged. A name for each pair that is exact."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dspec.core.joint import verify_block
from dspec.core.numerics import draw, widen
from dspec.core.rejection import verify_greedy, verify_sample_match, verify_tokens
from dspec.core.types import Array, Draft, Sampling, Uniforms, Verdict
from dspec.core.warp import warp
from dspec.errors import ConfigError, explain


@dataclass(frozen=True)
class Policy:
    """A way to draft and verify whose emitted law is the target's.

    Args:
        name: what the user types.
        samples: drafts are drawn from the drafter's warped law; otherwise they are its argmax.
        summary: one line for `--help` and the docs.
    """

    name: str
    samples: bool
    summary: str


GREEDY = Policy("greedy", False, "temperature 0: argmax drafts kept while they are the target's argmax")
ONE_HOT = Policy("one_hot", False, "argmax drafts, rejection sampling against a one-hot law (default)")
REJECTION = Policy("rejection", True, "sampled drafts, rejection sampling against their own law")
BLOCK = Policy(
    "block", True, "sampled drafts judged together: accepts no less than rejection, at more arithmetic"
)
SAMPLE_MATCH = Policy("sample_match", False, "argmax drafts kept while the target draws the same token")
POLICIES = {policy.name: policy for policy in (GREEDY, ONE_HOT, REJECTION, BLOCK, SAMPLE_MATCH)}
RULES: dict[str, Callable[..., Verdict]] = {"block": verify_block, "sample_match": verify_sample_match}


def choose_policy(name: str | None, sampling: Sampling) -> Policy:
    """Return the policy of that name, or the default for the sampling settings.

    At temperature 0 every policy is the greedy one: the laws are one-hot and nothing is drawn.

    Spec: RS-11, RS-18.

    Args:
        name: a key of POLICIES; None: one_hot, or greedy at temperature 0.
        sampling: the settings of the request.

    Returns:
        The policy.

    Raises:
        ConfigError: unknown name, or "greedy" at a temperature above 0.

    Example:
        >>> choose_policy(None, Sampling(temperature=1.0)).name
        'one_hot'
    """
    if name is not None and name not in POLICIES:
        raise ConfigError(explain("policy", repr(name), f"one of {', '.join(POLICIES)}", clause="RS-18"))
    if sampling.greedy:
        return GREEDY
    if name == GREEDY.name:
        remedy = "Use temperature=0, or another policy."
        raise ConfigError(
            explain("policy='greedy'", f"temperature={sampling.temperature}", "0", remedy=remedy)
        )
    return POLICIES[name or ONE_HOT.name]


def draft_tokens(
    logits: Array,
    policy: Policy,
    sampling: Sampling,
    uniforms: Array,
    *,
    xp: Any,
    warp: Callable[..., Array] = warp,
) -> Draft:
    """Return drafts by the policy's rule, with the law they were really drawn from.

    Spec: RS-2, RS-13.

    Args:
        logits: (B, K, V) drafter logits.
        policy: says whether to sample or to take the argmax.
        sampling: the same settings as the target's.
        uniforms: (B, K, 2); read only if the policy samples.
        xp: array namespace of all arrays.
        warp: `dspec.core.warp.warp`, or what a backend runs in its place.

    Returns:
        The draft; `probs` is None for argmax drafts, whose law is one-hot.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> draft_tokens(np.array([[[0.0, 2.0]]]), ONE_HOT, Sampling(), None, xp=xp).tokens.tolist()
        [[1]]
    """
    if not policy.samples:
        return Draft(xp.astype(xp.argmax(logits, axis=-1), xp.int32))
    probs = warp(logits, sampling, xp=xp)
    return Draft(draw(probs, uniforms, xp=xp), probs)


def judge(
    logits: Array, draft: Draft, policy: Policy, sampling: Sampling, uniforms: Uniforms, *, xp: Any
) -> Verdict:
    """Return the verdict of a target pass by the policy's rule.

    Spec: RS-1, RS-11, RS-13, RS-18.

    Args:
        logits: (B, K + 1, V) target logits of one verify pass.
        draft: what was proposed.
        policy: the accept rule.
        sampling: settings of the request.
        uniforms: of this pass.
        xp: array namespace of all arrays.

    Returns:
        The verdict.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> logits = np.array([[[0.0, 1.0], [2.0, 0.0]]])
        >>> judge(logits, Draft(np.array([[1]])), GREEDY, Sampling(), None, xp=xp).n_accepted.tolist()
        [1]
    """
    if policy is GREEDY:
        return verify_greedy(logits, draft, xp=xp)
    rule: Callable[..., Verdict] = RULES.get(policy.name, verify_tokens)
    return rule(warp(widen(logits, xp=xp), sampling, xp=xp), draft, uniforms, xp=xp)
