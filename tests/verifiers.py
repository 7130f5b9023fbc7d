"""The library's accept rules in the form that `dspec.testing` checks."""

from dspec.core.rejection import verify_sample_match, verify_tokens
from dspec.core.types import Draft, Uniforms

MODES = ("rejection", "one_hot", "match")


def core_verify(xp, mode):
    """`dspec.testing.checks.lattice.Verify` by the core's rule of a mode."""
    rule = verify_sample_match if mode == "match" else verify_tokens

    def verify(target, tokens, probs, accept, close):
        verdict = rule(target, Draft(tokens, probs), Uniforms(accept, close), xp=xp)
        return verdict.tokens, verdict.n_accepted

    return verify
