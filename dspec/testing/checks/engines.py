"""Real outputs of an engine against the target's own law."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dspec.core.types import Sampling
from dspec.core.warp import warp
from dspec.testing.checks.laws import check_distribution
from dspec.testing.models.tree_settings import settings_for
from dspec.testing.report import Report, merge

# Three tokens of the two likeliest each: eight outcomes whose law the target gives exactly, and long
# enough to see an accepted draft, a correction and the token after it.
LENGTH, BRANCHES = 3, 2
DRAWS = 400
BATCH = 2_000  # generations held at a time: they remember every pass
# Warmer than 1, so that the second token of a peaked law is not too rare to be seen in 400 draws.
TEMPERATURE = 2.0
POLICIES = ("one_hot", "rejection")


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
    law = law_of_outputs(engine, prompt=prompt)
    reports = [
        check_distribution(draw_outputs(engine, policy, prompt=prompt), law, n=draws, seed=seed)
        for policy in POLICIES
    ]
    return merge("outputs", reports)


def draw_outputs(
    engine: Any, policy: str, *, prompt: Sequence[int] | None = None
) -> Callable[[int, int], Iterator[tuple[int, ...]]]:
    """Return what draws n outputs of an engine with a seed.

    Args:
        engine: a `dspec.engine.Engine`.
        policy: how it drafts and verifies; "tree 5": draft trees of five nodes.
        prompt: token ids; None: a few ids of the vocabulary.

    Returns:
        (n, seed) -> outputs, for `check_distribution`.
    """
    ids = list(prompt) if prompt is not None else default_prompt(engine)
    settings = {"max_new_tokens": LENGTH, "temperature": TEMPERATURE, "top_k": BRANCHES}
    return drawing(engine, ids, **settings, **settings_for(policy))


def drawing(
    engine: Any, prompt: Sequence[int], **settings: Any
) -> Callable[[int, int], Iterator[tuple[int, ...]]]:
    """Return what draws n outputs with a seed, some thousand requests at a time.

    Args:
        engine: a `dspec.engine.Engine`.
        prompt: token ids.
        **settings: as for `Engine.generate`.

    Returns:
        (n, seed) -> outputs; the requests of a batch are numbered, each batch has a seed of its own.
    """

    def generate(n: int, seed: int) -> Iterator[tuple[int, ...]]:
        for start in range(0, n, BATCH):
            prompts = [list(prompt)] * min(BATCH, n - start)
            for out in engine.generate(prompts, seed=seed + start // BATCH, **settings):
                yield out.tokens

    return generate


def default_prompt(engine: Any) -> list[int]:
    """Return eight ids of the vocabulary, spread over it, none an end token.

    Args:
        engine: gives vocabulary and end tokens.

    Returns:
        Token ids.
    """
    ids = [i for i in range(engine.target.vocab_size) if i not in engine.target.eos_ids]
    return [ids[len(ids) * i // 8] for i in range(8)]


def law_of_outputs(engine: Any, *, prompt: Sequence[int] | None = None) -> dict[tuple[int, ...], float]:
    """Return the target's law of the next tokens under top-k, by plain passes over every prefix.

    Args:
        engine: gives the target.
        prompt: token ids; None: a few ids of the vocabulary.

    Returns:
        Probability of each output of `draw_outputs`.
    """
    ids = list(prompt) if prompt is not None else default_prompt(engine)
    sampling = Sampling(temperature=TEMPERATURE, top_k=BRANCHES)
    done: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    while open_:
        prefix, mass = open_.popitem()
        session = engine.target.session(layer_ids=(), capacity=len(ids) + len(prefix))
        logits = session.prefill([*ids, *prefix]).logits[:, -1, :]
        probs = np.asarray(engine.ops.to_host(warp(logits, sampling, xp=engine.ops.xp))[0])
        for token in np.flatnonzero(probs > 0):
            path = (*prefix, int(token))
            ended = len(path) == LENGTH or int(token) in engine.target.eos_ids
            (done if ended else open_)[path] = mass * float(probs[token])
    return done
