"""The text form of an objective, "decay(10)+first_error(0.3)+chain(40)", read into terms and back.

text = summand {"+" summand};  summand = name [ "(" [argument {"," argument}] ")" ];
argument = [name "="] (number | number "->" number [":" shape] ["@" number]).
Spaces are free. A number may be inf, except in a schedule.
"""

import re
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from dspec.core.schedules import Number, Schedule, number_text
from dspec.core.term_table import TERMS
from dspec.core.terms import Term
from dspec.errors import ConfigError, explain

_SUMMAND = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?:\((?P<arguments>[^()]*)\))?\s*(?P<plus>\+)?")
_ARGUMENT = re.compile(r"\s*(?:(?P<key>[A-Za-z_]\w*)\s*=)?\s*(?P<number>[^\s=>]+(?:\s*->\s*[^\s=>]+)?)\s*")
EXAMPLE = 'write for example "decay(10)+first_error(0.3)+chain(40)"'

PRESETS = {
    "uniform": "decay(inf)",
    "dflash": "decay(7)",
    "ltr": "decay(10)+first_error(0.3)+chain(40)",
    "dpace": "dpace(0.5)",
    "dflare": "decay(4.5->10.5)",
}


@dataclass(frozen=True)
class Summand:
    """One name with its arguments, as written.

    Args:
        name: name of a term or preset, unchecked.
        positional: numbers or schedules given without a key.
        keywords: those given with one.
    """

    name: str
    positional: tuple[Number, ...] = ()
    keywords: dict[str, Number] = field(default_factory=dict)


def read(text: str) -> list[Summand]:
    """Return the summands of an objective's text form.

    Spec: OB-6.

    Args:
        text: such as "decay(10)+chain(weight=40)".

    Returns:
        At least one summand, in the order written.

    Raises:
        ConfigError: the text does not follow the grammar.

    Example:
        >>> [summand.name for summand in read("decay(10, weight=2) + chain")]
        ['decay', 'chain']

        >>> read("decay(10")
        Traceback (most recent call last):
        dspec.errors.ConfigError: objective: got 'decay(10', unreadable from '(10'; needs terms \
joined by "+". write for example "decay(10)+first_error(0.3)+chain(40)" [OB-6]
    """
    found, at, more = [], 0, True
    while more:
        match = _SUMMAND.match(text, at)
        if match is None:
            raise _unreadable(text, at)
        found.append(_summand(match, text))
        at, more = match.end(), match["plus"] is not None
    if at != len(text):
        raise _unreadable(text, at)
    return found


def write(summand: Summand) -> str:
    """Return the text of one summand, which `read` takes back to the same summand.

    Args:
        summand: with numbers that are not NaN, or schedules.

    Returns:
        Text without superfluous digits.

    Example:
        >>> write(Summand("decay", (10.0,), {"weight": 0.5}))
        'decay(10, weight=0.5)'
    """
    arguments = [_number(value) for value in summand.positional]
    arguments += [f"{key}={_number(value)}" for key, value in summand.keywords.items()]
    return f"{summand.name}({', '.join(arguments)})"


def parse_terms(text: str) -> tuple[Term, ...]:
    """Return the terms of an objective's text form, presets expanded.

    Spec: OB-6.

    Args:
        text: terms and presets joined by "+".

    Returns:
        At least one term, in the order written.

    Raises:
        ConfigError: bad grammar, an unknown name, or a value out of range.

    Example:
        >>> parse_terms("uniform+chain")
        (Decay(gamma=inf, weight=1.0), Chain(weight=40.0))
    """
    return tuple(term for summand in read(text) for term in _terms(summand))


def term_text(term: Term) -> str:
    """Return a term's text: its first parameter, then by name those that differ from their default.

    Args:
        term: any term.

    Returns:
        Text that `parse_terms` reads back to the same term.

    Example:
        >>> from dspec.core.terms import FirstError
        >>> term_text(FirstError(0.3, gamma=5))
        'first_error(0.3, gamma=5)'
    """
    parameters: Any = term
    first, *rest = fields(parameters)
    changed = {p.name: getattr(term, p.name) for p in rest if getattr(term, p.name) != p.default}
    return write(Summand(term.name, (getattr(term, first.name),), changed))


def unknown(where: str, name: str, allowed: list[str]) -> ConfigError:
    """Return the error for a name that is not allowed: lists those that are, and the closest.

    Args:
        where: what the name is for.
        name: the unknown name.
        allowed: the names there are.

    Returns:
        The error, to be raised.

    Example:
        >>> str(unknown("objective term", "chian", ["chain", "decay"]))
        "objective term: got 'chian'; needs one of chain, decay. did you mean 'chain'? [OB-6]"
    """
    close = get_close_matches(name, allowed, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else ""
    needed = f"one of {', '.join(allowed)}" if allowed else "no more arguments"
    return ConfigError(explain(where, repr(name), needed, remedy=remedy, clause="OB-6"))


def _terms(summand: Summand) -> tuple[Term, ...]:
    """Return the term of a summand, or the terms of a preset."""
    kind = TERMS.get(summand.name)
    if kind is None:
        bare = not summand.positional and not summand.keywords
        if bare and summand.name in PRESETS:
            return parse_terms(PRESETS[summand.name])
        allowed = list(TERMS) + [name for name in PRESETS if bare and name not in TERMS]
        raise unknown("objective term", summand.name, allowed)
    names = [parameter.name for parameter in fields(kind)]
    if len(summand.positional) > len(names):
        got, needed = f"{len(summand.positional)} numbers", f"at most {len(names)}: {', '.join(names)}"
        raise ConfigError(explain(summand.name, got, needed, clause="OB-6"))
    given = dict(zip(names, summand.positional))
    for key in summand.keywords:
        if key not in names:
            raise unknown(f"argument of {summand.name}", key, names)
        if key in given:
            raise ConfigError(explain(summand.name, f"{key} twice", "each argument once", clause="OB-6"))
    return (kind(**given, **summand.keywords),)


def _summand(match: re.Match[str], text: str) -> Summand:
    """Return the summand of a match of the grammar."""
    written = match["arguments"]
    positional: list[Number] = []
    keywords: dict[str, Number] = {}
    for part in [] if written is None or not written.strip() else written.split(","):
        key, value = _argument(part, text)
        if key is None and keywords:
            raise _bad(f"{part.strip()!r} after a named argument in {text!r}", "plain numbers first")
        if key in keywords:
            raise _bad(f"{key!r} twice in {text!r}", "each argument once")
        if key is None:
            positional.append(value)
        else:
            keywords[key] = value
    return Summand(match["name"], tuple(positional), keywords)


def _argument(part: str, text: str) -> tuple[str | None, Number]:
    """Return (key or None, number or schedule) of one argument."""
    match = _ARGUMENT.fullmatch(part)
    try:
        if match is not None:
            return match["key"], Schedule.read(match["number"])
    except ConfigError:
        raise  # a schedule that says itself what is wrong with it
    except ValueError:
        pass  # reported below, with the argument as it was written
    raise _bad(f"{part.strip()!r} in {text!r}", "a number, name=number, or a schedule such as 0->40")


def _number(value: Number) -> str:
    """Return the text of a number or schedule that reads back to the same."""
    return str(value) if isinstance(value, Schedule) else number_text(value)


def _unreadable(text: str, at: int) -> ConfigError:
    return _bad(f"{text!r}, unreadable from {text[at:]!r}", 'terms joined by "+"')


def _bad(got: str, needed: str) -> ConfigError:
    return ConfigError(explain("objective", got, needed, remedy=EXAMPLE, clause="OB-6"))
