"""The target's own greedy decoding: transformers' loop and cache, for comparison."""

from collections.abc import Sequence
from typing import Any

import torch

NAME = "transformers generate"


def own_greedy(target: Any, ids: Sequence[int], *, max_new_tokens: int) -> tuple[int, ...]:
    """Return what transformers' own greedy `generate` emits: another loop, another cache.

    Spec: DL-7.

    Args:
        target: an opened target.
        ids: of the prompt, at least one.
        max_new_tokens: most tokens, >= 1.

    Returns:
        The new token ids; an end token is kept.
    """
    prompt = torch.tensor([list(ids)], device=target.device)
    stops = sorted(target.eos_ids)
    out = target.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
    )
    return tuple(out[0, len(ids) :].tolist())
