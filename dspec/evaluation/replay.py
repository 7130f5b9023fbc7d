"""Tau without decoding: any drafter's passes along texts that the target wrote (DL-10)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import array_api_compat.numpy as npx
import numpy as np
from numpy.typing import NDArray

from dspec.core.policies import choose_policy
from dspec.core.replay import Replayed, replay_counts
from dspec.core.settings import read_integer
from dspec.errors import ConfigError, explain
from dspec.evaluation.bootstrap import interval
from dspec.evaluation.texts import Texts, scores_of


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """What a drafter would do along some texts, in expectation over its acceptances.

    Args:
        suite: its name.
        settings: of the texts, and the policy.
        n_tokens: (N,) emitted tokens of each prompt after the cut, the prefill's included.
        replayed: counts of each prompt.
    """

    suite: str
    settings: Mapping[str, Any]
    n_tokens: NDArray[np.int64]
    replayed: Replayed

    @property
    def counts(self) -> NDArray[Any]:
        """(N, 2) float64: each prompt's emitted tokens, uncut, and verify passes; for `bootstrap`."""
        return np.stack([self.replayed.emitted, self.replayed.passes], axis=1)

    @property
    def tau(self) -> float:
        """Emitted tokens per verify pass, both in expectation and over all prompts; NaN without a pass.

        At temperature 0 it is `Stats.tau` of decoding these prompts, to the last bit. Above, `Stats.tau`
        of many decodings tends to the same limit as this of many texts: the ratio of the two means.
        """
        emitted, passes = self.counts.sum(axis=0)
        return float(emitted / passes) if passes else float("nan")

    @property
    def alpha(self) -> tuple[float, ...]:
        """Share of the passes reaching slot k that accept it, k = 1..K; NaN where none reaches it."""
        pairs = zip(self.replayed.accepted.sum(axis=0), self.replayed.reached.sum(axis=0))
        return tuple(float(a / r) if r > 0 else float("nan") for a, r in pairs)

    def as_dict(self) -> dict[str, Any]:
        """Return the pooled numbers, then each prompt's."""
        return {
            "suite": self.suite,
            "settings": dict(self.settings),
            "n_prompts": len(self.n_tokens),
            "n_tokens": int(self.n_tokens.sum()),
            "n_passes": float(self.replayed.passes.sum()),
            "tau": self.tau,
            "tau_interval": interval(self.counts),
            "alpha": list(self.alpha),
            "reached": self.replayed.reached.sum(axis=0).tolist(),
            "prompts": [
                {"n_tokens": int(n), "emitted": float(emitted), "passes": float(passes)}
                for n, (emitted, passes) in zip(self.n_tokens, self.counts)
            ],
        }


def replay(
    target: Any, drafter: Any, texts: Texts, *, policy: str | None = None, batch: int = 16, **sizes: Any
) -> ReplayResult:
    """Return what decoding with a drafter counts along the texts, in expectation over the acceptances.

    Nothing is decoded: the target reads each text once, the drafter drafts at every token of it at once.

    Spec: DL-2, DL-10.

    Args:
        target: `Engine.target`, the one that wrote the texts.
        drafter: of the same room, such as `Engine.drafter` or a learner's.
        texts: from `write_texts`; their sampling settings are those of both laws.
        policy: as for `Engine.generate`: "rejection" drafts by sampling, "one_hot" (default) and
            "sample_match" by argmax; all are greedy at temperature 0.
        batch: texts at once, >= 1.
        **sizes: `anchors` and `chunk` of the room's `block_scores`.

    Returns:
        Expected counts of each prompt.

    Raises:
        ConfigError: texts of another target, or too short beyond their end for so large a block.
        CheckpointError: the drafter was made for another target.

    Example:
        >>> replay(engine.target, engine.drafter, Texts.load("gsm8k.npz")).tau        # doctest: +SKIP
        4.31
    """
    n_slots = drafter.block_size - 1
    _check(target, texts, n_slots)
    read_integer("batch", batch, 1, 2**31, "an integer >= 1", clause="DL-10")
    rule = choose_policy(policy, texts.sampling)
    scores, longest = scores_of(target).block_scores, max(int(texts.lengths.max()) - 1, 0)
    stands = np.zeros((len(texts.lengths), longest, n_slots))
    for rows, written in texts.batches(batch, n_slots):
        found = scores(target, drafter, written, policy=rule, sampling=texts.sampling, **sizes)
        stands[rows, : found.shape[1]] = found
    return ReplayResult(
        suite=texts.suite,
        settings={**texts.settings, "policy": rule.name},
        n_tokens=texts.lengths,
        replayed=replay_counts(stands, texts.lengths, xp=npx),
    )


def _check(target: Any, texts: Texts, n_slots: int) -> None:
    if target.digest() != texts.target:
        needed = "those of this target"
        raise ConfigError(explain("texts", f"written by {texts.target[:12]}", needed, clause="DL-10"))
    if texts.settings["beyond"] < n_slots - 1:
        remedy = f"Write them with beyond={n_slots - 1}."
        got = f"beyond={texts.settings['beyond']}"
        needed = f"at least {n_slots - 1} for {n_slots} drafted slots"
        raise ConfigError(explain("texts", got, needed, remedy=remedy, clause="DL-10"))
