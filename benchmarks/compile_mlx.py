"""What `mx.compile` and asking ahead bring to decoding on MLX, against what dspec does, in one run.

    python benchmarks/compile_mlx.py [--repetitions 30] [--json PATH]

Parts: the verdict, the drafter's block pass, the target's pass over one token, and 16 tokens asked for one
ahead, as mlx-lm does; the tiny target that ships, and one of random weights, 6 layers of width 512. Ways of a
part take turns on the same inputs. "ratio": median over rounds of seconds over the first way's, in seconds of
this process on all its threads, which others' work on a shared machine disturbs less; wall time where one is
asked for ahead. "first ms": wall time of the first call. "apart": difference of logits; tokens are equal.

"whole": one graph kept for all passes, attention over the capacity under a mask; "buckets": one for each 256
positions; "pieces": compiled around attention over growing views, once for all passes; "anew": growing views
inside the graph, which is therefore traced in each pass. `shapeless=True` cannot help there: the ends of a
view are constants of the graph. Without Metal MLX compiles with g++, here into a folder of this run's.
"""

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

os.environ["TMPDIR"] = tempfile.mkdtemp()  # MLX keeps what it compiled there, by name
os.environ.pop("MLX_DISABLE_COMPILE", None)

import mlx.core as mx
import numpy as np
from mlx_lm.models import qwen3

from dspec.backends.mlx.drafter import Drafter
from dspec.backends.mlx.drafter_layers import attend
from dspec.backends.mlx.ops import MlxOps
from dspec.backends.mlx.rotary import rotate
from dspec.backends.mlx.taps import tapped
from dspec.backends.mlx.target import Target
from dspec.config import DrafterConfig
from dspec.core.policies import GREEDY, ONE_HOT, REJECTION, draft_tokens, judge
from dspec.core.types import Draft, Sampling, Uniforms
from dspec.demo.settings import shipped_target
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json

