"""Which decoder layers a drafter reads."""

from collections.abc import Sequence

from dspec.errors import ConfigError, explain


def check_layer_ids(layer_ids: Sequence[int], num_layers: int, *, some: bool = False) -> tuple[int, ...]:
    """Return the ids as a tuple; one that is no layer of the target is a ConfigError.

    Spec: BD-5.

    Args:
        layer_ids: 0-based decoder layers.
        num_layers: of the target.
        some: none at all is an error too.

    Example:
        >>> check_layer_ids([1, 3], 6)
        (1, 3)
    """
    if some and not layer_ids:
        raise ConfigError(explain("layer_ids", "none", "at least one decoder layer", clause="BD-5"))
    for layer_id in layer_ids:
        if not 0 <= layer_id < num_layers:
            raise ConfigError(explain("layer_ids", layer_id, f"ids in [0, {num_layers})", clause="BD-5"))
    return tuple(layer_ids)
