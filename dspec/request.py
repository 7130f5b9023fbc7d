"""A request: the settings of one output, parsed from keywords."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dspec.core.log_probs import reported_law
from dspec.core.policies import Policy, choose_policy
from dspec.core.settings import read_integer
from dspec.core.types import Sampling
from dspec.decoders import DECODERS
from dspec.errors import ConfigError, explain
from dspec.prompt import is_many

SAMPLING = ("temperature", "top_k", "top_p", "min_p")
SETTINGS = ("max_new_tokens", "seed", "ignore_eos", *SAMPLING, "stop", "policy", "decoder", "log_probs")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides one output, beside the models.

    Spec: RS-13, RS-18, RS-19, RN-1, DL-3, DL-9.

    Args:
        max_new_tokens: most tokens to emit; >= 1.
        sampling: the law to draw from.
        stops: stop strings, none empty.
        seed, number: key of the request's uniforms; in [0, 2^64).
        decoder: how to decode; None: speculative where there is a drafter, else one token a pass.
        policy: name of the policy; None: that of the decoder, else the default. Every policy is
            exact, so that it may be named without a drafter too.
        ignore_eos: go on after an end token.
        log_probs: "raw" or "warped": which law's log-probabilities of the tokens come back; None: none.

    Raises:
        ConfigError: a value has the wrong type, is out of range, or does not fit another.
    """

    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    seed: int = 0
    number: int = 0
    decoder: Any = None
    policy: str | None = None
    ignore_eos: bool = False
    log_probs: str | None = None

    def __post_init__(self) -> None:
        for name, low, below, needed, clause in (
            ("max_new_tokens", 1, 2**31, "an integer >= 1 and < 2^31", "DL-3"),
            ("seed", 0, 2**64, "an integer in [0, 2^64)", "RN-1"),
            ("number", 0, 2**64, "an integer in [0, 2^64)", "RN-1"),
        ):
            value = read_integer(name, getattr(self, name), low, below, needed, clause=clause)
            object.__setattr__(self, name, value)
        if not isinstance(self.ignore_eos, bool):
            raise ConfigError(explain("ignore_eos", repr(self.ignore_eos), "True or False", clause="RS-13"))
        _check_stops(self.stops)
        self._check_decoder()
        self.rule()
        self.reports()

    def _check_decoder(self) -> None:
        if not isinstance(self.decoder, (*DECODERS, type(None))):
            needed = "one of dspec.decoders, such as Autoregressive(), or None"
            raise ConfigError(explain("decoder", repr(self.decoder), needed, clause="RS-13"))
        if self.policy is not None and self.decoder is not None:
            remedy = "Put it into the decoder: Speculative(policy=...)."
            raise ConfigError(explain("policy", self.policy, "to stand alone", remedy=remedy))

    def rule(self) -> Policy:
        """Return the policy that this request asks for.

        Returns:
            The policy, fit for the sampling settings.

        Raises:
            ConfigError: an unknown name, or "greedy" at a temperature above 0.

        Example:
            >>> Request(sampling=Sampling(temperature=1.0), policy="rejection").rule().name
            'rejection'
        """
        name = self.policy if self.decoder is None else getattr(self.decoder, "policy", None)
        # A list or dict has no hash, so that looking it up would raise something else.
        return choose_policy(name if name is None or isinstance(name, str) else repr(name), self.sampling)

    def reports(self) -> Sampling | None:
        """Return the settings of the law whose log-probabilities are reported; None: nothing is.

        Spec: RS-19.

        Raises:
            ConfigError: `log_probs` is no name of one.

        Example:
            >>> Request(log_probs="raw").reports().temperature
            1.0
        """
        return reported_law(self.log_probs, self.sampling)


def parse_request(settings: Mapping[str, Any]) -> Request:
    """Return the request that keyword settings describe.

    Spec: RS-13.

    Args:
        settings: keywords of `Engine.generate`.

    Returns:
        The request.

    Raises:
        ConfigError: an unknown or unsupported setting, or a value of the wrong type or out of range.

    Example:
        >>> parse_request({"temperature": 0.5}).sampling.temperature
        0.5
    """
    for name in settings:
        if name not in SETTINGS:
            needed = f"one of {', '.join(SETTINGS)}"
            raise ConfigError(explain("generate", f"the setting {name!r}", needed, clause="RS-13"))
    settings = dict(settings)
    sampling = Sampling(**{name: settings.pop(name) for name in SAMPLING if name in settings})
    return Request(sampling=sampling, stops=_read_stops(settings.pop("stop", None)), **settings)


def parse_requests(
    prompts: Any, settings: Sequence[Mapping[str, Any]] | None, shared: Mapping[str, Any]
) -> list[Request]:
    """Return the requests that own and shared settings of some prompts describe.

    Spec: DL-12, RS-13.

    Args:
        prompts: a list; only its length is read.
        settings: of each prompt; they go before the shared ones. None: no own.
        shared: settings of all.

    Returns:
        A request a prompt.

    Raises:
        ConfigError: not a list of prompts, not one mapping a prompt, or a setting that `parse_request`
            refuses.

    Example:
        >>> [r.seed for r in parse_requests([[1], [2]], [{}, {"seed": 7}], {"seed": 3})]
        [3, 7]
    """
    if not (is_many(prompts) or (isinstance(prompts, (list, tuple)) and not prompts)):
        remedy = "For one prompt there is `stream`."
        raise ConfigError(
            explain("prompts", reprlib.repr(prompts), "a list of prompts", remedy=remedy, clause="DL-12")
        )
    own = [{}] * len(prompts) if settings is None else settings
    fits = isinstance(own, (list, tuple)) and len(own) == len(prompts)
    if not fits or not all(isinstance(one, Mapping) for one in own):
        needed = f"{len(prompts)} mappings, one a prompt"
        raise ConfigError(explain("settings", repr(settings), needed, clause="DL-12"))
    return [parse_request({**shared, **one}) for one in own]


def check_batch_size(batch_size: int) -> int:
    """Return how many requests are to be decoded side by side; below 1 is a ConfigError.

    Spec: DL-12.

    Example:
        >>> check_batch_size(8)
        8
    """
    return read_integer("batch_size", batch_size, 1, 2**31, "an integer >= 1", clause="DL-12")


def _read_stops(stop: Any) -> tuple[str, ...]:
    """Return stop strings as a tuple: of none, of one, or of a list."""
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    if isinstance(stop, (list, tuple)):
        return tuple(stop)
    raise ConfigError(explain("stop", repr(stop), "a string, a list of strings, or None", clause="DL-9"))


def _check_stops(stops: tuple[str, ...]) -> None:
    for stop in stops:
        if not isinstance(stop, str):
            needed = "a string, a list of strings, or None"
            raise ConfigError(explain("stop", repr(stop), needed, clause="DL-9"))
        if not stop:
            raise ConfigError(explain("stop", "an empty string", "non-empty strings", clause="DL-9"))
        if "\ufffd" in stop:
            needed = "readable text: U+FFFD stands for bytes that are none"
            raise ConfigError(explain("stop", repr(stop), needed, clause="DL-9"))


def check_length(length: int, longest: int | None) -> None:
    """Raise if prompt and output are longer than the model can read.

    Args:
        length: tokens of both.
        longest: of the model; None: no limit.

    Raises:
        ConfigError: they are longer.

    Example:
        >>> check_length(10, None)
    """
    if longest is not None and length > longest:
        remedy = "Shorten the prompt or lower max_new_tokens."
        raise ConfigError(
            explain("prompt + max_new_tokens", length, f"at most {longest} positions", remedy=remedy)
        )
