"""A request: the settings of one output, parsed from keywords."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspec.core.types import Sampling
from dspec.decoders import Autoregressive, Speculative
from dspec.errors import ConfigError, explain


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides one output, beside the models.

    Args:
        max_new_tokens: most tokens to emit; >= 1.
        sampling: the law to draw from.
        stops: stop strings.
        seed, number: key of the request's uniforms.
        decoder: how to decode.
        ignore_eos: go on after an end token.
    """

    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    seed: int = 0
    number: int = 0
    decoder: Speculative | Autoregressive = field(default_factory=Speculative)
    ignore_eos: bool = False


def parse_request(settings: Mapping[str, Any]) -> Request:
    """Return the request that keyword settings describe.

    Spec: RS-13.

    Args:
        settings: keywords of `Engine.generate`.

    Returns:
        The request.

    Raises:
        ConfigError: an unknown or unsupported setting, or a value out of range.

    Example:
        >>> parse_request({"temperature": 0.5}).sampling.temperature
        0.5
    """
    settings = dict(settings)
    sampling = {
        name: settings.pop(name) for name in ("temperature", "top_k", "top_p", "min_p") if name in settings
    }
    stop = settings.pop("stop", ())
    policy, decoder = settings.pop("policy", None), settings.pop("decoder", None)
    if policy is not None and decoder is not None:
        raise ConfigError(
            explain(
                "policy", policy, "to stand alone", remedy="Put it into the decoder: Speculative(policy=...)."
            )
        )
    known = ("max_new_tokens", "seed", "ignore_eos")
    for name in settings:
        if name not in known:
            allowed = ", ".join(
                (*known, "temperature", "top_k", "top_p", "min_p", "stop", "policy", "decoder")
            )
            raise ConfigError(
                explain("generate", f"the setting {name!r}", f"one of {allowed}", clause="RS-13")
            )
    return Request(
        sampling=Sampling(**sampling),
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        decoder=decoder or Speculative(policy=policy),
        **settings,
    )
