"""Token verification in the form of transformers' function, right by the letter of RS-4 and RS-5."""

import torch


def strict_sampling(ids, candidate_logits, candidate_length, new_logits):
    """Accept where u * q < p; draw from the residual, or from p where it is empty."""
    drafts = ids[0, ids.shape[1] - candidate_length :]
    q, p = candidate_logits[0].softmax(-1), new_logits[0].softmax(-1)
    if p.isnan().any() or q.isnan().any():
        raise RuntimeError("a row is no law")
    places = torch.arange(candidate_length)
    drawn = q[places, drafts]
    n = int((torch.rand_like(drawn) * drawn < p[places, drafts]).cumprod(-1).sum())
    left = (p[n] - q[n]).clamp(min=0) if n < candidate_length else p[n]
    closing = torch.multinomial((left if left.sum() > 0 else p[n])[None], num_samples=1)
    return torch.cat([drafts[None, :n], closing], dim=-1), n
