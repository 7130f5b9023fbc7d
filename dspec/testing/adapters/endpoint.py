"""A client of an OpenAI-compatible completions endpoint that serves a table model. Standard library only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from dspec.errors import BackendUnavailable, ConfigError, DataError, explain

LARGEST = 2**20  # bytes of an answer
FINISHED = {"stop": True, "length": False}


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how to read the answer.

    Args:
        url: base, such as "http://127.0.0.1:8080/v1".
        model: name the server knows it by.
        vocabulary: letter of each token.
        eos: token that ends a text; it has no letter in an answer, only a finish reason.
        timeout: seconds a request.
        extra: further fields of the request.
    """

    url: str
    model: str
    vocabulary: str
    eos: int | None = None
    timeout: float = 30.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(explain("url", repr(self.url), "http:// or https://"))
        if not self.timeout > 0:
            raise ConfigError(explain("timeout", self.timeout, "seconds > 0"))

    def complete(self, prompt: str, *, max_tokens: int, seed: int) -> list[int]:
        """Return the tokens of one completion, an end token included.

        Args:
            prompt: letters.
            max_tokens: to ask for.
            seed: to ask for.

        Returns:
            Token ids.

        Raises:
            BackendUnavailable: nobody answers in time, or with an error.
            DataError: the answer is not of the completions form or not of this vocabulary.
        """
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "seed": seed, "n": 1}
        answer = self._post({**body, "temperature": 1.0, "top_p": 1.0, "stream": False, **self.extra})
        text, finish = _choice(answer)
        unknown = sorted(set(text) - set(self.vocabulary))
        if unknown:
            needed = f"letters of {self.vocabulary!r}"
            remedy = "The server must serve the model that write_table_model wrote."
            raise DataError(explain("choices[0].text", f"{unknown[0]!r} in it", needed, remedy=remedy))
        tokens = [self.vocabulary.index(letter) for letter in text]
        ended = self.eos is not None and FINISHED[finish]
        return [*tokens, self.eos] if ended and self.eos is not None else tokens

    def _post(self, body: Mapping[str, Any]) -> Any:
        address = self.url.rstrip("/") + "/completions"
        data = json.dumps(body).encode()
        request = Request(address, data, {"Content-Type": "application/json"}, method="POST")
        try:
            with urlopen(request, timeout=self.timeout) as response:
                raw = response.read(LARGEST + 1)
        except HTTPError as error:
            with error:
                said = error.read(200).decode("utf-8", "replace")
            message = explain(address, f"status {error.code}: {said}", "status 200")
            raise BackendUnavailable(message) from error
        except OSError as error:
            remedy = "Is the server running?"
            raise BackendUnavailable(
                explain(address, error, f"an answer within {self.timeout:g} s", remedy=remedy)
            ) from error
        if len(raw) > LARGEST:
            raise DataError(explain(address, "a longer answer", f"at most {LARGEST} bytes"))
        return _json(raw, address)


def _json(raw: bytes, address: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise DataError(explain(address, f"{raw[:80]!r}", "JSON")) from error


def _choice(answer: Any) -> tuple[str, str]:
    """Return text and finish reason of the first choice."""
    try:
        text, finish = answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        got = json.dumps(answer)[:80]
        raise DataError(explain("answer", got, "choices[0].text and .finish_reason")) from error
    if not isinstance(text, str) or finish not in FINISHED:
        got, needed = f"text {text!r:.40}, finish_reason {finish!r}", f"text, one of {sorted(FINISHED)}"
        raise DataError(explain("choices[0]", got, needed))
    return text, finish
