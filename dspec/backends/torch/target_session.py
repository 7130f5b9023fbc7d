"""One request's target pass: prefill, score, rewind; or score a tree and keep a path of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dspec.backends.layer_ids import check_layer_ids
from dspec.backends.session_checks import check_path, check_prefill, check_score, check_tree
from dspec.backends.torch.cache import KeyValueCache
from dspec.backends.torch.ops import exact_inference
from dspec.backends.torch.taps import read_body
from dspec.backends.torch.trees import tree_layout
from dspec.core.tree import Tree
from dspec.core.types import Scores

if TYPE_CHECKING:
    from dspec.backends.torch.target import Target

# Tokens of a prefill pass: bounds the activations of a long prompt.
PREFILL_CHUNK = 2048


class TargetSession:
    """The target and its cache, for one request; implements `protocol.TargetSession`.

    Only the tapped layers' outputs are kept, and logits only where they are read. Nothing inside
    waits for the device.

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
        self._body = target.model.get_decoder()
        self._layer_ids = check_layer_ids(layer_ids, len(self._body.layers))
        self._cache = KeyValueCache(len(self._body.layers), capacity=capacity)
        self._chunk = chunk
        self._tree: Tree | None = None  # scored and not yet kept
        self._features: Tensor | None = None  # of its nodes

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
        ids = torch.tensor(list(tokens), dtype=torch.int64, device=self._target.device)[None]
        start, features = self.length, []
        with exact_inference():
            try:
                for part in ids.split(self._chunk, dim=1):
                    hidden, tapped_states = self._read(part)
                    features.append(tapped_states)
            except BaseException:
                self.rewind(start)  # a failing call leaves no half of a prompt
                raise
            logits = self._target.logits(hidden[:, -1:])
            return Scores(logits, torch.cat(features, dim=1) if self._layer_ids else None)

    def score(self, anchor: int, draft_tokens: Tensor) -> Scores:
        """Read the anchor and the drafts after it.

        Args:
            anchor: id in [0, V).
            draft_tokens: (1, K) integer ids on the target's device; K may be 0.

        Returns:
            Logits (1, K + 1, V), features (1, K + 1, F) or None.

        Raises:
            ShapeError: drafts that are not (1, K), or an anchor outside the vocabulary.
            ConfigError: more positions than the capacity.
        """
        check_score(anchor, draft_tokens, vocab_size=self._target.vocab_size)
        with exact_inference():
            # Filled on the device: a copy of a host number would wait for the queue.
            first = torch.full((1, 1), anchor, dtype=torch.int64, device=self._target.device)
            hidden, features = self._read(torch.cat([first, draft_tokens.to(torch.int64)], dim=1))
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
        """
        check_tree(anchor, tree, vocab_size=self._target.vocab_size)
        with exact_inference():
            ids = torch.tensor([[anchor, *tree.tokens]], device=self._target.device)
            hidden, features = self._run(ids, **tree_layout(self._target.model, tree, self.length))
            self._tree, self._features = tree, features
            return Scores(self._target.logits(hidden), features)

    def keep(self, path: Sequence[int]) -> Tensor | None:
        """Commit the anchor and some nodes of the tree that was scored last, and forget the others.

        Args:
            path: node numbers, a way down from the anchor, which is not listed; () keeps it alone.

        Returns:
            Features (1, len(path) + 1, F) of anchor and path, or None.

        Raises:
            ShapeError: no such way, or no tree was scored just before.
        """
        check_path(path, self._tree)
        features, self._tree, self._features = self._features, None, None
        with exact_inference():
            rows = torch.tensor([0, *path], device=self._target.device)
            self._cache.gather(path, rows[1:])
            self._cache.advance(len(path) + 1)
            return None if features is None else features[:, rows]

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self._tree = self._features = None
        self._cache.rewind(length)

    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the body over new positions; commit them once the pass has finished."""
        found = self._run(ids)
        self._cache.advance(ids.shape[1])
        return found

    def _run(self, ids: Tensor, **layout: Any) -> tuple[Tensor, Tensor | None]:
        """Run the body over ids; their keys and values stand after the committed ones."""
        self._tree = self._features = None  # its rows are overwritten
        plain = self._target.plain
        hidden, caught = read_body(self._body, ids, self._cache, self._layer_ids, plain=plain, **layout)
        features = torch.cat([caught[i] for i in self._layer_ids], dim=-1) if self._layer_ids else None
        return hidden, features
