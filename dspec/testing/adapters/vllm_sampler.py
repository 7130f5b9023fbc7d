"""vLLM's rejection sampler at tensor level, where vLLM is installed.

Only the function `vllm.v1.sample.rejection_sampler.rejection_sample` is called: no engine, no weights.
Its arguments are given by name, and a version that asks for others is refused by name. Written from
vLLM's source; see docs/exactness.md for whether it has been run.
"""

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np

from dspec.errors import BackendUnavailable, explain
from dspec.testing.adapters.one_pass import Sampler

MODULE = "vllm.v1.sample.rejection_sampler"


def vllm_pass(device: str) -> Sampler:
    """Return vLLM's sampler as a pass; see `one_pass.Sampler`.

    Args:
        device: of torch, such as "cuda".

    Returns:
        The pass.

    Raises:
        BackendUnavailable: vLLM is not installed, or asks for arguments that are not known here.
    """
    import torch

    function = _function()

    def sampler(target: Any, drafts: Any, drafter: Any, bonus: Any, seed: int) -> list[list[int]]:
        rows, slots = drafts.shape

        def flat(array: Any, dtype: Any) -> Any:
            tensor = torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)
            return tensor.reshape(rows * slots, *tensor.shape[2:]).contiguous()

        laws = flat(target[:, :-1], torch.float32)
        offered = {
            "draft_token_ids": flat(drafts, torch.int32),
            "num_draft_tokens": [slots] * rows,
            "max_spec_len": slots,
            "cu_num_draft_tokens": torch.arange(1, rows + 1, dtype=torch.int32, device=device) * slots,
            "draft_probs": flat(drafter, torch.float32),
            "target_probs": laws,
            "target_logits": laws.log(),
            "bonus_token_ids": torch.as_tensor(bonus, dtype=torch.int32, device=device)[:, None].contiguous(),
            "sampling_metadata": _metadata(rows, device),
        }
        torch.manual_seed(seed)
        emitted = function(**_chosen(function, offered))
        return [[token for token in row if token >= 0] for row in emitted.tolist()]

    return sampler


def _function() -> Any:
    try:
        return importlib.import_module(MODULE).rejection_sample
    except (ImportError, AttributeError) as error:
        remedy = "Try: pip install vllm (Linux with a CUDA GPU)."
        message = explain(
            "vllm", f"no {MODULE}.rejection_sample ({error})", "vLLM to check it", remedy=remedy
        )
        raise BackendUnavailable(message) from error


def _chosen(function: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that this version of the function takes."""
    wanted = inspect.signature(function).parameters.values()
    unknown = [part.name for part in wanted if part.default is part.empty and part.name not in offered]
    if unknown:
        needed = f"arguments among {', '.join(offered)}"
        raise BackendUnavailable(explain("vllm rejection_sample", f"argument {unknown[0]!r}", needed))
    return {part.name: offered[part.name] for part in wanted if part.name in offered}


def _metadata(rows: int, device: str) -> Any:
    """Return what the function reads of vLLM's SamplingMetadata: everybody samples at temperature 1."""
    import torch

    temperature = torch.ones(rows, dtype=torch.float32, device=device)
    return SimpleNamespace(
        all_greedy=False, all_random=True, temperature=temperature, top_k=None, top_p=None, generators={}
    )
