"""Command line options made from `TrainConfig`: one field, one option, one TOML key."""

import dataclasses
import inspect
from collections.abc import Callable
from types import NoneType
from typing import Any, get_args, get_type_hints

import typer

from dspec.config import TrainConfig
from dspec.errors import ConfigError, explain


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` an option for every field of `TrainConfig`, collected in its `settings`.

    An option that is not given is left out of `settings`, so that the config file and then the
    defaults decide.

    Args:
        command: a function with a keyword-only parameter `settings`.

    Returns:
        The function typer is to see.

    Example:
        >>> def command(*, settings): print(settings)
        >>> with_settings(command)(steps=5, lr=None)
        {'steps': 5}
    """
    own = inspect.signature(command, eval_str=True)
    kept = [p for p in own.parameters.values() if p.name != "settings"]
    fields = dataclasses.fields(TrainConfig)

    def wrapped(**values: Any) -> None:
        given = {f.name: values.pop(f.name, None) for f in fields}
        settings = {name: _parse(name, value) for name, value in given.items() if value is not None}
        command(**values, settings=settings)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    options = [_option(f) for f in fields]
    wrapped.__signature__ = inspect.Signature([*kept, *options])  # type: ignore[attr-defined]
    return wrapped


def _option(field: "dataclasses.Field[Any]") -> inspect.Parameter:
    kind, flag = _kind(field.name), "--" + field.name.replace("_", "-")
    names = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    text = f"{field.metadata['help']} (default: {_shown(field.default)})"
    option = typer.Option(None, names, help=text, show_default=False)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None
    )


def _kind(name: str) -> type:
    """Return the option's type: the field's own, or text for a tuple ("1,3,5")."""
    hint = get_type_hints(TrainConfig)[name]
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType]
    return kinds[0] if kinds[0] in (int, float, bool) and _is_scalar(hint) else str


def _is_scalar(hint: Any) -> bool:
    return not str(hint).startswith("tuple")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parse(name: str, value: Any) -> Any:
    """Turn "1,3,5" into numbers where the field is a tuple."""
    hint = str(get_type_hints(TrainConfig)[name])
    if "tuple" not in hint:
        return value
    kind = float if "float" in hint else int
    try:
        return tuple(kind(part) for part in value.split(","))
    except ValueError as error:
        flag = "--" + name.replace("_", "-")
        raise ConfigError(explain(flag, repr(value), "numbers with commas between, such as 1,3,5")) from error
