"""From tokens to text, one token at a time: pieces for a stream, stop strings."""

from collections.abc import Sequence
from typing import Any

from dspec.errors import ConfigError, explain


class TextStream:
    """Turns emitted tokens into text as they come and finds the first stop string.

    Work per token does not grow with the output: the tokenizer's own stream holds back incomplete
    characters, and only the last few characters are searched for a stop string.

    Spec: DL-9, RS-14.

    Args:
        tokenizer: a transformers tokenizer backed by `tokenizers`.
        stops: stop strings, none empty.

    Raises:
        ConfigError: a stop string is empty, or the tokenizer cannot stream.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "id_to_token"):
            remedy = "Pass token ids and read `.tokens`, or use a tokenizer with a tokenizer.json."
            raise ConfigError(
                explain("tokenizer", type(tokenizer).__name__, "one that can stream", remedy=remedy)
            )
        if any(not stop for stop in stops):
            raise ConfigError(explain("stop", "an empty string", "non-empty strings", clause="DL-9"))
        self._tokenizer = backend
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stops = tuple(stops)
        self._held = ""  # text that may be the beginning of a stop string

    def feed(self, token: int) -> tuple[str, bool]:
        """Take in one token.

        Args:
            token: its id.

        Returns:
            Text that is now certain, and whether a stop string was completed.
        """
        self._held += self._stream.step(self._tokenizer, token) or ""
        cut = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None)
        if cut is not None:
            text, self._held = self._held[:cut], ""
            return text, True
        keep = self._overlap()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, False

    def flush(self) -> str:
        """Return the text still held back; the output has ended without a stop string."""
        text, self._held = self._held, ""
        return text

    def _overlap(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stops):
                return n
        return 0
