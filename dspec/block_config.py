"""The shape of a block-diffusion language model: typed, validated, immutable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspec.errors import ConfigError, explain
from dspec.rules import DTYPES, FLAG, ROPE, TOKENS, Rule, check, choice, integer, number, setting

FAMILIES = ("sdar", "fast_dllm_v2", "llada2")
# Families whose state at i - 1 predicts token i.
SHIFTED = ("fast_dllm_v2",)
# The mask token and the block size of a family's published models, where a config names none.
MASK_IDS = {"sdar": 151669, "fast_dllm_v2": 151665, "llada2": 156895}
BLOCK_SIZES = {"sdar": 4, "fast_dllm_v2": 32, "llada2": 32}
# Grouped products on torch want rows of whole 16-byte words, in every dtype.
EXPERT_STEP = 8


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """The mixture of experts in the layers of a model.

    A router scores every expert with a sigmoid. A bias is added for the choice alone: the best
    `topk_group` groups, and in them the best `num_experts_per_tok` experts.

    Spec: SS-23.

    Raises:
        ConfigError: a value is out of range or does not fit another.

    Example:
        >>> ExpertConfig(num_experts=8, num_experts_per_tok=2, n_group=4, topk_group=2,
        ...              moe_intermediate_size=48).group_size
        2
    """

    num_experts: int = setting(integer(1, bits=16), "experts of a layer")
    num_experts_per_tok: int = setting(integer(1, bits=16), "experts that a token visits")
    n_group: int = setting(integer(1, bits=16), "groups of experts")
    topk_group: int = setting(integer(1, bits=16), "groups that a token may choose from")
    moe_intermediate_size: int = setting(integer(1), "width of an expert's MLP")
    num_shared_experts: int = setting(integer(0, bits=16), "experts that every token visits", 0)
    first_k_dense_replace: int = setting(integer(0, bits=10), "first layers that have a dense MLP", 0)
    routed_scaling_factor: float = setting(number(0, above=True), "times the chosen experts' sum", 1.0)

    def __post_init__(self) -> None:
        check(self)
        per, reach = self.group_size, self.topk_group * self.group_size
        _check_relations(
            ("num_experts", self.num_experts, self.num_experts % self.n_group == 0, "a multiple of n_group"),
            ("n_group", self.n_group, per >= 2 or self.n_group == 1, "groups of at least 2 experts"),
            ("topk_group", self.topk_group, self.topk_group <= self.n_group, f"<= {self.n_group} groups"),
            (
                "num_experts_per_tok",
                self.num_experts_per_tok,
                self.num_experts_per_tok <= reach,
                f"<= the {reach} experts of the chosen groups",
            ),
        )

    @property
    def group_size(self) -> int:
        """Experts of a group."""
        return self.num_experts // self.n_group

    @property
    def shared_size(self) -> int:
        """Width of the MLP that stands for the shared experts."""
        return self.moe_intermediate_size * self.num_shared_experts


EXPERTS = Rule("an ExpertConfig, or none", lambda v: isinstance(v, ExpertConfig | None))


@dataclass(frozen=True, kw_only=True)
class BlockModelConfig:
    """The shape of a block-diffusion language model, its family and its mask token.

    Spec: SS-1, SS-23.

    Args:
        family: see `FAMILIES`.
        rotary_dim: leading entries of a head that positions turn.
        block_size: the one it was trained for, or the largest of them.
        dtype: of the stored weights; None: the config does not say.
        experts: None: every layer has a dense MLP.

    Raises:
        ConfigError: a value is out of range or does not fit another.

    Example:
        >>> config = BlockModelConfig(family="sdar", hidden_size=64, intermediate_size=160,
        ...     num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        ...     vocab_size=300, rope_theta=1e4, rotary_dim=16, mask_token_id=299, block_size=4)
        >>> config.shifted, config.is_sparse(0)
        (False, False)
    """

    family: str = setting(choice(*FAMILIES), "decides names of tensors and alignment")
    hidden_size: int = setting(integer(1), "width D of the hidden states")
    intermediate_size: int = setting(integer(1), "width of a dense MLP")
    num_hidden_layers: int = setting(integer(1, bits=10), "decoder layers")
    num_attention_heads: int = setting(integer(1), "query heads")
    num_key_value_heads: int = setting(integer(1), "key and value heads")
    head_dim: int = setting(integer(1), "width of a head")
    vocab_size: int = setting(integer(1), "rows of the embedding and the head")
    rope_theta: float = setting(number(0, above=True), "base of the rotary positions")
    rotary_dim: int = setting(integer(2), "leading entries of a head that positions turn")
    mask_token_id: int = setting(integer(0), "stands where a token is not decided yet")
    block_size: int = setting(integer(1), "positions of a block")
    qk_norm: bool = setting(FLAG, "queries and keys are normed", True)
    attention_bias: bool = setting(FLAG, "queries, keys and values have a bias", False)
    rope_scaling: Mapping[str, Any] | None = setting(ROPE, "scaling of the positions", None, hash=False)
    rms_norm_eps: float = setting(number(0, above=True), "epsilon of the norms", 1e-6)
    tie_word_embeddings: bool = setting(FLAG, "head and embedding are one", False)
    max_position_embeddings: int = setting(integer(1), "longest sequence", 32768)
    eos_ids: tuple[int, ...] = setting(TOKENS, "end a text", ())
    dtype: str | None = setting(choice(*DTYPES).or_none(), "of the stored weights", None)
    experts: ExpertConfig | None = field(
        default=None, metadata={"rule": EXPERTS, "help": "of the sparse layers; none: all are dense"}
    )

    def __post_init__(self) -> None:
        check(self)
        heads, groups, width = self.num_attention_heads, self.num_key_value_heads, self.head_dim
        turned, vocab = self.rotary_dim, f"< {self.vocab_size}, the vocabulary"
        _check_relations(
            (
                "num_attention_heads",
                heads,
                heads % groups == 0,
                f"a multiple of {groups} key and value heads",
            ),
            ("head_dim", width, width % 2 == 0, "an even number (rotary positions turn pairs)"),
            ("rotary_dim", turned, turned % 2 == 0 and turned <= width, f"even and <= head_dim {width}"),
            ("mask_token_id", self.mask_token_id, self.mask_token_id < self.vocab_size, vocab),
            ("eos_ids", self.eos_ids, all(i < self.vocab_size for i in self.eos_ids), vocab),
        )
        if self.experts is not None:
            inner, step = self.experts.moe_intermediate_size, f"a multiple of {EXPERT_STEP} beside experts"
            _check_relations(
                ("hidden_size", self.hidden_size, self.hidden_size % EXPERT_STEP == 0, step),
                ("moe_intermediate_size", inner, inner % EXPERT_STEP == 0, step),
            )

    @property
    def shifted(self) -> bool:
        """The state at i - 1 predicts token i; otherwise the one at i, where a mask stands."""
        return self.family in SHIFTED

    def is_sparse(self, layer: int) -> bool:
        """Return whether a layer has experts in place of a dense MLP."""
        return self.experts is not None and layer >= self.experts.first_k_dense_replace


def _check_relations(*relations: tuple[str, Any, bool, str]) -> None:
    for name, got, ok, needed in relations:
        if not ok:
            raise ConfigError(explain(name, got, needed, clause="SS-23"))
