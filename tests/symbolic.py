"""Sessions and a judge on exact fractions; they live in the kit."""

from dspec.testing.models.symbolic import ExactDrafter, ExactJudge, ExactTarget, decode_sampler

__all__ = ["ExactDrafter", "ExactJudge", "ExactTarget", "decode_sampler"]
