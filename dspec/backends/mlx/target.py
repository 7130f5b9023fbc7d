"""The target: a causal language model of mlx-lm, frozen, with its parts by name."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dspec.backends.layer_ids import check_layer_ids
from dspec.backends.mlx.head import Head
from dspec.backends.mlx.model_kinds import inner, kind_of, recurrent_of, windows_of
from dspec.backends.mlx.ops import check_placed, resolve_device
from dspec.backends.mlx.pretrained import read_pretrained
from dspec.backends.mlx.taps import Body, tapped
from dspec.backends.mlx.target_batch import TargetBatch, shared_windows
from dspec.backends.mlx.target_checks import check_built, check_model, refuse_exact_gelu
from dspec.backends.mlx.target_facts import read_config_of, read_eos_ids, read_facts
from dspec.backends.mlx.target_session import TargetSession
from dspec.backends.mlx.trees import refuse_unless_trees, tree_body
from dspec.backends.target_digest import stride, target_digest
from dspec.config import TargetFacts
from dspec.errors import ConfigError, explain


class Target:
    """A frozen causal language model; implements `protocol.TargetModel`.

    Letters: B sequences, S positions, V vocabulary, D width.

    Spec: BD-5, BD-6, DL-8.

    Args:
        model: of mlx-lm; put into evaluation mode, and frozen.
        tokenizer: or None.
        name: for messages.
        config: values of its config.json; None: what the model was built of is its config.

    Raises:
        BackendUnavailable: a model that dspec cannot drive exactly; the message says why.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        name: str = "target",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._config = read_config_of(model, config)
        if config is not None:
            refuse_exact_gelu(model, self._config)
        windows = windows_of(self._config)
        check_built(model, self._config, windows)
        self.model = model.eval()
        model.freeze()
        self.tokenizer = tokenizer
        self.softcap: float | None = getattr(self._config, "final_logit_softcapping", None)
        self.body = _body(model, self._config, windows)
        self.head = Head(getattr(inner(model), "lm_head", None) or model.model.embed_tokens)
        check_model(model, self.body, self.logits)
        self._reads_trees = False  # not tried yet
        self.eos_ids: frozenset[int] = read_eos_ids(self._config, config)
        self.facts: TargetFacts = read_facts(
            self._config, self.head, num_layers=len(self.body.layers), eos_ids=self.eos_ids, name=name
        )

    @classmethod
    def load(
        cls, source: Any, *, device: str = "auto", dtype: str | mx.Dtype = "auto", tokenizer: Any = None
    ) -> Self:
        """Return the target of a folder, a hub id or a loaded model.

        Args:
            source: folder, hub id, or an mlx-lm model.
            device: "auto" or "mlx".
            dtype: "auto" (float32 where MLX runs on the CPU, as stored on Metal) or a name; for a loaded
                or a quantised model "auto" or its own.
            tokenizer: None: the one beside the weights; a loaded model then has none.

        Raises:
            CheckpointError: nothing loadable there.
            BackendUnavailable: a model that dspec cannot drive exactly.
            ConfigError: an unknown setting, one that a loaded model contradicts, or no model at all.
        """
        if not isinstance(source, (str, Path)):
            return cls._adopt(source, device, dtype, tokenizer)
        resolve_device(device)
        model, beside, config = read_pretrained(source, dtype=dtype)
        name = Path(source).resolve().name if Path(source).is_dir() else str(source)
        return cls(model, tokenizer=beside if tokenizer is None else tokenizer, name=name, config=config)

    @classmethod
    def _adopt(cls, model: Any, device: str, dtype: str | mx.Dtype, tokenizer: Any) -> Self:
        """A loaded model is the caller's: it is not converted."""
        if not isinstance(model, nn.Module) or not hasattr(model, "args"):
            needed = "a hub id, a folder, or an mlx-lm model"
            raise ConfigError(explain("target", f"a {type(model).__name__}", needed))
        target = cls(model, tokenizer=tokenizer)
        check_placed("model", target.dtype, device=device, dtype_asked=dtype)
        return target

    @property
    def device(self) -> str:
        """Where the weights are: MLX has one device."""
        return "mlx"

    @property
    def dtype(self) -> mx.Dtype:
        """Of the weights; of quantised ones, of what they are multiplied in."""
        return self.head.dtype

    @property
    def vocab_size(self) -> int:
        """V, the rows of the head."""
        return self.head.shape[0]

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the model was made for."""
        return getattr(self._config, "max_position_embeddings", None)

    @property
    def head_weight(self) -> mx.array:
        """(V, D) matrix of the head; of a quantised one it is unpacked anew on each call."""
        return self.head.weight

    def embed(self, ids: mx.array) -> mx.array:
        """Return (B, S, D) embeddings of (B, S) token ids, as the first layer reads them."""
        return mx.stop_gradient(self.body.embed(ids))

    def logits(self, hidden: mx.array) -> mx.array:
        """Return (..., V) logits of (..., D) final hidden states; gradients reach `hidden`."""
        logits = self.head.logits(hidden)
        if self.softcap is None:
            return logits
        return mx.tanh(logits / self.softcap) * self.softcap

    def tap(self, ids: mx.array, layer_ids: Sequence[int]) -> mx.array:
        """Return the features that a drafter reads, without gradient.

        Layers after the deepest tap do not run. Padding on the right changes nothing before it.

        Spec: BD-5.

        Args:
            ids: (B, S) token ids.
            layer_ids: 0-based decoder layers.

        Returns:
            (B, S, len(layer_ids) * D), the layers' outputs side by side in the order given.

        Raises:
            ConfigError: no layer ids, or an id that is no layer.
        """
        layer_ids = check_layer_ids(layer_ids, len(self.body.layers), some=True)
        _, caught = tapped(self.body, ids, layer_ids, stop=True)
        return mx.stop_gradient(mx.concatenate([caught[i] for i in layer_ids], axis=-1))

    def read(self, ids: mx.array, layer_ids: Sequence[int]) -> tuple[mx.array, mx.array]:
        """Return the features of `tap`, and the final states that the head turns into logits.

        All layers run. Padding on the right changes nothing before it.

        Spec: BD-5, OB-12.

        Args:
            ids: (B, S) token ids.
            layer_ids: 0-based decoder layers.

        Returns:
            (B, S, len(layer_ids) * D) features and (B, S, D) states after the final norm; the state at
            a position is what the target says of the next token.

        Raises:
            ConfigError: no layer ids, or an id that is no layer.
        """
        layer_ids = check_layer_ids(layer_ids, len(self.body.layers), some=True)
        final, caught = tapped(self.body, ids, layer_ids, stop=False)
        features = mx.concatenate([caught[i] for i in layer_ids], axis=-1)
        return mx.stop_gradient(features), mx.stop_gradient(final)

    def session(self, *, layer_ids: Sequence[int] = (), capacity: int) -> TargetSession:
        """Return an empty session for one request.

        Args:
            layer_ids: decoder layers whose outputs the drafter reads; () gives no features.
            capacity: most positions it will hold, drafts included.

        Raises:
            ConfigError: an id that is no layer, or no capacity.
        """
        return TargetSession(self, layer_ids=layer_ids, capacity=capacity)

    def check_trees(self) -> None:
        """Raise unless sessions read draft trees; the model is tried once.

        Spec: DL-11.

        Raises:
            BackendUnavailable: they do not; the message says why.
        """
        if not self._reads_trees:
            refuse_unless_trees(self.body)
            self._reads_trees = True

    @cached_property
    def tree_body(self) -> Body:
        """The layers as they run over the nodes of a tree."""
        return tree_body(self.body)

    def batch(self, *, rows: int, layer_ids: Sequence[int] = (), capacity: int) -> TargetBatch | None:
        """Return an empty session for several requests; None where rows of this model cannot share a pass.

        Spec: DL-12.

        Args:
            rows: requests side by side.
            layer_ids: decoder layers whose outputs the drafter reads; () gives no features.
            capacity: most positions of a row, drafts included.

        Raises:
            ConfigError: an id that is no layer, no rows, or no capacity.
        """
        if shared_windows(self.body) is None:
            return None
        return TargetBatch(self, rows=rows, layer_ids=layer_ids, capacity=capacity)

    def digest(self) -> str:
        """Return what tells this target from any other, in every backend; its name does not count."""

        def sampled(weight: mx.array) -> bytes:
            values = mx.contiguous(weight.reshape(-1)[:: stride(weight.size)])
            return bytes(memoryview(values.view(mx.uint8)))

        weights = sorted(tree_flatten(self.model.parameters()))
        return target_digest(self.facts, self.softcap, ((n, tuple(w.shape), sampled(w)) for n, w in weights))


def _body(model: Any, config: Any, windows: tuple[int | None, ...]) -> Body:
    """The model's own modules, by reference."""
    kind = kind_of(config.model_type)
    return Body(
        embedding=model.model.embed_tokens,
        layers=tuple(model.model.layers),
        norm=model.model.norm,
        windows=windows,
        recurrent=recurrent_of(config),
        scale=config.hidden_size**0.5 if kind.scaled else None,
        array_masks=kind.array_masks,
    )
