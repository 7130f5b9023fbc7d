"""What a model's config says of it."""

from typing import Any

from dspec.backends.model_config import eos_ids_of, facts_of
from dspec.config import TargetFacts


def read_facts(model: Any, *, eos_ids: frozenset[int], name: str) -> TargetFacts:
    """Return the facts of a transformers model.

    Args:
        model: a causal language model.
        eos_ids: tokens that end a text.
        name: for messages.
    """
    head = model.get_output_embeddings().weight
    return facts_of(
        model.config.get_text_config(decoder=True),
        head_shape=tuple(head.shape),
        num_layers=len(model.get_decoder().layers),
        eos_ids=eos_ids,
        dtype=str(head.dtype).removeprefix("torch."),
        name=name,
    )


def read_eos_ids(model: Any) -> frozenset[int]:
    """Return every token that ends a text: the generation config's word, else the config's."""
    configs = (model.generation_config, model.config.get_text_config(decoder=True))
    return eos_ids_of(*(getattr(config, "eos_token_id", None) for config in configs))
