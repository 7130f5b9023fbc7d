"""What a setting may be: one rule a field, enforced when the settings are made."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspec.errors import ConfigError, explain

DTYPES = ("float32", "bfloat16", "float16")
# Rotary rules whose frequencies depend on the config alone; "dynamic" and "longrope" depend on the length.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
ROPE_KEYS = {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"}
ROPE_KEYS |= {"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"}
ROPE_KEYS |= {"mscale", "mscale_all_dim", "truncate"}
# What a kind cannot do without. The rest has defaults, but for None as a length.
ROPE_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}


@dataclass(frozen=True)
class Rule:
    """What a setting may be: a sentence for people and the test that enforces it."""

    needed: str
    accepts: Callable[[Any], bool]

    def or_none(self) -> "Rule":
        """Return the same rule that lets None pass."""
        return Rule(f"{self.needed}, or none", lambda v: v is None or self.accepts(v))


def integer(low: int, *, bits: int = 31) -> Rule:
    """Integers in [low, 2^bits); a bool is none. The bound keeps products and loops sane."""
    return Rule(f"an integer >= {low} and < 2^{bits}", lambda v: type(v) is int and low <= v < 2**bits)


def number(low: float, high: float = 1e300, *, above: bool = False) -> Rule:
    """Finite numbers in [low, high); `above` leaves `low` itself out."""
    edge = f"a number {'>' if above else '>='} {low:g}" + (f" and < {high:g}" if high < 1e300 else "")
    return Rule(edge, lambda v: type(v) in (int, float) and (low < v if above else low <= v) and v < high)


def choice(*allowed: str) -> Rule:
    """One of the texts allowed."""
    return Rule("one of " + ", ".join(allowed), lambda v: isinstance(v, str) and v in allowed)


FLAG = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("a non-empty text", lambda v: isinstance(v, str) and bool(v.strip()))
LAYERS = Rule(
    "layer ids >= 0, strictly increasing, at least one",
    lambda v: (
        isinstance(v, tuple)
        and bool(v)
        and all(type(i) is int and i >= 0 for i in v)
        and list(v) == sorted(set(v))
    ),
)
BETAS = Rule(
    "two numbers in [0, 1)",
    lambda v: isinstance(v, tuple) and len(v) == 2 and all(number(0, 1).accepts(b) for b in v),
)
TOKEN = integer(0).or_none()
TOKENS = Rule(
    "a token id >= 0, several of them, or none",
    lambda v: TOKEN.accepts(v) or (isinstance(v, tuple) and all(integer(0).accepts(i) for i in v)),
)


def _is_rope(value: Any) -> bool:
    known = isinstance(value, Mapping) and set(value) <= ROPE_KEYS
    kind = value.get("rope_type", value.get("type")) if known else None
    if kind not in ROPE_TYPES:
        return False
    needed = [value.get(key) for key in ROPE_NEEDS[kind]]
    needed += [value[key] for key in ("original_max_position_embeddings",) if key in value]
    numbers = [value[key] for key in value.keys() - {"rope_type", "type", "truncate"}]
    sound = all(number(0, above=True).accepts(v) for v in needed)
    sound = sound and all(number(0).or_none().accepts(v) for v in numbers)
    sound = sound and FLAG.or_none().accepts(value.get("truncate"))
    return sound and (kind != "llama3" or value["low_freq_factor"] < value["high_freq_factor"])


ROPE = Rule(
    f"a mapping with keys of {', '.join(sorted(ROPE_KEYS))}, rope_type one of {', '.join(ROPE_TYPES)}, and "
    "numbers: linear and yarn need factor, llama3 factor and low_freq_factor < high_freq_factor",
    _is_rope,
).or_none()


MAPPING = Rule("a mapping", lambda v: isinstance(v, Mapping)).or_none()


def setting(rule: Rule, help: str, default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field that carries its rule and its help text."""
    return field(default=default, metadata={"rule": rule, "help": help}, **options)


def check(settings: Any) -> None:
    """Turn lists into tuples, then hold every field to its rule."""
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, list):
            object.__setattr__(settings, f.name, value := tuple(value))
        rule: Rule | None = f.metadata.get("rule")
        if rule is not None and not rule.accepts(value):
            raise ConfigError(explain(f.name, repr(value), rule.needed))
