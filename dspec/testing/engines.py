"""Checks of dspec's own backends and engines: the accept rules on their arrays, then real outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat.numpy as npx
import numpy as np

from dspec.core.rejection import verify_sample_match, verify_tokens
from dspec.core.types import Draft, Sampling, Uniforms
from dspec.core.warp import warp
from dspec.testing.checks import check_distribution, smoke
from dspec.testing.lattice import Verify
from dspec.testing.report import Report, merge

# Three tokens of the two likeliest each: eight outcomes whose law the target gives exactly, and long
# enough to see an accepted draft, a correction and the token after it.
LENGTH, BRANCHES = 3, 2
DRAWS = 400
# Warmer than 1, so that the second token of a peaked law is not too rare to be seen in 400 draws.
TEMPERATURE = 2.0
POLICIES = ("one_hot", "rejection")


def check_rules(ops: Any) -> Report:
    """Check the accept rules on a backend's arrays: lattice, boundaries, coupling, for three policies.

    Spec: RS-1..RS-18.

    Args:
        ops: the backend's `ArrayOps`.

    Returns:
        One merged report; alpha is 0.

    Example:
        >>> from dspec.backends.numpy import NumpyOps
        >>> check_rules(NumpyOps()).passed
        True
    """
    rules = {"rejection": verify_tokens, "one_hot": verify_tokens, "match": verify_sample_match}
    reports = [smoke(_on_device(rule, ops), xp=npx, mode=mode) for mode, rule in rules.items()]
    return merge("accept rules", reports)


def check_engine(
    engine: Any, *, prompt: Sequence[int] | None = None, draws: int = DRAWS, seed: int = 0
) -> Report:
    """Check the accept rules of an engine's backend, then the law of what the engine really emits.

    Spec: RS-1, RS-13, RS-20.

    Args:
        engine: a `dspec.engine.Engine`.
        prompt: token ids; None: the first ids of the vocabulary that end nothing.
        draws: outputs a policy.
        seed: of the outputs.

    Returns:
        One merged report; it states alpha and the least total variation it would surely have seen.
    """
    outputs = check_outputs(engine, prompt=prompt, draws=draws, seed=seed)
    return merge("engine", [check_rules(engine.ops), outputs])


def check_outputs(
    engine: Any, *, prompt: Sequence[int] | None = None, draws: int = DRAWS, seed: int = 0
) -> Report:
    """Check the joint law of short sampled outputs against the target's own.

    The engine samples `draws` outputs of three tokens under top-k 2 for the one-hot and the
    rejection policy; the target's law is computed prefix by prefix, without a drafter.

    Spec: RS-1, RS-13.

    Args:
        engine: a `dspec.engine.Engine`.
        prompt: token ids; None: a few ids of the vocabulary.
        draws: outputs a policy.
        seed: of the outputs.

    Returns:
        One merged report.
    """
    ids = list(prompt) if prompt is not None else default_prompt(engine)
    law = target_law(engine, ids)

    def sampler(policy: str) -> Callable[[int, int], list[tuple[int, ...]]]:
        def generate(n: int, seed: int) -> list[tuple[int, ...]]:
            settings = {
                "max_new_tokens": LENGTH,
                "temperature": TEMPERATURE,
                "top_k": BRANCHES,
                "policy": policy,
            }
            return [out.tokens for out in engine.generate([ids] * n, seed=seed, **settings)]

        return generate

    return merge(
        "outputs", [check_distribution(sampler(policy), law, n=draws, seed=seed) for policy in POLICIES]
    )


def default_prompt(engine: Any) -> list[int]:
    """Return eight ids of the vocabulary, spread over it, none an end token.

    Args:
        engine: gives vocabulary and end tokens.

    Returns:
        Token ids.
    """
    ids = [i for i in range(engine.target.vocab_size) if i not in engine.target.eos_ids]
    return [ids[len(ids) * i // 8] for i in range(8)]


def target_law(engine: Any, prompt: Sequence[int]) -> dict[tuple[int, ...], float]:
    """Return the target's law of the next tokens under top-k, by plain passes over every prefix.

    Args:
        engine: gives the target.
        prompt: token ids.

    Returns:
        Probability of each output of `check_engine`.
    """
    sampling = Sampling(temperature=TEMPERATURE, top_k=BRANCHES)
    done: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    while open_:
        prefix, mass = open_.popitem()
        session = engine.target.session(layer_ids=(), capacity=len(prompt) + len(prefix))
        logits = session.prefill([*prompt, *prefix]).logits[:, -1, :]
        probs = np.asarray(engine.ops.to_host(warp(logits, sampling, xp=engine.ops.xp))[0])
        for token in np.flatnonzero(probs > 0):
            path = (*prefix, int(token))
            ended = len(path) == LENGTH or int(token) in engine.target.eos_ids
            (done if ended else open_)[path] = mass * float(probs[token])
    return done


def _on_device(rule: Callable[..., Any], ops: Any) -> Verify:
    """Return the rule as the kit calls it: numpy in, the backend's device inside, numpy out."""

    def verify(target: Any, tokens: Any, probs: Any, accept: Any, close: Any) -> tuple[Any, Any]:
        arrays = [
            None if part is None else ops.from_host(part) for part in (target, tokens, probs, accept, close)
        ]
        uniforms = Uniforms(arrays[3], arrays[4])
        verdict = rule(arrays[0], Draft(arrays[1], arrays[2]), uniforms, xp=ops.xp)
        return np.asarray(ops.to_host(verdict.tokens)), np.asarray(ops.to_host(verdict.n_accepted))

    return verify
