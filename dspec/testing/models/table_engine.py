"""Engines of tables on any backend's arrays: dspec's whole loop, with a law that is known exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dspec.backends.batch_checks import batch_of
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.core.tree import Tree
from dspec.core.types import Draft, Scores
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.testing.models.worlds import PERIOD, World
from dspec.testing.models.wrapping import Wrapped


def table_engine(world: World, ops: Any = None) -> Engine:
    """Return an engine that decodes in a world, its logits and drafts on a backend's device.

    The engine's own generator, warp, policies, verdicts and loop run as they do for a network; only
    the logits come from a table. The world's settings other than its tables are given at `generate`.

    Spec: RS-1, RS-20.

    Args:
        world: its target and drafter; a target that reads one token back.
        ops: the backend's `ArrayOps`; None: numpy.

    Returns:
        The engine.

    Raises:
        ConfigError: the world's target reads further back than a table does.

    Example:
        >>> from dspec.testing.models.worlds import make_worlds
        >>> table_engine(make_worlds(1, seed=0)[0]).generate([0], max_new_tokens=4).finish
        'eos'
    """
    if world.reach != 1:
        raise ConfigError(explain("world.reach", world.reach, "1"))
    target = TableTarget(laws(_by_read_position(world)), frozenset({world.eos}))
    drafter = TableDrafter(laws(world.drafter_weights), autoregressive=world.kind == "autoregressive")
    return on_backend(Engine(target, drafter, NumpyOps()), ops)


def on_backend(engine: Engine, ops: Any = None) -> Engine:
    """Return an engine of numpy models with its logits, as float32, on another backend's device."""
    if ops is None:
        return engine
    drafter = None if engine.drafter is None else DeviceDrafter(engine.drafter, ops)
    return Engine(DeviceTarget(engine.target, ops), drafter, ops)


def settings_of(world: World) -> dict[str, Any]:
    """Return a world's warp and limit as settings of `Engine.generate`."""
    warp = world.warp
    cuts = {"top_k": warp.top_k, "top_p": float(warp.top_p), "min_p": float(warp.min_p)}
    return {"temperature": float(warp.temperature), "max_new_tokens": world.max_new_tokens, **cuts}


def laws(weights: Any) -> Any:
    """Return a table of weights as a table of laws, float64."""
    table = np.asarray(weights, dtype=np.float64)
    return table / table.sum(axis=-1, keepdims=True)


def _by_read_position(world: World) -> Any:
    """Order the target's tables by the position of the token read, as `TableTarget` counts.

    A world counts the context, which is one longer.
    """
    return [world.target_weights[(index + 1) % PERIOD] for index in range(PERIOD)]


class DeviceTarget:
    """A `TargetModel` whose logits are those of a numpy model, as float32 arrays of a backend."""

    tokenizer: None = None

    def __init__(self, inner: Any, ops: Any) -> None:
        self.inner, self.ops = inner, ops
        self.eos_ids = inner.eos_ids
        self.vocab_size, self.max_positions = inner.vocab_size, inner.max_positions

    def check_trees(self) -> None:
        """Raise if the numpy model reads no trees."""
        self.inner.check_trees()

    def session(self, *, layer_ids: Sequence[int] = (), capacity: int = 0) -> "DeviceScores":
        """Return an empty session."""
        return DeviceScores(self.inner.session(layer_ids=layer_ids, capacity=capacity), self.ops)

    def batch(self, *, rows: int, layer_ids: Sequence[int] = (), capacity: int = 0) -> "DeviceScores | None":
        """Return an empty session of several requests; None if the numpy model has none."""
        inner = batch_of(self.inner)
        opened = None if inner is None else inner(rows=rows, layer_ids=layer_ids, capacity=capacity)
        return None if opened is None else DeviceScores(opened, self.ops)


class DeviceScores(Wrapped):
    """`TargetSession` or `TargetBatch` over one of numpy, logits on the device."""

    def __init__(self, inner: Any, ops: Any) -> None:
        super().__init__(inner)
        self._ops = ops

    def prefill(self, *asked: Any) -> Scores:
        """Read the prompt, in a batch of a row."""
        return _on_device(self._inner.prefill(*asked), self._ops)

    def score(self, anchors: Any, draft_tokens: Any, **rows: int) -> Scores:
        """Read anchor and drafts, in a batch of some rows."""
        return _on_device(self._inner.score(anchors, _to_numpy(draft_tokens, self._ops), **rows), self._ops)

    def score_tree(self, anchor: int, tree: Tree) -> Scores:
        """Read the anchor and the nodes of a tree."""
        return _on_device(self._inner.score_tree(anchor, tree), self._ops)


class DeviceDrafter:
    """A `DrafterModel` whose logits are those of a numpy model, as float32 arrays of a backend."""

    def __init__(self, inner: Any, ops: Any) -> None:
        self.inner, self.ops = inner, ops
        self.block_size, self.layer_ids = inner.block_size, inner.layer_ids

    def session(self, target: Any, *, capacity: int = 0) -> "DeviceDrafts":
        """Return an empty session."""
        inner = self.inner.session(getattr(target, "inner", target), capacity=capacity)
        return DeviceDrafts(inner, self.ops)

    def batch(self, target: Any, *, rows: int, capacity: int = 0) -> "DeviceDrafts | None":
        """Return an empty session of several requests; None if the numpy model has none."""
        inner = batch_of(self.inner)
        if inner is None:
            return None
        opened = inner(getattr(target, "inner", target), rows=rows, capacity=capacity)
        return None if opened is None else DeviceDrafts(opened, self.ops)


class DeviceDrafts(Wrapped):
    """`DrafterSession` or `DrafterBatch` over one of numpy: the rule sees the backend's arrays."""

    def __init__(self, inner: Any, ops: Any) -> None:
        super().__init__(inner)
        self._ops = ops

    def propose(self, *asked: Any, **options: Any) -> Any:
        """Return drafts after the anchor, in a batch of some rows, or the tree that the rule makes."""
        *plain, rule = asked
        return _proposed(self._inner, plain, rule, self._ops, **options)


def _on_device(scores: Scores, ops: Any) -> Scores:
    return Scores(ops.from_host(scores.logits.astype(np.float32)), scores.features)


def _proposed(inner: Any, asked: Sequence[Any], rule: Any, ops: Any, **options: Any) -> Any:
    """Return what a session of numpy proposes, its rule seeing the backend's arrays; a tree has none."""

    def on_device(logits: Any, *first_slot: int) -> Any:
        # Not ascontiguousarray alone: a drafter may hand out a view of what it writes into again.
        draft = rule(ops.from_host(logits.astype(np.float32, order="C")), *first_slot)
        if isinstance(draft, Tree):
            return draft
        probs = None if draft.probs is None else _to_numpy(draft.probs, ops, np.float32)
        return Draft(_to_numpy(draft.tokens, ops), probs)

    draft = inner.propose(*asked, on_device, **options)
    if isinstance(draft, Tree):
        return draft
    probs = None if draft.probs is None else ops.from_host(draft.probs)
    return Draft(ops.from_host(draft.tokens), probs)


def _to_numpy(array: Any, ops: Any, dtype: Any = np.int32) -> Any:
    """Return a device array as numpy; nested lists lose the shape of an empty array."""
    return np.asarray(ops.to_host(array), dtype=dtype).reshape(array.shape)
