"""What a model's config says of it."""

from typing import Any

from dspec.config import TargetFacts


def read_facts(model: Any, *, name: str) -> TargetFacts:
    """Return the facts of a transformers model.

    Args:
        model: a causal language model.
        name: for messages.
    """
    config = model.config.get_text_config(decoder=True)
    head, heads = model.get_output_embeddings().weight, config.num_attention_heads
    rope = _rope(config)
    return TargetFacts(
        hidden_size=int(head.shape[1]),
        vocab_size=int(head.shape[0]),
        num_layers=len(model.get_decoder().layers),
        intermediate_size=config.intermediate_size,
        num_attention_heads=heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or int(head.shape[1]) // heads,
        rms_norm_eps=getattr(config, "rms_norm_eps", 1e-6),
        rope_theta=rope.pop("rope_theta", 1e6),
        rope_scaling=rope or None,
        max_position_embeddings=config.max_position_embeddings,
        bos_token_id=config.bos_token_id,
        eos_token_ids=tuple(sorted(read_eos_ids(model))),
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=bool(config.tie_word_embeddings),
        dtype=str(head.dtype).removeprefix("torch."),
        name=name,
    )


def read_eos_ids(model: Any) -> frozenset[int]:
    """Return every token that ends a text: the generation config's word, else the config's."""
    for config in (model.generation_config, model.config.get_text_config(decoder=True)):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset()


def _rope(config: Any) -> dict[str, Any]:
    """Rotary settings in one flat dict, rope_theta among them; without scaling nothing else."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    # Gemma 3 keeps one set for each kind of layer; the drafter's attention is full.
    rope = dict(rope.get("full_attention", rope))
    if rope.get("rope_type", "default") == "default":
        rope.pop("rope_type", None)
    return rope
