"""transformers' `_speculative_sampling` as a verifier: its own code, with its two draws answered by us.

The function is called as it stands, one row at a time as it is written for. Where uniforms are given,
a copy of it whose `torch` answers `rand_like` with them and `multinomial` with the two-level draw.
"""

from types import FunctionType
from typing import Any

import numpy as np

from dspec.testing.specimens.arrays import draw_rows

PROMPT = 0  # some token before the pass; the function looks at the drafts only


def hf_function() -> Any:
    """Return `transformers.generation.utils._speculative_sampling`."""
    from transformers.generation import utils

    return utils._speculative_sampling


def hf_verify(target: Any, drafts: Any, drafter: Any, accept: Any, close: Any) -> tuple[Any, Any]:
    """Verify with transformers' function on given uniforms; see `dspec.testing.checks.lattice.Verify`.

    A row that the function refuses (torch raises) has n_accepted -1.

    Args:
        target: (B, K + 1, V) laws; the function takes their logarithms.
        drafts: (B, K).
        drafter: (B, K, V) laws.
        accept: (B, K) float32.
        close: (B, K + 1, 2) float32; the draw that closes a pass uses entry 0.

    Returns:
        tokens (B, K + 1), padded with -1, and n_accepted (B,).
    """
    rows, slots = drafts.shape
    tokens, n_accepted = np.full((rows, slots + 1), -1), np.full(rows, -1)
    for row in range(rows):
        given = _Given(accept[row], close[row, 0])
        function = hf_function()
        copy = FunctionType(function.__code__, {**function.__globals__, "torch": given})
        copy.__kwdefaults__, copy.__defaults__ = function.__kwdefaults__, function.__defaults__
        try:
            found = _call(copy, target[row], drafts[row], drafter[row])
        except RuntimeError:
            continue
        tokens[row, : len(found)], n_accepted[row] = found, len(found) - 1
    return tokens, n_accepted


def hf_pass(target: Any, drafts: Any, drafter: Any, bonus: Any, seed: int) -> list[list[int]]:
    """Run transformers' function on a batch with torch's own draws; see `one_pass.Sampler`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [_call(hf_function(), *row) for row in zip(target, drafts, drafter)]


def _call(function: Any, target: Any, drafts: Any, drafter: Any) -> list[int]:
    """Return the tokens that the function emits for one row."""
    import torch

    ids = torch.tensor([[PROMPT, *(int(token) for token in drafts)]])
    logits = [torch.tensor(_logs(laws)[None], dtype=torch.float32) for laws in (drafter, target)]
    emitted, _ = function(ids, logits[0], len(drafts), logits[1])
    return [int(token) for token in emitted[0]]


def _logs(laws: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.asarray(laws, dtype=np.float32))


class _Given:
    """The module torch, but for the two functions that draw."""

    def __init__(self, accept: Any, close: Any) -> None:
        self._accept, self._close = accept, close

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)

    def rand_like(self, ratio: Any) -> Any:
        """Return the accept uniforms."""
        import torch

        return torch.as_tensor(np.array(self._accept), dtype=ratio.dtype).reshape(ratio.shape)

    def multinomial(self, law: Any, num_samples: int) -> Any:
        """Return the token that the closing uniforms choose, after torch has judged the law."""
        import torch

        torch.multinomial(law, num_samples)  # raises on what it would not draw from
        row = law.detach().numpy().astype(np.float64)
        return torch.as_tensor(draw_rows(row, np.asarray(self._close, dtype=np.float64)[None])[:, None])
