"""The target: a causal language model of transformers, frozen, with its parts by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from dspec.backends.layer_ids import check_layer_ids
from dspec.backends.target_digest import stride, target_digest
from dspec.backends.torch.ops import check_placed, resolve_device, resolve_dtype
from dspec.backends.torch.pretrained import group_heads, read_pretrained
from dspec.backends.torch.taps import tapped
from dspec.backends.torch.target_batch import TargetBatch, shared_windows
from dspec.backends.torch.target_checks import check_model
from dspec.backends.torch.target_facts import read_eos_ids, read_facts
from dspec.backends.torch.target_session import TargetSession
from dspec.backends.torch.trees import refuse_unless_trees
from dspec.config import TargetFacts
from dspec.errors import ConfigError, explain


class Target:
    """A frozen causal language model; implements `protocol.TargetModel`.

    Letters: B sequences, S positions, V vocabulary, D width.

    Spec: BD-5, BD-6, DL-8.

    Args:
        model: of transformers; put into evaluation mode, its parameters need no gradient any more.
        tokenizer: or None.
        name: for messages.

    Raises:
        BackendUnavailable: a model that dspec cannot drive exactly; the message says why.
    """

    def __init__(self, model: Any, *, tokenizer: Any = None, name: str = "target") -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.softcap: float | None = getattr(
            model.config.get_text_config(decoder=True), "final_logit_softcapping", None
        )
        self.plain: bool = check_model(model, self.logits)
        self._reads_trees = False  # not tried yet
        self.eos_ids: frozenset[int] = read_eos_ids(model)
        self.facts: TargetFacts = read_facts(model, eos_ids=self.eos_ids, name=name)

    @classmethod
    def load(
        cls,
        source: Any,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        tokenizer: Any = None,
    ) -> Self:
        """Return the target of a folder, a hub id or a loaded model.

        Args:
            source: folder, hub id, or a transformers model, which stays where it is.
            device: "auto" | "cuda" | "cpu" | "mps"; for a loaded model "auto" or its own.
            dtype: "auto" (float32 on a CPU, as stored elsewhere) or a name; likewise.
            tokenizer: None: the one beside the weights; a loaded model then has none.

        Raises:
            CheckpointError: nothing loadable there.
            BackendUnavailable: no such device here, or a model that dspec cannot drive exactly.
            ConfigError: an unknown setting, one that a loaded model contradicts, or no model at all.
        """
        if not isinstance(source, (str, Path)):
            return cls._adopt(source, device, dtype, tokenizer)
        place = resolve_device(device)
        model, beside = read_pretrained(source, dtype=resolve_dtype(dtype, device=place, stored=None))
        if place.type == "cpu":
            group_heads(model)
        name = Path(source).resolve().name if Path(source).is_dir() else str(source)
        return cls(model.to(place), tokenizer=beside if tokenizer is None else tokenizer, name=name)

    @classmethod
    def _adopt(cls, model: Any, device: str | torch.device, dtype: str | torch.dtype, tokenizer: Any) -> Self:
        """A loaded model is the caller's: it is neither moved nor converted."""
        if not hasattr(model, "get_input_embeddings"):
            needed = "a hub id, a folder, or a transformers model"
            raise ConfigError(explain("target", f"a {type(model).__name__}", needed))
        check_placed("model", model.get_input_embeddings().weight, device=device, dtype=dtype)
        return cls(model, tokenizer=tokenizer, name=Path(model.config.name_or_path or "target").name)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.head_weight.dtype

    @property
    def vocab_size(self) -> int:
        """V, the rows of the head."""
        return int(self.head_weight.shape[0])

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the model was made for."""
        config = self.model.config.get_text_config(decoder=True)
        return getattr(config, "max_position_embeddings", None)

    @property
    def head_weight(self) -> Tensor:
        """(V, D) matrix of the head; it needs no gradient."""
        return self.model.get_output_embeddings().weight

    def embed(self, ids: Tensor) -> Tensor:
        """Return (B, S, D) embeddings of (B, S) token ids, as the first layer reads them."""
        with torch.no_grad():
            return self.model.get_input_embeddings()(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) logits of (..., D) final hidden states; gradients reach `hidden`."""
        logits = functional.linear(hidden.to(self.dtype), self.head_weight)
        if self.softcap is None:
            return logits
        return torch.tanh(logits / self.softcap) * self.softcap

    def tap(self, ids: Tensor, layer_ids: Sequence[int]) -> Tensor:
        """Return the features that a drafter reads, without gradient.

        Layers after the deepest tap do not run. Padding on the right changes nothing before it.

        Spec: BD-5.

        Args:
            ids: (B, S) token ids on the target's device.
            layer_ids: 0-based decoder layers.

        Returns:
            (B, S, len(layer_ids) * D), the layers' outputs side by side in the order given.

        Raises:
            ConfigError: no layer ids, or an id that is no layer.
        """
        body = self.model.get_decoder()
        layer_ids = check_layer_ids(layer_ids, len(body.layers), some=True)
        # Not inference mode: its tensors could not take part in a training step.
        with torch.no_grad(), tapped(body.layers, layer_ids, stop=True) as caught:
            body(input_ids=ids, use_cache=False)
        return torch.cat([caught[i] for i in layer_ids], dim=-1)

    def read(self, ids: Tensor, layer_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the features of `tap`, and the final states that the head turns into logits.

        All layers run. Padding on the right changes nothing before it.

        Spec: BD-5, OB-12.

        Args:
            ids: (B, S) token ids on the target's device.
            layer_ids: 0-based decoder layers.

        Returns:
            (B, S, len(layer_ids) * D) features and (B, S, D) states after the final norm; the state at
            a position is what the target says of the next token.

        Raises:
            ConfigError: no layer ids, or an id that is no layer.
        """
        body = self.model.get_decoder()
        layer_ids = check_layer_ids(layer_ids, len(body.layers), some=True)
        with torch.no_grad(), tapped(body.layers, layer_ids, stop=False) as caught:
            final = body(input_ids=ids, use_cache=False).last_hidden_state
        return torch.cat([caught[i] for i in layer_ids], dim=-1), final

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
            refuse_unless_trees(self.model)
            self._reads_trees = True

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
        if shared_windows(self.model.get_decoder().config) is None:
            return None
        return TargetBatch(self, rows=rows, layer_ids=layer_ids, capacity=capacity)

    def digest(self) -> str:
        """Return what tells this target from any other, in every backend; its name does not count."""

        def sampled(weight: Tensor) -> bytes:
            values = weight.detach().flatten()[:: stride(weight.numel())].contiguous()
            return values.view(torch.uint8).cpu().numpy().tobytes()

        weights = sorted(self.model.named_parameters())
        return target_digest(self.facts, self.softcap, ((n, tuple(w.shape), sampled(w)) for n, w in weights))
