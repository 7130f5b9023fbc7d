"""One request's target pass: prefill, score, rewind; or score a tree and keep a path of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from dspec.backends.layer_ids import check_layer_ids
from dspec.backends.mlx.cache import KeyValueCache
from dspec.backends.mlx.nodes import NodeCache
from dspec.backends.mlx.ops import exact_inference
from dspec.backends.mlx.replay import MERGED, Replay
from dspec.backends.mlx.taps import Body, tapped
from dspec.backends.mlx.trees import tree_layout
from dspec.backends.session_checks import check_path, check_prefill, check_score, check_tree
from dspec.core.tree import Tree
from dspec.core.types import Scores

if TYPE_CHECKING:
    from dspec.backends.mlx.target import Target

# Tokens of a prefill pass: bounds the activations of a long prompt.
PREFILL_CHUNK = 2048
# Positions after which MLX gives back the freed buffers that it keeps for reuse. Attention wants a new size
# every pass: over 600 tokens of the tiny model they grew to the 32 MB that MLX's CPU allows, and a Mac's
# limit is of the size of its memory.
TIDY = 256


class TargetSession:
    """The target and its cache, for one request; implements `protocol.TargetSession`.

    Only the tapped layers' outputs are kept, and logits only where they are read. Nothing waits for the
    device but a prompt of several chunks, between them.

    Spec: DL-4, DL-6, DL-8, DL-11, NU-6.

    Args:
        target: the model.
        layer_ids: tapped layers; () gives no features.
        capacity: most positions held.
        chunk: tokens of a prefill pass.

    Raises:
        ConfigError: an id that is no layer, or no capacity.
    """

    def __init__(
        self, target: Target, *, layer_ids: Sequence[int], capacity: int, chunk: int = PREFILL_CHUNK
    ) -> None:
        self._target = target
        self._layer_ids = check_layer_ids(layer_ids, len(target.body.layers))
        self._cache = target.body.new_cache(capacity)
        self._replay = Replay(self._cache.recurrent, capacity=capacity)
        self._chunk = chunk
        self._tidied = 0
        self._tree: Tree | None = None  # scored and not yet kept
        self._features: mx.array | None = None  # of the last pass, until its verdict is read

    @property
    def length(self) -> int:
        """Committed positions in the cache."""
        return self._cache.length

    def prefill(self, tokens: Sequence[int]) -> Scores:
        """Read tokens after those read before.

        Args:
            tokens: at least one id in [0, V).

        Returns:
            Logits (1, 1, V) after the last of them, features (1, len(tokens), F) of all, or None.

        Raises:
            ShapeError: no tokens, or an id outside the vocabulary.
            ConfigError: more positions than the capacity.
        """
        check_prefill(tokens, vocab_size=self._target.vocab_size)
        ids = mx.array(list(tokens), dtype=mx.int32)[None]
        start, features = self.length, []
        with exact_inference():
            try:
                for first in range(0, ids.shape[1], self._chunk):
                    # Unevaluated, the passes of all chunks would be in memory together.
                    mx.eval(features, self._cache.arrays)
                    hidden, tapped_states = self._read(ids[:, first : first + self._chunk])
                    features.append(tapped_states)
            except BaseException:
                self._cache.rewind(start)  # a failing call leaves no half of a prompt
                raise
            logits = self._target.logits(hidden[:, -1:])
            joined = mx.concatenate(features, axis=1) if self._layer_ids else None
            self._begin(joined)
            return Scores(logits, joined)

    def score(self, anchor: int, draft_tokens: mx.array) -> Scores:
        """Read the anchor and the drafts after it.

        Args:
            anchor: id in [0, V).
            draft_tokens: (1, K) integer ids; K may be 0.

        Returns:
            Logits (1, K + 1, V), features (1, K + 1, F) or None.

        Raises:
            ShapeError: drafts that are not (1, K), or an anchor outside the vocabulary.
            ConfigError: more positions than the capacity.
        """
        check_score(anchor, draft_tokens, vocab_size=self._target.vocab_size)
        with exact_inference():
            first = mx.full((1, 1), anchor, dtype=mx.int32)
            ids = mx.concatenate([first, draft_tokens.astype(mx.int32)], axis=1)
            hidden, features = self._read(ids)
            self._features = features
            return Scores(self._target.logits(hidden), features)

    def score_tree(self, anchor: int, tree: Tree) -> Scores:
        """Read the anchor and the nodes of a tree after it; nothing is committed before `keep`.

        Args:
            anchor: id in [0, V).
            tree: its N nodes.

        Returns:
            Logits (1, N + 1, V), row i after node i, features (1, N + 1, F) or None.

        Raises:
            ShapeError: no tree, or an id outside the vocabulary.
            ConfigError: more positions than the capacity.
            BackendUnavailable: the model reads no trees.
        """
        check_tree(anchor, tree, vocab_size=self._target.vocab_size)
        body = self._target.tree_body
        with exact_inference():
            positions, masks = tree_layout(body, tree, self.length)
            ids = mx.array([[anchor, *tree.tokens]], dtype=mx.int32)
            hidden, features = self._run(body, ids, NodeCache(self._cache, positions), masks=masks)
            self._tree, self._features = tree, features
            return Scores(self._target.logits(hidden), features)

    def keep(self, path: Sequence[int]) -> mx.array | None:
        """Commit the anchor and some nodes of the tree that was scored last, and forget the others.

        Args:
            path: node numbers, a way down from the anchor, which is not listed; () keeps it alone.

        Returns:
            Features (1, len(path) + 1, F) of anchor and path, or None.

        Raises:
            ShapeError: no such way, or no tree was scored just before.
        """
        check_path(path, self._tree)
        features, self._tree = self._features, None
        with exact_inference():
            self._cache.gather(path)
            self._cache.advance(len(path) + 1)
            kept = None if features is None else features[:, mx.array([0, *path])]
            self._begin(kept)
            self._tidy()
            return kept

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self._tree = None
        self._cache.rewind(length)
        self._begin(self._features)
        self._tidy()

    def _tidy(self) -> None:
        """Have MLX give back what it keeps, now and then."""
        if self.length - self._tidied >= TIDY:
            mx.clear_cache()
        if not 0 <= self.length - self._tidied < TIDY:
            self._tidied = self.length

    def _begin(self, features: mx.array | None) -> None:
        """Begin what outlives a pass and its verdict does not read; do not wait for it.

        MLX ties what is lazy to the thread that laid it out: a stream could not go on in another one.
        """
        mx.async_eval(features, self._replay.arrays)
        self._features = None

    def _read(self, ids: mx.array) -> tuple[mx.array, mx.array | None]:
        """Read new positions; where layers are recurrent, after what a rewind made them forget."""
        if not self._replay.needed:
            return self._read_on(ids)
        length = self.length
        plan = self._replay.begin(length)
        self._cache.rewind(plan.start)
        try:
            again = self._replay.tokens(plan)
            if again.shape[1] > MERGED:
                self._read_again(again)
                self._replay.commit(again[:, :0], plan)
                plan = self._replay.begin(length)
                again = again[:, :0]
            hidden, features = self._read_on(mx.concatenate([again, ids], axis=1))
        except BaseException:
            self._cache.advance(length - self.length)  # the positions before it hold what they held
            raise
        self._replay.commit(ids, plan)
        skip = again.shape[1]
        return hidden[:, skip:], None if features is None else features[:, skip:]

    def _read_again(self, ids: mx.array) -> None:
        """Read kept tokens for the states alone, in parts as a prompt is."""
        for first in range(0, ids.shape[1], self._chunk):
            self._read_on(ids[:, first : first + self._chunk])
            mx.async_eval(self._cache.arrays)  # begun, so that it is not one graph; not waited for

    def _read_on(self, ids: mx.array) -> tuple[mx.array, mx.array | None]:
        """Run the body over new positions; commit them once the pass has been laid out."""
        found = self._run(self._target.body, ids, self._cache)
        self._cache.advance(ids.shape[1])
        return found

    def _run(
        self,
        body: Body,
        ids: mx.array,
        cache: KeyValueCache | NodeCache,
        *,
        masks: Mapping[int | None, mx.array] | None = None,
    ) -> tuple[mx.array, mx.array | None]:
        """Run a body over ids; their keys and values stand after the committed ones."""
        self._tree = self._features = None  # its rows are overwritten
        hidden, caught = tapped(body, ids, self._layer_ids, cache=cache, stop=False, masks=masks)
        features = mx.concatenate([caught[i] for i in self._layer_ids], axis=-1) if self._layer_ids else None
        return hidden, features
