"""A block-diffusion language model: dspec's own layers over published weights, opened for sessions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from dspec.backends.hub import fetch_model
from dspec.backends.tokenizer import read_tokenizer
from dspec.backends.torch.block_layers import BlockLayer
from dspec.backends.torch.block_session import BlockSession
from dspec.backends.torch.block_weights import load_weights
from dspec.backends.torch.drafter_layers import Linear, Norm
from dspec.backends.torch.ops import DTYPES, resolve_device, resolve_dtype
from dspec.backends.torch.rotary import Rotary
from dspec.block_config import BlockModelConfig
from dspec.io.block_json import read_block_config
from dspec.io.block_tensors import check_block_tensors, stored_dtype


class BlockDiffusionModel(nn.Module):
    """A frozen block-diffusion language model; implements `protocol.BlockModel`.

    Letters: R rows, P slots, D width, V vocabulary. The weights are on the meta device until they are
    loaded, so that a forgotten one cannot pass.

    Spec: SS-1, SS-3, SS-23.

    Args:
        config: family, shapes, mask token.
        tokenizer: or None.
    """

    def __init__(self, config: BlockModelConfig, *, tokenizer: Any = None) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.eos_ids: frozenset[int] = frozenset(config.eos_ids)
        with torch.device("meta"):
            self.embed_tokens = Linear(config.hidden_size, config.vocab_size)
            self.layers = nn.ModuleList(
                BlockLayer(config, sparse=config.is_sparse(i)) for i in range(config.num_hidden_layers)
            )
            self.norm = Norm(config.hidden_size, config.rms_norm_eps)
            tied = config.tie_word_embeddings
            self.lm_head = None if tied else Linear(config.hidden_size, config.vocab_size)
        # A rotary position knows one width: that of the part it turns.
        self.rotary = Rotary(replace(config, head_dim=config.rotary_dim))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        family: str | None = None,
        mask_token_id: int | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        tokenizer: Any = None,
    ) -> Self:
        """Return the model of a folder or hub id.

        Spec: SS-1, SS-23.

        Args:
            source: folder, or hub id such as "JetLM/SDAR-1.7B-Chat".
            family: one of `FAMILIES`; None: the one whose own config this is.
            mask_token_id: None: the config's, else that of the family's published models.
            device: "auto" | "cuda" | "cpu" | "mps".
            dtype: "auto" (float32 on a CPU, as stored elsewhere) or a name.
            tokenizer: None: the one beside the weights.

        Raises:
            CheckpointError: a file is missing or malformed, or asks for what is not built.
            ConfigError: an unknown setting, or a family or mask token that the config does not give.
            BackendUnavailable: no such device here.
        """
        place = resolve_device(device)
        resolve_dtype(dtype, device=place, stored=None)  # a wrong name costs no download
        folder = fetch_model(source)
        config = read_block_config(folder, family=family, mask_token_id=mask_token_id)
        stored = check_block_tensors(folder, config)
        model = cls(config, tokenizer=read_tokenizer(folder) if tokenizer is None else tokenizer)
        wanted = resolve_dtype(dtype, device=place, stored=DTYPES[stored_dtype(stored, config)])
        load_weights(model, stored, config, device=place, dtype=wanted)
        return model.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.embed_tokens.weight.dtype

    @property
    def mask_id(self) -> int:
        """The token of an undecided position."""
        return self.config.mask_token_id

    @property
    def shifted(self) -> bool:
        """Whether the state at i - 1 predicts token i; otherwise that at i does."""
        return self.config.shifted

    @property
    def block_size(self) -> int:
        """The one it was trained for, or the largest of them."""
        return self.config.block_size

    @property
    def vocab_size(self) -> int:
        """V, the rows of the head."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest sequence the model was made for."""
        return self.config.max_position_embeddings

    def embed(self, ids: Tensor) -> Tensor:
        """Return (R, P, D) embeddings of (R, P) token ids."""
        return functional.embedding(ids, self.embed_tokens.weight)

    def head(self, hidden: Tensor) -> Tensor:
        """Return (..., V) logits of (..., D) final hidden states, in the model's dtype."""
        return (self.embed_tokens if self.lm_head is None else self.lm_head)(hidden)

    def session(self, *, rows: int, capacity: int) -> BlockSession:
        """Return an empty session.

        Args:
            rows: requests.
            capacity: most positions of a row, slots that are not kept included.

        Raises:
            ConfigError: no rows, or no capacity.
        """
        return BlockSession(self, rows=rows, capacity=capacity)


def load_block_model(
    source: str | Path,
    family: str | None = None,
    mask_token_id: int | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    tokenizer: Any = None,
) -> BlockDiffusionModel:
    """Return the block-diffusion model of a folder or hub id; see `BlockDiffusionModel.load`.

    Spec: SS-1, SS-23.
    """
    return BlockDiffusionModel.load(
        source, family=family, mask_token_id=mask_token_id, device=device, dtype=dtype, tokenizer=tokenizer
    )
