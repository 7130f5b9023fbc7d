"""The library's accept rules in the form that `dspec.testing` checks."""

from dspec.core.joint import verify_block
from dspec.core.rejection import verify_sample_match, verify_tokens
from dspec.core.types import Draft, Uniforms

RULES = {
    "rejection": verify_tokens,
    "block": verify_block,
    "one_hot": verify_tokens,
    "match": verify_sample_match,
}
MODES = tuple(RULES)


def core_verify(xp, mode):
    """`dspec.testing.checks.lattice.Verify` by the core's rule of a mode."""

    def verify(target, tokens, probs, accept, close):
        verdict = RULES[mode](target, Draft(tokens, probs), Uniforms(accept, close), xp=xp)
        return verdict.tokens, verdict.n_accepted

    return verify
