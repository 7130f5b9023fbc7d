"""Run decoders of one block-diffusion model side by side on the same prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspec.block_engine import BlockDiffusion
from dspec.decoders import Autoregressive
from dspec.evaluation.decoder_table import Figures, Output, figures_of, gap_of, kind_of, text_of
from dspec.evaluation.fidelity import fidelity, matching_prefix


class Judge:
    """Likelihoods of outputs, each distinct one computed once; and what greedy decoding wrote.

    Args:
        lm: the engine whose block-size-one laws judge.
    """

    def __init__(self, lm: BlockDiffusion) -> None:
        self._lm = lm
        self._known: dict[tuple[int, tuple[int, ...]], Any] = {}
        self.greedy: dict[int, tuple[int, ...]] = {}

    def output(self, number: int, prompt: Any, out: Any, rows: int) -> Output:
        """Return what is kept of one prompt's output, decoded in a batch of `rows`."""
        key = number, out.tokens
        if key not in self._known:
            self._known[key] = fidelity(self._lm, prompt, out.tokens)
        found, greedy, stats = self._known[key], self.greedy[number], out.stats
        return Output(
            n_tokens=stats.n_tokens,
            passes=stats.forward_passes,
            seconds=stats.seconds["total"] / rows,
            n_accepted=sum(stats.n_accepted),
            n_verified=len(stats.n_accepted),
            log_likelihood=found.log_likelihood,
            n_best=sum(a == b for a, b in zip(found.best.tolist(), out.tokens, strict=True)),
            n_matching=matching_prefix(out.tokens, greedy),
            n_greedy=len(greedy),
            equal=out.tokens == greedy,
        )


def compare_decoders(
    lm: BlockDiffusion,
    prompts: Sequence[Any],
    arms: Mapping[str, Any],
    *,
    judge: Judge | None = None,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 1,
    advance: Callable[[str], None] = lambda name: None,
) -> Figures:
    """Decode all prompts with all decoders and return the figures of each.

    Decoders take turns batch by batch, so that a machine that slows down slows all of them. The first
    decoder is the baseline that likelihoods are compared with.

    Spec: SS-24.

    Args:
        lm: decodes and judges.
        prompts: text, token ids or chat messages, as `lm.generate` takes them.
        arms: decoders by name.
        judge: likelihoods that are known already; None: a new one.
        max_new_tokens: of each output.
        temperature: 0 is greedy.
        seed: of the first batch's uniforms; prompt i has the same uniforms under every decoder.
        batch_size: prompts decoded side by side.
        advance: called with a decoder's name after each of its batches.

    Returns:
        By name: kind, decoder as text, forwards per token, tokens per second, accepted drafts a verify
        pass, log-likelihood per token with its interval, and how much equals greedy decoding.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    judge = Judge(lm) if judge is None else judge
    outputs: dict[str, list[Output]] = {name: [] for name in arms}
    lm.generate(prompts[0], max_new_tokens=2, decoder=Autoregressive())  # the first passes are slow ones
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        _greedy(lm, batch, start, judge, max_new_tokens)
        for name, decoder in arms.items():
            settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed + start}
            outs = lm.generate(batch, batch_size=len(batch), decoder=decoder, **settings)
            outputs[name] += [
                judge.output(start + i, batch[i], out, len(batch)) for i, out in enumerate(outs)
            ]
            advance(name)
    baseline = next(iter(outputs.values()))
    return {name: _about(decoder, outputs[name], baseline) for name, decoder in arms.items()}


def _greedy(lm: BlockDiffusion, batch: Sequence[Any], start: int, judge: Judge, max_new_tokens: int) -> None:
    """Let the judge know what greedy block-size-one decoding writes, once a prompt."""
    if start not in judge.greedy:
        settings = {"max_new_tokens": max_new_tokens, "decoder": Autoregressive()}
        outs = lm.generate(list(batch), batch_size=len(batch), **settings)
        judge.greedy |= {start + i: out.tokens for i, out in enumerate(outs)}


def _about(decoder: Any, outputs: Sequence[Output], baseline: Sequence[Output]) -> dict[str, Any]:
    """All that is reported of one decoder."""
    gap = {"log_likelihood_over_baseline": gap_of(outputs, baseline)}
    return {"kind": kind_of(decoder), "decoder": text_of(decoder), **figures_of(outputs), **gap}