SLOTS, BLOCK, START, CAPACITY, BUCKET, RUN, WARM_UP = 15, 8, 64, 1024, 256, 16, 3
PROMPT = [5 + i % 40 for i in range(START)]
ENDS = {"whole": lambda end: CAPACITY, "buckets": lambda end: -(-end // BUCKET) * BUCKET}
VERDICTS = {
    "greedy": (GREEDY, Sampling()),
    "one_hot": (ONE_HOT, Sampling(temperature=1.0)),
    "one_hot, top-k and top-p": (ONE_HOT, Sampling(temperature=0.8, top_k=50, top_p=0.95)),
    "rejection": (REJECTION, Sampling(temperature=1.0)),
}


def compare(ways, repetitions, clock):
    """Time ways in turn; each is called with the number of the round and returns tokens and logits."""
    taken, apart, first = {name: [] for name in ways}, dict.fromkeys(ways, 0.0), {}
    for number in range(WARM_UP + repetitions):
        known = None
        for name, way in ways.items():
            began, by_the_wall = clock(), time.perf_counter()
            tokens, logits = way(number)
            tokens = tokens.tolist()
            taken[name].append(clock() - began)
            first.setdefault(name, time.perf_counter() - by_the_wall)
            known = known or (tokens, logits)
            assert tokens == known[0] and mx.isfinite(logits).all().item(), f"{name} differs"
            apart[name] = max(apart[name], mx.abs(logits - known[1]).max().item())
    found, counted = {}, {name: np.array(times[WARM_UP:]) for name, times in taken.items()}
    for name, times in counted.items():
        ratio = np.median(times / next(iter(counted.values())))
        found[name] = {"ratio": round(float(ratio), 3), "ms": round(1e3 * float(np.median(times)), 2)}
        found[name] |= {"first ms": round(1e3 * first[name], 1), "apart": apart[name]}
    return found


def verdicts(vocabulary, policy, sampling):
    """The verdict of one pass; logits near the drafter's, so that some drafts stand."""
    rng, xp = np.random.default_rng(0), MlxOps.xp
    target = 3 * rng.standard_normal((1, SLOTS + 1, vocabulary), dtype=np.float32)
    drafter = mx.array(target[:, :SLOTS] + rng.standard_normal((1, SLOTS, vocabulary), dtype=np.float32))
    target, uniform = mx.array(target), partial(rng.random, dtype=np.float32)
    draft = draft_tokens(drafter, policy, sampling, mx.array(uniform((1, SLOTS, 2))), xp=xp)
    laws = [] if draft.probs is None else [draft.probs]
    shapes = (1, SLOTS), (1, SLOTS + 1, 2)
    rounds = [[mx.array(uniform(shape)) for shape in shapes] for _ in range(256)]
    mx.eval(target, draft.tokens, laws, rounds)

    def decide(logits, tokens, accept, close, *laws):
        verdict = judge(logits, Draft(tokens, *laws), policy, sampling, Uniforms(accept, close), xp=xp)
        return mx.concatenate([verdict.n_accepted.astype(mx.int32)[:, None], verdict.tokens], axis=1)

    def way(function, number):
        return function(target, draft.tokens, *rounds[number % len(rounds)], *laws), mx.zeros(1)

    return {"dspec": partial(way, decide), "compiled": partial(way, mx.compile(decide))}


class OneLayer:
    """A layer's keys and values; where they are written is an array, so that a graph can be kept."""

    def __init__(self, pair, at, end):
        self.pair, self.offset, self.end = pair, at, end

    def put(self, new, at):
        """Write keys and values; return views of all up to the end."""
        self.pair = [mx.slice_update(b, n, at, axes=[2]) for b, n in zip(self.pair, new, strict=True)]
        return [buffer[:, :, : self.end] for buffer in self.pair]

    def update_and_fetch(self, keys, values):
        """Do it as mlx-lm's attention asks."""
        return self.put((keys, values), self.offset)


def kept_graphs(one_pass, state, start, step, rows, ends):
    """A way whose passes over `rows` positions, from `start` on, are graphs over those below `ends(last)`."""
    kept, columns = {}, mx.arange(CAPACITY)

    def traced(at, mask, *buffers, end):
        layers = [OneLayer(buffers[i : i + 2], at, end) for i in range(0, len(buffers), 2)]
        found = one_pass(layers, at, mask)
        return *found, *(buffer for layer in layers for buffer in layer.pair)

    def way(number):
        nonlocal state
        last = start + step * number + rows
        end = ends(last)
        mask = None if end == last else (columns[:end] < last)[None, None, None]
        if end not in kept:
            kept[end] = mx.compile(partial(traced, end=end))
        tokens, logits, *state = kept[end](mx.array([last - rows]), mask, *state)
        return tokens, logits

    return way


def target_passes(target):
    """The target's passes over one token, each a position after the one before it."""
    sessions = [target.session(capacity=CAPACITY) for _ in range(4)]
    for session in sessions:
        session.prefill(PROMPT)
        mx.eval(session._cache.arrays)
    body, ids = target.body, mx.array([[7]])

    def dspec(number):
        sessions[0].rewind(START + number)
        logits = sessions[0].score(7, mx.zeros((1, 0), dtype=mx.int32)).logits
        return logits.argmax(axis=-1), logits

    def one_pass(layers, at, mask):
        masks = dict.fromkeys(body.windows, mask)
        hidden = tapped(body, ids, (), cache=SimpleNamespace(layers=layers), stop=False, masks=masks)[0]
        logits = target.logits(hidden)
        return logits.argmax(axis=-1), logits

    ways = {}
    for session, (name, ends) in zip(sessions[1:], {**ENDS, "anew": lambda end: end}.items(), strict=True):
        ways[name] = kept_graphs(one_pass, session._cache.arrays, START, 1, 1, ends)
    return {"dspec": dspec, **ways}


def block_passes(target):
    """The drafter's passes after a context that grows by two positions a pass."""
    config = DrafterConfig.for_target(target.facts, block_size=BLOCK, layers=2, mask_token_id=3)
    drafter, sessions = Drafter(config).initialise(np.random.default_rng(3)), []
    width = len(drafter.layer_ids) * drafter.config.hidden_size
    features, early = mx.random.normal((1, 2, width), key=mx.random.key(0)), mx.zeros((1, START - 2, width))
    turns = drafter.rotary(mx.arange(CAPACITY)[None], drafter.dtype)
    ids = mx.array([[5] + [drafter.config.mask_token_id] * (BLOCK - 1)])

    def rule(logits):
        return Draft(logits.argmax(axis=-1), logits)

    for _ in range(4):
        sessions.append(drafter.session(target, capacity=CAPACITY))
        sessions[-1].propose(5, START - 2, early, rule)
        mx.eval(sessions[-1]._cache._buffers)
    states = [[b for pair in session._cache._buffers for b in pair] for session in sessions]
    mx.eval(features, turns, drafter.parameters())

    def finish(hidden):
        logits = target.logits(drafter.norm(hidden)[:, 1:])
        return logits.argmax(axis=-1), logits

    def dspec(number):
        sessions[0].length = START + 2 * number - 2
        draft = sessions[0].propose(5, START + 2 * number, features, rule)
        return draft.tokens, draft.probs

    def one_pass(layers, at, mask):
        context, hidden = drafter.fuse(features), target.embed(ids)
        size = (1, 1, BLOCK + 2, turns[0].shape[3])
        both = [mx.slice(table, at, axes=[2], slice_size=size) for table in turns]
        rows, slots = ([t[:, :, part] for t in both] for part in (slice(0, 2), slice(2, None)))
        for layer, own in zip(drafter.layers, layers, strict=True):
            own.put(layer.self_attn.keys_values(context, rows), at)
            hidden = layer(hidden, slots, lambda *new, own=own: own.put(new, at + 2), mask)
        return finish(hidden)

    rows = {"start": START - 2, "step": 2, "rows": BLOCK + 2}  # of context and block
    ends = zip(states[2:], ENDS.items(), strict=True)
    ways = {name: kept_graphs(one_pass, state, ends=found, **rows) for state, (name, found) in ends}
    around = pieces(drafter, partial(target.embed, ids), features, turns, states[1], finish)
    return {"dspec": dspec, "pieces": around, **ways}


def pieces(drafter, embed, features, turns, state, finish):
    """The block pass with what surrounds attention compiled: norms, products, rotation; output and MLP."""

    def before(layer, hidden, context, rows, slots):
        x, attention = layer.input_layernorm(hidden), layer.self_attn
        queries = rotate(attention.q_norm(attention._heads(attention.q_proj(x))).swapaxes(1, 2), slots)
        pairs = zip(attention.keys_values(context, rows), attention.keys_values(x, slots), strict=True)
        return queries, *(mx.concatenate(pair, axis=2) for pair in pairs)

    def after(layer, hidden, read):
        hidden = hidden + layer.self_attn.o_proj(read.swapaxes(1, 2).flatten(2))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    fuse, end = mx.compile(drafter.fuse), mx.compile(finish)
    layers = [[mx.compile(partial(part, layer)) for part in (before, after)] for layer in drafter.layers]

    def way(number):
        at = START + 2 * number
        rows, slots = ([t[:, :, a:b] for t in turns] for a, b in ((at - 2, at), (at, at + BLOCK)))
        context, hidden = fuse(features), embed()
        for i, (first, last) in enumerate(layers):
            queries, *new = first(hidden, context, rows, slots)
            views = []
            for buffer, fresh in zip(state[2 * i : 2 * i + 2], new, strict=True):
                buffer[:, :, at - 2 : at + BLOCK] = fresh
                views.append(buffer[:, :, : at + BLOCK])
            hidden = last(hidden, attend(queries, *views, None))
        return end(hidden)

    return way


def runs(target):
    """Greedy runs: the next pass laid out and begun after the last token is read, or before."""
    body, cache = target.body, target.body.new_cache(CAPACITY)
    mx.eval(tapped(body, mx.array([PROMPT]), (), cache=cache, stop=False)[0])

    def way(ahead, number):
        cache.rewind(0)
        cache.advance(START - 1)
        found, token, begun = [], mx.array([PROMPT[-1:]]), None
        for _ in range(RUN):
            hidden, _ = tapped(body, token, (), cache=cache, stop=False)
            cache.advance(1)
            token, begun = begun, target.logits(hidden).argmax(axis=-1)
            mx.async_eval(begun)
            found += [token.item()] if ahead and token is not None else [] if ahead else [begun.item()]
            token = begun if ahead else mx.array([found[-1:]])
        found += [begun.item()] if ahead else []
        return mx.array(found), mx.zeros(1)

    return {"dspec": partial(way, False), "ahead": partial(way, True)}


def wider():
    """A target of random weights, 6 layers of width 512."""
    settings = {"hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 1536, "head_dim": 64}
    settings |= {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8192, "rms_norm_eps": 1e-6}
    settings |= {"max_position_embeddings": 4096, "rope_theta": 1e6, "tie_word_embeddings": True}
    mx.random.seed(0)
    model = qwen3.Model(qwen3.ModelArgs(model_type="qwen3", rope_scaling=None, **settings))
    mx.eval(model.parameters())
    return Target(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    found = {}

    def measure(name, ways, clock=time.process_time):
        found[name] = compare(ways, options.repetitions, clock)
        print(name, *(f"\n    {way}: {one}" for way, one in found[name].items()), flush=True)

    for size, target in (("tiny", Target.load(shipped_target())), ("wider", wider())):
        measure(f"target pass, {size}", target_passes(target))
        measure(f"block pass, {size}", block_passes(target))
        measure(f"{RUN} tokens, {size}", runs(target), time.perf_counter)
    for vocabulary in (2048, 151_936):
        for name, settings in VERDICTS.items():
            measure(f"verdict of 15 drafts, V={vocabulary}, {name}", verdicts(vocabulary, *settings))
    if options.json:
        about = {"machine": describe_machine(), "versions": describe_versions()}
        write_json(options.json, {**about, "command": " ".join(sys.argv), "results": found})


if __name__ == "__main__":
    main()
