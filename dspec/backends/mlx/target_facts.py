"""What a model's config says of it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import mlx.core as mx

from dspec.backends.mlx.head import Head
from dspec.backends.mlx.model_kinds import WHOLE, inner, kind_of, language_of
from dspec.backends.model_config import config_of, eos_ids_of, facts_of
from dspec.config import TargetFacts
from dspec.errors import ConfigError, explain


def read_facts(
    config: Any, head: Head, *, num_layers: int, eos_ids: frozenset[int], name: str
) -> TargetFacts:
    """Return the facts of an mlx-lm model.

    Args:
        config: of transformers, that the model was built of.
        head: its output weight.
        num_layers: decoder layers.
        eos_ids: tokens that end a text.
        name: for messages.
    """
    return facts_of(
        config,
        head_shape=head.shape,
        num_layers=num_layers,
        eos_ids=eos_ids,
        dtype=dtype_name(head.dtype),
        name=name,
    )


def read_eos_ids(config: Any, values: Mapping[str, Any] | None) -> frozenset[int]:
    """Return every token that ends a text: the generation config's word, else the config's.

    Args:
        config: of transformers.
        values: of config.json, as mlx-lm returns them: the generation config's word stands there.
    """
    return eos_ids_of((values or {}).get("eos_token_id"), config.eos_token_id)


def read_config_of(model: Any, values: Mapping[str, Any] | None) -> Any:
    """Return the config that a loaded mlx-lm model was built of.

    Args:
        model: of mlx-lm; without values, what it was built of is all that is known.
        values: of its config.json, or None.

    Raises:
        ConfigError: the values are of another kind of model.
    """
    own, args = model.args.model_type, asdict(inner(model).args)
    kind_of(WHOLE.get(own, own))
    if values is None:
        # Fields that mlx-lm leaves empty are not those that transformers would take for a wish.
        built = {n: v for n, v in args.items() if v is not None or n == "sliding_window"}
        return config_of({**built, "model_type": WHOLE.get(own, own)})
    if WHOLE.get(values["model_type"], values["model_type"]) != WHOLE.get(own, own):
        raise ConfigError(
            explain("config: model_type", repr(values["model_type"]), f"{own!r}, as the model has")
        )
    return language_of(config_of(values))


def dtype_name(dtype: mx.Dtype) -> str:
    """Return "float32" and the like.

    Example:
        >>> dtype_name(mx.bfloat16)
        'bfloat16'
    """
    return str(dtype).removeprefix("mlx.core.")
