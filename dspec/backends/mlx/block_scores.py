"""The chance of every draft along texts that the target wrote: one target pass, one drafter pass."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from dspec.backends.mlx.attention_mask import attention_mask
from dspec.backends.mlx.drafter import Drafter
from dspec.backends.mlx.ops import exact_inference
from dspec.backends.mlx.ops import namespace as xp
from dspec.backends.mlx.taps import tapped
from dspec.backends.session_checks import check_beside, check_prefill
from dspec.backends.written import Written
from dspec.core.numerics import draw, gather, widen
from dspec.core.policies import Policy
from dspec.core.types import Sampling
from dspec.core.warp import warp
from dspec.supervision import Supervision

# Rows of logits at once: 2,048 rows of 152k float32 are 1.2 GB.
CHUNK = 2048
# Blocks of a text at once. Slots of other blocks are masked, yet the products of a dense mask are made:
# with 32 blocks of 16 on 400 positions they are half of all, with 127 five of six.
ANCHORS = 32


def write_texts(
    target: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: NDArray[np.float32] | None,
    *,
    sampling: Sampling,
    count: int,
) -> NDArray[np.int64]:
    """Return what the target writes after each prompt, all prompts at once, stops ignored.

    The rows go in step: at each position every row reads its own token, a row that is still in its prompt
    the prompt's. So nothing is padded and no mask is needed, whatever the lengths.

    Spec: DL-7, RS-13, RN-1.

    Args:
        target: with `body`, `logits` and `vocab_size`.
        prompts: B lists of ids, none empty.
        uniforms: (B, count, 2) in [0, 1), for the tokens in order; None: greedy.
        sampling: the law that tokens are drawn from.
        count: tokens to write.

    Returns:
        (B, count) int64 ids.

    Raises:
        ShapeError: an empty prompt, or an id outside the vocabulary.
    """
    for prompt in prompts:
        check_prefill(prompt, vocab_size=target.vocab_size)
    lengths = np.array([len(prompt) for prompt in prompts])
    width = int(lengths.max()) + count
    host = np.zeros((len(prompts), width), dtype=np.int32)
    chances = np.zeros((width, len(prompts), 2), dtype=np.float32)
    for row, prompt in enumerate(prompts):
        host[row, : len(prompt)] = prompt
        if uniforms is not None:
            chances[len(prompt) : len(prompt) + count, row] = uniforms[row]
    body = target.body
    with exact_inference():
        ids, u, ends = mx.array(host), mx.array(chances), mx.array(lengths)
        cache = body.new_cache(width)
        start = 0
        for end in range(int(lengths.min()), width):
            hidden, _ = tapped(body, ids[:, start:end], (), cache=cache, stop=False)
            cache.advance(end - start)
            logits = target.logits(hidden[:, -1])
            if uniforms is None:
                drawn = xp.argmax(logits, axis=-1)
            else:
                drawn = draw(warp(logits, sampling, xp=xp), u[end], xp=xp)
            ids[:, end] = mx.where(end < ends, ids[:, end], drawn.astype(mx.int32))
            mx.async_eval(ids, cache.arrays)  # begun, so that it is not one graph; not waited for
            start = end
        out = np.array(ids).astype(np.int64)
    return np.take_along_axis(out, lengths[:, None] + np.arange(count), axis=1)


def block_scores(
    target: Any,
    drafter: Drafter,
    texts: Written,
    *,
    policy: Policy,
    sampling: Sampling,
    anchors: int = ANCHORS,
    chunk: int = CHUNK,
) -> NDArray[np.float32]:
    """Return the chance of each slot of the blocks at all anchors to stand, given those before it.

    A block sees what it sees in decoding: features strictly before its anchor, the anchor's token, mask
    tokens (BD-2). Sampled drafts stand with chance min(1, q / p) of the written token, argmax drafts where
    they are that token.

    Spec: DL-10, BD-2, RS-4, RS-13.

    Args:
        target: frozen; the one that wrote the texts.
        drafter: in its own dtype, as decoding runs it.
        texts: B texts; T anchors.
        policy: how drafts are made; whether the law is read.
        sampling: settings under which the texts were written.
        anchors: blocks of a text at once; it bounds memory.
        chunk: rows of logits at once; likewise.

    Returns:
        (B, T, K) on the host; 0 where a text has no such anchor.

    Raises:
        CheckpointError: the drafter was made for another target.
        ConfigError: another device.
    """
    check_beside(drafter, target)
    config = drafter.config
    n_slots = config.block_size - 1
    with exact_inference():
        ids = _put(texts.tokens)
        law = None
        if policy.samples:
            features, final = target.read(ids, drafter.layer_ids)
            law = _written_probs(target, final, ids, texts.before(n_slots), sampling, chunk)
        else:
            features = target.tap(ids, drafter.layer_ids)
        context = drafter.fuse(features.astype(drafter.dtype))
        mx.eval(context, law)
        cut = {"block_size": config.block_size, "mask_token_id": config.mask_token_id, "anchors": anchors}
        parts = [
            _stand(target, drafter, context, blocks, law, sampling, chunk) for blocks in texts.blocks(**cut)
        ]
        if not parts:
            return np.zeros((len(texts.lengths), 0, n_slots), dtype=np.float32)
        return np.concatenate(parts, axis=1)


def _stand(
    target: Any,
    drafter: Drafter,
    context: mx.array,
    blocks: Supervision,
    law: mx.array | None,
    sampling: Sampling,
    chunk: int,
) -> NDArray[np.float32]:
    """Return (B, A, K) of some blocks a text."""
    layout = blocks.layout()
    rows, n_anchors, block_size = blocks.inputs.shape
    sizes = {"seq_len": context.shape[1], "block_size": block_size}
    mask = attention_mask(_put(blocks.anchors), _put(blocks.keep), **sizes)
    embeds = target.embed(_put(blocks.inputs.reshape(rows, -1))).astype(drafter.dtype)
    places = _put(layout.positions), _put(layout.context_positions)
    hidden = drafter(embeds, places[0], context, places[1], mask).flatten(0, 1)[_put(layout.rows)]
    labels, before = _put(layout.labels), _put(layout.before)
    stands = np.zeros(blocks.mask.size, dtype=np.float32)
    for first in range(0, len(layout.slots), chunk):
        part = slice(first, first + chunk)
        logits, gold = target.logits(hidden[part]), labels[part]
        if law is None:
            chance = (xp.argmax(logits, axis=-1) == gold).astype(mx.float32)
        else:
            q = gather(warp(logits, sampling, xp=xp), gold, xp=xp).astype(mx.float32)
            chance = mx.minimum(q / law[before[part]], 1.0)
        stands[layout.slots[part]] = np.array(chance)
    return stands.reshape(rows, n_anchors, block_size - 1)


def _written_probs(
    target: Any, final: mx.array, ids: mx.array, before: NDArray[np.int64], sampling: Sampling, chunk: int
) -> mx.array:
    """Return (B * S,) the target's probability of the token after each of some places, 1 elsewhere."""
    states, tokens = final.flatten(0, 1), ids.flatten()
    law = mx.ones(tokens.shape)
    # A written token has mass; rounding at a filter's edge may take it here. It then stands, as q > 0 does.
    least = float(np.finfo(np.float32).tiny)
    for first in range(0, len(before), chunk):
        place = _put(before[first : first + chunk])
        probs = warp(widen(target.logits(states[place]), xp=xp), sampling, xp=xp)
        law[place] = mx.maximum(gather(probs, tokens[place + 1], xp=xp).astype(mx.float32), least)
        mx.eval(law)  # one chunk of logits at a time
    return law


def _put(array: Any) -> mx.array:
    return mx.array(np.ascontiguousarray(array))
