"""Decoders at the command line: one option a field, or a whole decoder as a text."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

import typer

from dspec.decoders import Autoregressive, Diffusion, Editing, SelfSpeculative, Speculative, Tree, Wino
from dspec.errors import ConfigError, explain

NAMES: dict[str, type[Any]] = {
    "speculative": Speculative,
    "tree": Tree,
    "autoregressive": Autoregressive,
    "diffusion": Diffusion,
    "self-speculative": SelfSpeculative,
    "wino": Wino,
}
BLOCK = (Diffusion, SelfSpeculative, Wino)  # decoders of block-diffusion models alone
PANELS = {
    "block": "Drafted blocks",
    "draft_window": "Drafted blocks",
    "budget": "Draft trees",
    "drafts": "Draft trees",
}
EDIT = {"edit_threshold": ("threshold", float), "edit_passes": ("max_passes", int)}
HELP = {
    "block": "Drafts that a pass verifies: a number, or auto (speculative; needs a drafter).",
    "draft_window": "Context positions that the drafter reads: the last so many (speculative).",
    "budget": "Nodes of a tree, the anchor not counted (tree; needs a drafter).",
    "drafts": "likeliest, or sampled from the drafter's laws (tree).",
    "block_size": "Positions a block.",
    "exact": "Keep the block-size-one law (--exact); --hybrid verifies where the route says so.",
    "window": "sliding or aligned (exact).",
    "bonus": "Judge the position after the drafts too (exact).",
    "layout": "separate, or fused: one pass a round (exact).",
    "guesses": "Corrections of each draft that are drafted after, too (exact, fused layout).",
    "commit": "How finished blocks are kept: fused, separate or always.",
    "cache_mask": "block or causal.",
    "draft_mask": "block or partially_causal.",
    "route": "When to verify: span(t), score(t), hysteresis(on, off), ucb(beta), cost, never (hybrid).",
    "estimator": "Guess of the acceptance: margin(t), entropy(t), entropy_exp(b), ... (hybrid).",
    "score": "static or dynamic (hybrid).",
    "cost": "c of the score (hybrid).",
    "select": "Which positions a step commits: static, sequential, dynamic, entropy, factor, frechet.",
    "threshold": "The selection's number.",
    "steps": "Passes that the schedule spreads a block over.",
    "sub_block": "Positions that take part at a time.",
    "min_commit": "Tokens that a step commits at least (hybrid).",
    "lossy_ratio_power": "Exponent of the acceptance ratio; 1 is the exact rule (hybrid).",
    "commit_above": "A mask is filled above this confidence (wino).",
    "keep_above": "A token is masked again below this confidence (wino).",
    "edit_threshold": "Replace decided tokens above this confidence; none: never.",
    "edit_passes": "Most editing passes after a block's last mask.",
}


def with_decoder_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` an option for every field of these decoders, collected in `options`.

    Args:
        command: a function with a keyword-only parameter `options`.

    Returns:
        The function typer is to see; what is not given is left out of `options`.

    Example:
        >>> def command(*, options): print(options)
        >>> with_decoder_options(command)(route="span(2)", steps=None)
        {'route': 'span(2)'}
    """
    own = inspect.signature(command, eval_str=True)
    kept = [p for p in own.parameters.values() if p.name != "options"]
    kinds = _kinds()

    def wrapped(**values: Any) -> None:
        given = {name: values.pop(name, None) for name in kinds}
        command(**values, options={name: value for name, value in given.items() if value is not None})

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    made = [_option(name, kind) for name, kind in kinds.items()]
    wrapped.__signature__ = inspect.Signature([*kept, *made])  # type: ignore[attr-defined]
    return wrapped


def _kinds() -> dict[str, type]:
    """Every option's type, in the order of `HELP`."""
    kinds: dict[str, type] = {
        "block": str,
        "draft_window": int,
        **{name: kind for name, (_, kind) in EDIT.items()},
    }
    for decoder in (Tree, *BLOCK):
        for name, hint in get_type_hints(decoder).items():
            if name in HELP:
                kinds[name] = next(kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType)
    return {name: kinds[name] for name in HELP}


