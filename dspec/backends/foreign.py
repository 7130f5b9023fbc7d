"""Models of one framework given to the room of another: told apart without importing either."""

from typing import Any

from dspec.errors import ConfigError, explain

# room -> what its framework is called in messages, and the backends that open it.
FRAMEWORKS = {"torch": ("PyTorch", '"cpu", "cuda" or "mps"'), "mlx": ("MLX", '"mlx"')}


def framework_of(source: Any) -> str | None:
    """Return the room whose framework made an object, or None.

    Args:
        source: anything; of a model, its classes are looked at, not its weights.

    Returns:
        "torch", "mlx" or None.

    Example:
        >>> framework_of("Qwen/Qwen3-4B") is None
        True
    """
    for kind in type(source).__mro__:
        module = kind.__module__
        for room in FRAMEWORKS:
            if module.split(".")[0] == room or module.startswith(f"dspec.backends.{room}."):
                return room
    return None


def refuse_foreign(what: str, source: Any, *, room: str) -> None:
    """Refuse a model of another framework than the room's.

    Spec: DL-8.

    Args:
        what: "target" or "drafter", for the message.
        source: what the caller gave.
        room: "torch" or "mlx".

    Raises:
        ConfigError: the model belongs to another room.
    """
    found = framework_of(source)
    if found in (None, room):
        return
    name, backends = FRAMEWORKS[found]
    got = f"a {type(source).__name__} of {name}"
    needed = f"a hub id, a folder, or a model of {FRAMEWORKS[room][0]}"
    remedy = f"Name its own backend, {backends}, or give the folder it was loaded from."
    raise ConfigError(explain(what, got, needed, remedy=remedy, clause="DL-8"))
