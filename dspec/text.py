"""From tokens to text, one token at a time: pieces for a stream, stop strings."""

from collections.abc import Sequence
from typing import Any

from dspec.errors import ConfigError, explain

UNREADABLE = "\ufffd"  # what a decoder writes for bytes that are no character (yet)
# Tokens that may wait for the rest of a character. It has at most 4 bytes: what is unreadable after this
# many tokens stays so, and decoding from any of the last 7 bytes on agrees on what the last 3 begin.
PATIENCE = 8


class PieceStream:
    """Turns tokens into text as they come; all pieces and the rest make up the decoded whole.

    A token's text is shown once no later token can change it: an incomplete character at the end waits.
    Only a window of the last tokens is decoded again, so that work per token does not grow with the
    output, whatever the tokens. The window always begins with shown tokens: decoders that cut the space
    before the first word then cut none later, and a character whose beginning is outside has been shown.

    For a byte-level tokenizer the pieces are the decoded whole for any tokens. A tokenizer of byte-fallback
    tokens spoils a whole run of them for one wrong byte, also characters that were shown before it; those
    stay, since shown text cannot be taken back.

    Args:
        backend: a `tokenizers.Tokenizer`.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._skipped = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self._window: list[int] = []
        self._shown = ""  # the beginning of the window's text that was shown, or stands for it
        self._waiting = 0  # tokens since text was last shown

    def feed(self, token: int) -> str:
        """Take in one token; return the text that is now certain."""
        if token in self._skipped or self._backend.id_to_token(token) is None:
            return ""  # neither has a text, nor is it the first word that a decoder would strip
        self._window.append(token)
        self._waiting += 1
        text = self._decode(self._window)
        sure = text.rstrip(UNREADABLE)
        piece, rest = "", text[len(sure) :]
        if sure == text:
            piece = self._after_shown(text)
        elif sure.startswith(self._shown):
            piece = sure[len(self._shown) :]
        if piece:
            self._shorten(self._waiting, rest)
        elif self._waiting == PATIENCE:
            unshown = self._after_shown(text)
            piece, rest = unshown[:-1], unshown[-1:]  # the last sign may yet become a character
            self._shorten(PATIENCE - 1, rest)
        return piece

    def flush(self) -> str:
        """Return the text of what still waits, unreadable or not; the output has ended."""
        piece = self._after_shown(self._decode(self._window))
        self._shorten(len(self._window), "")
        return piece

    def _after_shown(self, text: str) -> str:
        """Return the end of the window's text that was not shown."""
        if text.startswith(self._shown):
            return text[len(self._shown) :]
        # The decoder has changed its mind about shown text: go on with the text of what waits.
        return self._decode(self._window[-self._waiting :])

    def _shorten(self, n: int, rest: str) -> None:
        """Keep the last n tokens, of whose text all but `rest` has been shown."""
        self._window, self._waiting = self._window[-n:], 0
        self._shown = self._decode(self._window).removesuffix(rest)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))


class TextStream:
    """Turns emitted tokens into text as they come and finds the first stop string.

    Spec: DL-9, RS-14.

    Args:
        tokenizer: a transformers tokenizer backed by `tokenizers`.
        stops: stop strings, none empty.

    Raises:
        ConfigError: the tokenizer cannot stream, or a stop string holds a special token, which has no
            text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "get_added_tokens_decoder"):
            remedy = "Pass token ids and read `.tokens`, or use a tokenizer with a tokenizer.json."
            raise ConfigError(
                explain("tokenizer", type(tokenizer).__name__, "one that can stream", remedy=remedy)
            )
        _check_stops(stops, backend)
        self._pieces = PieceStream(backend)
        self._stops = tuple(stops)
        self._held = ""  # text that may be the beginning of a stop string

    def feed(self, token: int) -> tuple[str, bool]:
        """Take in one token.

        Args:
            token: its id.

        Returns:
            Text that is now certain, and whether a stop string was completed.
        """
        self._held += self._pieces.feed(token)
        cut = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None)
        if cut is not None:
            text, self._held = self._held[:cut], ""
            return text, True
        keep = self._overlap()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, False

    def flush(self) -> str:
        """Return the text still held back; the output has ended without a stop string."""
        text, self._held = self._held + self._pieces.flush(), ""
        return text

    def _overlap(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stops):
                return n
        return 0


def open_text(tokenizer: Any, stops: Sequence[str]) -> TextStream | None:
    """Return the text stream of a request; None where the model has no tokenizer.

    Spec: DL-9.

    Args:
        tokenizer: of the model, or None.
        stops: stop strings of the request.

    Raises:
        ConfigError: stop strings without a tokenizer.

    Example:
        >>> open_text(None, ()) is None
        True
    """
    if tokenizer is not None:
        return TextStream(tokenizer, stops)
    if stops:
        needed = "nothing: the target has no tokenizer"
        raise ConfigError(explain("stop", tuple(stops), needed, clause="DL-9"))
    return None


def read_pieces(
    tokens: tuple[int, ...], finish: str | None, text: TextStream | None
) -> tuple[tuple[int, ...], tuple[str, ...], str | None]:
    """Turn emitted tokens into pieces of text, cut after the token that completes a stop string.

    Spec: DL-9, RS-14.

    Args:
        tokens: of one pass, cut at an end token or limit.
        finish: why the output ends with them, or None.
        text: of the request; None: there is no tokenizer, hence no text.

    Returns:
        The tokens, a piece for each (none without a tokenizer), and why the output ends.
    """
    pieces: list[str] = []
    for token in tokens if text is not None else ():
        piece, stopped = text.feed(token)
        pieces.append(piece)
        if stopped:
            tokens, finish = tokens[: len(pieces)], "stop"
            break
    if text is not None and finish in ("eos", "length") and pieces:
        pieces[-1] += text.flush()
    return tokens, tuple(pieces), finish


def _check_stops(stops: Sequence[str], backend: Any) -> None:
    """Refuse a stop string that holds a special token: the text never does, so it would never match."""
    special = [t.content for t in backend.get_added_tokens_decoder().values() if t.special]
    for stop in stops:
        if any(token in stop for token in special if token):
            remedy = "A model's end tokens end the output without a stop string."
            needed = "a string without special tokens: they have no text"
            raise ConfigError(explain("stop", repr(stop), needed, remedy=remedy, clause="DL-9"))
