"""Engines of tables on any backend's arrays: dspec's whole loop, with a law that is known exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dspec.backends.numpy import TableDrafter, TableTarget
from dspec.core.types import Draft, Scores
from dspec.engine import Engine
from dspec.testing.worlds import PERIOD, World


def table_engine(world: World, ops: Any) -> Engine:
    """Return an engine that decodes in a world, its logits and drafts on the backend's device.

    The engine's own generator, warp, policies, verdicts and loop run as they do for a network; only
    the logits come from a table. The world's settings other than its tables are given at `generate`.

    Spec: RS-1, RS-20.

    Args:
        world: its target and drafter.
        ops: the backend's `ArrayOps`.

    Returns:
        The engine.

    Example:
        >>> from dspec.backends.numpy import NumpyOps
        >>> from dspec.testing.worlds import make_worlds
        >>> engine = table_engine(make_worlds(1, seed=0)[0], NumpyOps())
        >>> engine.generate([0], max_new_tokens=4).finish
        'eos'
    """
    target = TableTarget(laws(_by_read_position(world)), frozenset({world.eos}))
    drafter = TableDrafter(laws(world.drafter_weights), autoregressive=world.kind == "autoregressive")
    return Engine(DeviceTarget(target, ops), DeviceDrafter(drafter, ops), ops)


def settings_of(world: World) -> dict[str, Any]:
    """Return a world's warp as settings of `Engine.generate`."""
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
    """A `TargetModel` whose logits are a table's, as float32 arrays of a backend."""

    tokenizer: None = None

    def __init__(self, inner: TableTarget, ops: Any) -> None:
        self.inner, self.ops = inner, ops
        self.eos_ids = inner.eos_ids
        self.vocab_size, self.max_positions = inner.vocab_size, None

    def session(self, *, layer_ids: Sequence[int] = (), capacity: int = 0) -> "DeviceTargetSession":
        """Return an empty session."""
        return DeviceTargetSession(self.inner.session(), self.ops)


class DeviceTargetSession:
    """`TargetSession` over a table's, arrays on the device."""

    def __init__(self, inner: Any, ops: Any) -> None:
        self._inner, self._ops = inner, ops

    @property
    def length(self) -> int:
        """Committed positions."""
        return self._inner.length

    def prefill(self, tokens: Sequence[int]) -> Scores:
        """Read the prompt."""
        return self._on_device(self._inner.prefill(tokens))

    def score(self, anchor: int, draft_tokens: Any) -> Scores:
        """Read anchor and drafts."""
        shape = draft_tokens.shape
        drafts = np.asarray(self._ops.to_host(draft_tokens), dtype=np.int64).reshape(shape)
        return self._on_device(self._inner.score(anchor, drafts))

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self._inner.rewind(length)

    def _on_device(self, scores: Scores) -> Scores:
        return Scores(self._ops.from_host(scores.logits.astype(np.float32)), scores.features)


class DeviceDrafter:
    """A `DrafterModel` whose logits are a table's, as float32 arrays of a backend."""

    layer_ids: tuple[int, ...] = ()

    def __init__(self, inner: TableDrafter, ops: Any) -> None:
        self.inner, self.ops = inner, ops
        self.block_size = inner.block_size

    def session(self, target: Any, *, capacity: int = 0) -> "DeviceDrafterSession":
        """Return an empty session."""
        return DeviceDrafterSession(self)


class DeviceDrafterSession:
    """`DrafterSession` over a table, arrays on the device."""

    def __init__(self, drafter: DeviceDrafter) -> None:
        self._drafter = drafter
        self.length = 0

    def propose(self, anchor: int, position: int, features: Any, rule: Any) -> Draft:
        """Return K drafts after the anchor."""
        self.length = position
        inner, ops = self._drafter.inner, self._drafter.ops
        with np.errstate(divide="ignore"):  # log 0 = -inf is what a table's zero means
            logits = np.log(inner.table).astype(np.float32)
        if not inner.autoregressive:
            return rule(ops.from_host(np.ascontiguousarray(logits[None, :, anchor])))
        drafts: list[Draft] = []
        token = anchor
        for slot in range(len(logits)):
            drafts.append(
                rule(ops.from_host(np.ascontiguousarray(logits[None, slot : slot + 1, token])), slot)
            )
            token = int(ops.to_host(drafts[-1].tokens)[0][0])
        probs = None
        if drafts[0].probs is not None:
            probs = ops.xp.concat([draft.probs for draft in drafts], axis=1)
        return Draft(ops.xp.concat([draft.tokens for draft in drafts], axis=1), probs)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self.length = length
