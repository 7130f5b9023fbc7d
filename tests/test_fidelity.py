"""The likelihood of an output under a model's autoregressive mode, against one pass a token."""

import numpy as np
import pytest

import dspec
from dspec.block_config import FAMILIES
from dspec.decoders import Autoregressive, Diffusion
from dspec.errors import ConfigError, ShapeError
from dspec.evaluation.fidelity import fidelity, matching_prefix
from tests.block_models import FOLDERS, MASK, tokens_of
from tests.tolerances import FORWARD_F32

PROMPT, OUTPUT = tokens_of(4, 9), tokens_of(5, 12)


@pytest.fixture(params=FAMILIES)
def lm(room, request):
    return dspec.load_block_diffusion(
        FOLDERS[request.param], family=request.param, mask_token_id=MASK, backend=room.device
    )


def law_of(lm, room, ids):
    """The block-size-one law after `ids`, by a pass of its own; log-probabilities in float64."""
    ids = list(ids) if lm.model.shifted else [*ids, MASK]
    logits = room.numpy(lm.logits(ids, block_size=1))[-1].astype(np.float64)
    logits[MASK] = -np.inf
    logits -= logits.max()
    return logits - np.log(np.exp(logits).sum())


@pytest.mark.clause("SS-2", "SS-6", "SS-7")
@pytest.mark.parametrize("chunk", [1, 5, 256])
def test_it_is_what_one_pass_a_token_gives(lm, room, chunk):
    tokens = [token if token != MASK else 7 for token in OUTPUT]
    found = fidelity(lm, PROMPT, tokens, chunk=chunk)
    laws = [law_of(lm, room, [*PROMPT, *tokens[:i]]) for i in range(len(tokens))]
    expected = [law[token] for law, token in zip(laws, tokens, strict=True)]
    np.testing.assert_allclose(found.log_probs, expected, atol=FORWARD_F32, rtol=0)
    assert found.best.tolist() == [int(law.argmax()) for law in laws]
    assert found.log_likelihood == pytest.approx(sum(expected), abs=len(tokens) * FORWARD_F32)


def test_every_token_of_greedy_decoding_is_the_most_likely_one(lm):
    greedy = lm.generate(PROMPT, max_new_tokens=12, decoder=Autoregressive(), ignore_eos=True).tokens
    assert fidelity(lm, PROMPT, greedy).best.tolist() == list(greedy)
    other = lm.generate(PROMPT, max_new_tokens=12, decoder=Diffusion(block_size=4, steps=1), ignore_eos=True)
    assert fidelity(lm, PROMPT, other.tokens).best.tolist() != list(other.tokens)


def test_the_mask_token_has_no_mass(lm):
    assert fidelity(lm, PROMPT, [MASK]).log_probs.tolist() == [-np.inf]


def test_a_prompt_of_one_token_and_no_output(lm, room):
    found = fidelity(lm, [5], [6, 7])
    expected = [law_of(lm, room, [5])[6], law_of(lm, room, [5, 6])[7]]
    np.testing.assert_allclose(found.log_probs, expected, atol=FORWARD_F32, rtol=0)
    assert fidelity(lm, [5], []).log_likelihood == 0.0


def test_what_cannot_be_judged_is_refused(lm):
    with pytest.raises(ShapeError, match=r"^tokens"):
        fidelity(lm, PROMPT, [lm.model.vocab_size])
    with pytest.raises(ConfigError):
        fidelity(lm, PROMPT, [1] * lm.model.max_positions)


def test_matching_prefixes():
    assert matching_prefix((), (1,)) == 0
    assert matching_prefix((1, 2, 3), (1, 2, 3)) == 3
    assert matching_prefix((1, 2, 3), (1, 5, 3)) == 1
