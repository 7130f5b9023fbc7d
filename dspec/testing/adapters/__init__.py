"""Other samplers and engines in the form that the kit checks: `dspec.check_exactness(adapter)`."""

from dspec.testing.adapters.sources import (
    Adapter,
    from_callable,
    from_hf_assisted,
    from_hf_sampler,
    from_mlx_lm,
    from_openai,
    from_vllm_sampler,
)

__all__ = [
    "Adapter",
    "from_callable",
    "from_hf_assisted",
    "from_hf_sampler",
    "from_mlx_lm",
    "from_openai",
    "from_vllm_sampler",
]
