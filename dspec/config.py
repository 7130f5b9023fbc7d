"""The settings of a drafter, of its target and of a training run: typed, validated, immutable."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dspec.errors import ConfigError, explain
from dspec.rules import (
    BETAS,
    DTYPES,
    FLAG,
    LAYERS,
    MAPPING,
    ROPE,
    TEXT,
    TOKEN,
    TOKENS,
    check,
    choice,
    integer,
    number,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """What a drafter and the engine must know of the target; read from its config by the backend.

    Args:
        vocab_size: rows of the embedding and of the head, V (may exceed the tokenizer's tokens).
        num_layers: decoder layers.
        intermediate_size: width of a dense MLP; the default width of a new drafter's.
        eos_token_ids: every token that ends a text.
        dtype: of the weights as loaded.
        name: hub id or folder name, for messages.
    """

    hidden_size: int = setting(integer(1), "width D of the hidden states")
    vocab_size: int = setting(integer(1), "rows of the embedding and the head")
    num_layers: int = setting(integer(1, bits=10), "decoder layers")
    intermediate_size: int = setting(integer(1), "width of the MLP")
    num_attention_heads: int = setting(integer(1), "query heads")
    num_key_value_heads: int = setting(integer(1), "key and value heads")
    head_dim: int = setting(integer(1), "width of a head")
    rms_norm_eps: float = setting(number(0, above=True), "epsilon of the norms", 1e-6)
    rope_theta: float = setting(number(0, above=True), "base of the rotary positions", 1e6)
    rope_scaling: Mapping[str, Any] | None = setting(MAPPING, "scaling of the positions", None, hash=False)
    max_position_embeddings: int = setting(integer(1), "longest sequence", 40960)
    bos_token_id: int | None = setting(TOKEN, "begins a text", None)
    eos_token_ids: tuple[int, ...] = setting(TOKENS, "end a text", ())
    pad_token_id: int | None = setting(TOKEN, "pads a batch", None)
    tie_word_embeddings: bool = setting(FLAG, "head and embedding are one", False)
    dtype: str = setting(choice(*DTYPES), "of the weights", "float32")
    name: str = setting(TEXT, "for messages", "target")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DrafterConfig:
    """The shape of a DFlash v1 drafter and what it was made for.

    Slot 0 of a block is the anchor; the K = block_size - 1 others are drafted. Embedding and head
    are the target's.

    Spec: BD-1, BD-5, BD-7.

    Args:
        target_layer_ids: tapped decoder layers of the target, 0-based, strictly increasing.
        extra: keys of config.json that change nothing here, kept so that a file round-trips.

    Raises:
        ConfigError: a value is out of range or does not fit another.

    Example:
        >>> facts = TargetFacts(hidden_size=64, vocab_size=300, num_layers=6, intermediate_size=160,
        ...                     num_attention_heads=4, num_key_value_heads=2, head_dim=24)
        >>> config = DrafterConfig.for_target(facts, block_size=8, layers=2, mask_token_id=299,
        ...                                   target_layer_ids=(1, 3, 4))
        >>> config.num_slots, config.feature_size
        (7, 192)
    """

    hidden_size: int = setting(integer(1), "width D, the target's")
    intermediate_size: int = setting(integer(1), "width of the MLP")
    num_hidden_layers: int = setting(integer(1, bits=10), "layers of the drafter")
    num_attention_heads: int = setting(integer(1), "query heads")
    num_key_value_heads: int = setting(integer(1), "key and value heads")
    head_dim: int = setting(integer(1), "width of a head")
    vocab_size: int = setting(integer(1), "the target's")
    block_size: int = setting(integer(2), "anchor and drafted slots, 1 + K")
    mask_token_id: int = setting(integer(0), "fills the drafted slots; a row of the target's embedding")
    target_layer_ids: tuple[int, ...] = setting(LAYERS, "tapped layers of the target")
    num_target_layers: int = setting(integer(1, bits=10), "layers of the target")
    rms_norm_eps: float = setting(number(0, above=True), "epsilon of the norms", 1e-6)
    rope_theta: float = setting(number(0, above=True), "base of the rotary positions", 1e6)
    rope_scaling: Mapping[str, Any] | None = setting(ROPE, "scaling of the positions", None, hash=False)
    max_position_embeddings: int = setting(integer(1), "longest sequence", 40960)
    dtype: str = setting(choice(*DTYPES), "of the stored weights", "bfloat16")
    bos_token_id: int | None = setting(TOKEN, "the target's", None)
    eos_token_id: int | tuple[int, ...] | None = setting(TOKENS, "the target's", None)
    pad_token_id: int | None = setting(TOKEN, "the target's", None)
    tie_word_embeddings: bool = setting(FLAG, "the target's; the drafter stores neither", False)
    initializer_range: float = setting(number(0, above=True), "std of new weights", 0.02)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check(self)
        heads, groups, last = self.num_attention_heads, self.num_key_value_heads, self.target_layer_ids[-1]
        relations = (
            (
                "num_attention_heads",
                heads,
                heads % groups == 0,
                f"a multiple of {groups} key and value heads",
            ),
            (
                "head_dim",
                self.head_dim,
                self.head_dim % 2 == 0,
                "an even number (rotary positions turn pairs)",
            ),
            (
                "mask_token_id",
                self.mask_token_id,
                self.mask_token_id < self.vocab_size,
                f"< {self.vocab_size}",
            ),
            ("target_layer_ids", last, last < self.num_target_layers, f"ids < {self.num_target_layers}"),
        )
        for name, got, ok, needed in relations:
            if not ok:
                raise ConfigError(explain(name, got, needed, clause="BD-7"))

    @property
    def num_slots(self) -> int:
        """K, the drafted slots of a block."""
        return self.block_size - 1

    @property
    def feature_size(self) -> int:
        """Width of the concatenated tapped states that `fc` reads."""
        return self.hidden_size * len(self.target_layer_ids)

    @classmethod
    def for_target(
        cls,
        facts: TargetFacts,
        *,
        block_size: int,
        layers: int,
        mask_token_id: int,
        target_layer_ids: tuple[int, ...] | None = None,
    ) -> Self:
        """Return the config of a new drafter for a target, with the target's own widths.

        Args:
            facts: of the target.
            block_size: 1 + K, >= 2.
            layers: of the drafter, >= 1.
            mask_token_id: in [0, V).
            target_layer_ids: tapped layers; None: spread by `core.blocks.default_target_layers`.
        """
        if target_layer_ids is None:
            # Inside the function: core imports this file.
            from dspec.core.blocks import default_target_layers

            target_layer_ids = default_target_layers(facts.num_layers, layers)
        own = {f.name for f in dataclasses.fields(cls)} & {f.name for f in dataclasses.fields(facts)}
        shared = {name: getattr(facts, name) for name in own}
        if (facts.rope_scaling or {}).get("rope_type") == "default":
            shared["rope_scaling"] = None  # transformers 5 spells "no scaling" so
        eos = facts.eos_token_ids
        return cls(
            **shared,
            num_hidden_layers=layers,
            num_target_layers=facts.num_layers,
            block_size=block_size,
            mask_token_id=mask_token_id,
            target_layer_ids=tuple(target_layer_ids),
            eos_token_id=eos[0] if len(eos) == 1 else eos or None,
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of a training run: a field, a command line option and a TOML key each.

    `metadata["help"]` of a field is its help text.

    Raises:
        ConfigError: a value is out of range; the message names the field.

    Example:
        >>> TrainConfig(steps=50).replace(objective="dflash").objective
        'dflash'
    """

    block_size: int = setting(integer(2), "anchor and drafted slots of a block", 16)
    layers: int = setting(integer(1, bits=10), "layers of the drafter", 5)
    target_layer_ids: tuple[int, ...] | None = setting(
        LAYERS.or_none(), "tapped layers of the target; none: spread", None
    )
    mask_token_id: int | None = setting(TOKEN, "token of a drafted slot; none: the target's spare one", None)
    objective: str = setting(TEXT, "a preset, or terms such as decay(10)+chain(40)", "ltr")
    reduction: str = setting(choice("block_sum", "weighted_mean"), "how blocks are averaged", "block_sum")
    steps: int = setting(integer(1), "optimizer steps", 1000)
    batch_size: int = setting(integer(1), "sequences per optimizer step", 8)
    accumulation: int = setting(integer(1), "micro-batches per step; divides batch_size", 1)
    seq_len: int = setting(integer(2), "longest sequence, in tokens", 512)
    anchors: int = setting(integer(1), "random blocks per sequence", 64)
    lr: float = setting(number(0, above=True), "peak learning rate", 6e-4)
    warmup: float = setting(number(0, 1), "share of the steps that warm up", 0.04)
    weight_decay: float = setting(number(0), "of AdamW", 0.0)
    betas: tuple[float, float] = setting(BETAS, "of AdamW", (0.9, 0.999))
    clip: float = setting(number(0, above=True), "largest norm of the gradient", 1.0)
    seed: int = setting(integer(0, bits=64), "of weights, order and anchors", 0)
    save_every: int = setting(integer(0), "steps between checkpoints; 0: only at the end", 0)
    validate_every: int = setting(integer(0), "steps between validations; 0: only at the end", 100)
    validate_examples: int = setting(integer(0), "examples held out of the data for validation", 64)
    resume: bool = setting(FLAG, "go on from the newest checkpoint of the output folder", True)
    precision: str = setting(
        choice("auto", "float32", "bfloat16"),
        "of products; auto: bfloat16 on CUDA, and on Metal with MLX",
        "auto",
    )
    skip: float = setting(
        number(0, 1), "leave rows of less than this share of the largest weight out of the gradient", 0.0
    )
    recompute: bool = setting(FLAG, "make activations again in the backward: less memory, slower", False)
    backend: str = setting(choice("auto", "cuda", "cpu", "mps", "mlx"), "auto, cuda, cpu, mps or mlx", "auto")

    def __post_init__(self) -> None:
        check(self)
        if self.batch_size % self.accumulation:
            needed = f"a multiple of accumulation ({self.accumulation})"
            raise ConfigError(explain("batch_size", self.batch_size, needed))
        if self.block_size > self.seq_len:
            raise ConfigError(explain("block_size", self.block_size, f"<= seq_len ({self.seq_len})"))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some settings changed; an unknown name is a ConfigError."""
        return type(self).from_mapping({**self.as_dict(), **changes}, where="settings")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, in the order of the fields."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Return the settings of a mapping; `where` names it in errors."""
        names = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f"Did you mean {close[0]}?" if close else "Allowed: " + ", ".join(names) + "."
                raise ConfigError(explain(where, f"the key {key!r}", "known keys", remedy=hint))
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Return the settings of a TOML file of top-level keys, each the name of a field."""
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(explain(str(path), str(error), "a readable TOML file")) from error
        return cls.from_mapping(values, where=str(path))
