"""Real outputs of a block-diffusion model against its own block-size-one law."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dspec.block_plans import plan_of, scratch_of
from dspec.core.layouts import causal
from dspec.core.measures import without
from dspec.core.numerics import widen
from dspec.core.plans import verifying
from dspec.core.types import Sampling
from dspec.core.warp import warp
from dspec.decoders import Autoregressive, SelfSpeculative
from dspec.testing.report import Report

# Four tokens of the two likeliest each, in blocks of two: several rounds, accepted and not.
LENGTH, BRANCHES, BLOCK = 4, 2, 2
TEMPERATURE = 2.0  # as for engines: the second token of a peaked law must not be too rare
BATCH = 64
GREEDY_TOKENS = 24
NEAR = 1e-4  # nats: float32 logits of one network by other shapes differ by up to 1e-5 on tiny models
CLAUSES = ("SS-15", "SS-16", "SS-17", "SS-18", "SS-22")
FORMS: dict[str, dict[str, Any]] = {
    "sliding": {},
    "aligned": {"window": "aligned", "draft_mask": "block"},
    "no fusion": {"window": "aligned", "bonus": False, "commit": "always"},
    "fused layout": {"layout": "fused"},
}


def draw_blocks(
    lm: Any, policy: str, form: str, *, prompt: Sequence[int] | None = None
) -> Callable[[int, int], Iterator[tuple[int, ...]]]:
    """Return what draws n outputs of exact self-speculation with a seed.

    Args:
        lm: a `dspec.block_engine.BlockDiffusion`.
        policy: how it drafts and verifies.
        form: a key of `FORMS`.
        prompt: token ids; None: a few ids of the vocabulary.

    Returns:
        (n, seed) -> outputs, for `check_distribution`.
    """
    ids = block_prompt(lm) if prompt is None else list(prompt)
    decoder = SelfSpeculative(block_size=BLOCK, exact=True, policy=policy, **FORMS[form])
    settings = {"max_new_tokens": LENGTH, "temperature": TEMPERATURE, "top_k": BRANCHES, "decoder": decoder}

    def generate(n: int, seed: int) -> Iterator[tuple[int, ...]]:
        for out in lm.generate([ids] * n, seed=seed, batch_size=BATCH, **settings):
            yield out.tokens

    return generate


def block_prompt(lm: Any) -> list[int]:
    """Return five ids of the vocabulary, spread over it, neither end nor mask token."""
    ids = [i for i in range(lm.model.vocab_size) if i not in lm.model.eos_ids and i != lm.model.mask_id]
    return [ids[len(ids) * i // 5] for i in range(5)]


def law_of_blocks(lm: Any, *, prompt: Sequence[int] | None = None) -> dict[tuple[int, ...], float]:
    """Return the block-size-one law of the outputs of `draw_blocks`, by a fresh pass over every prefix.

    Spec: SS-2, SS-7.

    Args:
        lm: a `dspec.block_engine.BlockDiffusion`.
        prompt: token ids; None: a few ids of the vocabulary.

    Returns:
        Probability of each output.
    """
    ids = block_prompt(lm) if prompt is None else list(prompt)
    sampling = Sampling(temperature=TEMPERATURE, top_k=BRANCHES)
    done: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    while open_:
        prefix, mass = open_.popitem()
        probs = lm.ops.to_host(warp(next_logits(lm, [*ids, *prefix]), sampling, xp=lm.ops.xp))
        for token in np.flatnonzero(np.asarray(probs) > 0):
            path = (*prefix, int(token))
            ended = len(path) == LENGTH or int(token) in lm.model.eos_ids
            (done if ended else open_)[path] = mass * float(probs[token])
    return done


def next_logits(lm: Any, context: Sequence[int]) -> Any:
    """Return the logits (V,) of the next token at block size one, the mask token's at -inf."""
    plan = plan_of(Autoregressive(), lm.model)
    session = lm.model.session(rows=1, capacity=len(context) + scratch_of(plan))
    if len(context) > 1:
        session.read([causal(tuple(context[:-1]), start=0)])
        session.commit([len(context) - 1])
    layout = verifying(context[-1:], len(context), 0, plan)
    hidden = session.read([layout])
    logits = session.logits(hidden, [[layout.size - 1]])[0, 0]
    return without(widen(logits, xp=lm.ops.xp), lm.model.mask_id, xp=lm.ops.xp)


def check_greedy_blocks(lm: Any, form: str, *, prompts: Sequence[Sequence[int]] | None = None) -> Report:
    """Check that greedy self-speculation writes what block-size-one decoding writes.

    Where they differ, the two likeliest tokens must lie nearer than rounding: a near-tie is counted.

    Spec: SS-15, SS-16, SS-22.

    Args:
        lm: a `dspec.block_engine.BlockDiffusion`.
        form: a key of `FORMS`.
        prompts: token ids; None: prefixes of a few ids of the vocabulary.

    Returns:
        The report.
    """
    ids = block_prompt(lm)
    prompts = [ids[: k + 1] for k in range(len(ids))] if prompts is None else prompts
    settings: Mapping[str, Any] = {"max_new_tokens": GREEDY_TOKENS, "ignore_eos": True}
    plain = lm.generate(list(prompts), decoder=Autoregressive(), **settings)
    tried, ties = 0, 0
    for size in (BLOCK, lm.model.block_size):
        decoder = SelfSpeculative(block_size=size, exact=True, **FORMS[form])
        for prompt, ours, theirs in zip(
            prompts, lm.generate(list(prompts), decoder=decoder, **settings), plain, strict=True
        ):
            tried += 1
            if ours.tokens == theirs.tokens:
                continue
            place = next(i for i, (a, b) in enumerate(zip(ours.tokens, theirs.tokens)) if a != b)
            gap = _gap(lm, [*prompt, *theirs.tokens[:place]], ours.tokens[place], theirs.tokens[place])
            if gap <= NEAR:
                ties += 1
                continue
            example = {"prompt": list(prompt), "block_size": size, "place": place, "gap": gap}
            example |= {"got": list(ours.tokens), "needed": list(theirs.tokens)}
            return Report("greedy_blocks", False, {"outputs": tried}, counterexample=example, clauses=CLAUSES)
    return Report("greedy_blocks", True, {"outputs": tried, "near ties": ties}, clauses=CLAUSES)


def _gap(lm: Any, context: Sequence[int], one: int, other: int) -> float:
    logits = lm.ops.to_host(next_logits(lm, context))
    return abs(float(logits[one]) - float(logits[other]))