def _option(name: str, kind: type) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    names = {"exact": "--exact/--hybrid"}.get(name, f"{flag}/--no-{flag[2:]}" if kind is bool else flag)
    panel = PANELS.get(name, "Block diffusion")
    option = typer.Option(None, names, help=HELP[name], show_default=False, rich_help_panel=panel)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def build_decoder(name: str | None, options: Mapping[str, Any], policy: str | None = None) -> Any:
    """Return the decoder that --decoder and its options stand for.

    Args:
        name: a key of `NAMES`; None: none was named.
        options: fields by name; "edit_threshold" and "edit_passes" for an editing decoder.
        policy: of a speculative decoder.

    Returns:
        The decoder, or None where nothing was asked for.

    Raises:
        ConfigError: an unknown name, an option that the decoder has not, or a value out of range.

    Example:
        >>> build_decoder("diffusion", {"steps": 4, "block_size": 8}).steps
        4
    """
    if name is None and not options:
        return None
    if name not in NAMES:
        got = "nothing" if name is None else repr(name)
        raise ConfigError(explain("--decoder", got, "one of " + ", ".join(NAMES)))
    kind, values = NAMES[name], dict(options)
    editing = {EDIT[key][0]: values.pop(key) for key in tuple(EDIT) if key in values}
    if editing:
        values["edit"] = Editing(**editing)
    if str(values.get("block", "")).isdecimal():
        values["block"] = int(values["block"])
    known = {f.name for f in dataclasses.fields(kind)} - {"costs"}  # several numbers: of the Python API alone
    if policy is not None and "policy" in known:
        values["policy"] = policy
    for key in values:
        if key not in known:
            flags = ", ".join(_flag(k) for k in sorted(known)) or "no options"
            got = f"{values[key]!r} with --decoder {name}"
            raise ConfigError(explain(_flag(key), got, f"one that it has: {flags}"))
    return kind(**values)


def _flag(name: str) -> str:
    return "--edit-threshold" if name == "edit" else "--" + name.replace("_", "-")


_CALL = re.compile(r"\s*(?P<name>[a-z_-]+)\s*(?:\((?P<inside>.*)\))?\s*", re.DOTALL)


def parse_decoder(text: str) -> tuple[str, Any]:
    """Return a decoder from a text such as "self-speculative(exact=true, block_size=8)".

    Args:
        text: a name of `NAMES`, and fields in parentheses.

    Returns:
        The text without blanks around it, and the decoder.

    Raises:
        ConfigError: the text, a name or a value is not understood.

    Example:
        >>> parse_decoder("self-speculative(route=hysteresis(0, -1), block_size=4)")[1].route
        'hysteresis(0, -1)'
    """
    match = _CALL.fullmatch(text)
    if match is None:
        example = 'name(field=value, ...), such as "diffusion(threshold=0.9)"'
        raise ConfigError(explain("--decoder", repr(text), example))
    values, kinds = {}, _kinds() | {"policy": str}
    for word in _split(match["inside"] or ""):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals or key not in kinds:
            raise ConfigError(explain("--decoder", repr(text), f"field=value; fields: {', '.join(kinds)}"))
        values[key] = _value(text, key, value, kinds[key])
    policy = values.pop("policy", None)
    return text.strip(), build_decoder(match["name"], values, policy)


def _split(inside: str) -> Sequence[str]:
    """Split at commas outside of parentheses."""
    words, depth = [""], 0
    for sign in inside:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            words.append("")
        else:
            words[-1] += sign
    return [word for word in words if word.strip()]


def _value(text: str, key: str, value: str, kind: type) -> Any:
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ConfigError(explain("--decoder", repr(text), f"{key}=true or {key}=false"))
        return value.lower() == "true"
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(explain("--decoder", repr(text), f"a number for {key}")) from error
