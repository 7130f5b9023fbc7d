"""What decoding returns: chunks while it runs, a generation when it is done."""

from dataclasses import dataclass, field

from dspec.core.stats import Stats


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one pass emitted.

    Args:
        tokens: ids, cut at a stop or limit; accepted drafts first, the closing token last if uncut.
        pieces: the text that became certain with each token; empty without a tokenizer.
        n_accepted: accepted drafts, uncut; None for the prefill.
        n_drafted: drafted slots of the pass.
        finish: None while the request goes on, else "eos", "stop" or "length".
    """

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    n_accepted: int | None
    n_drafted: int
    finish: str | None

    @property
    def text(self) -> str:
        """The chunk's text; "" without a tokenizer."""
        return "".join(self.pieces)

    @property
    def accepted(self) -> tuple[bool, ...]:
        """For each token, whether it was an accepted draft (the others closed a pass)."""
        return tuple(i < (self.n_accepted or 0) for i in range(len(self.tokens)))


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One decoded output.

    Args:
        tokens: emitted ids, the prompt not included; an end token is kept.
        text: their text, cut before a stop string; None without a tokenizer.
        finish: "eos", "stop" or "length".
        stats: tau, acceptance by slot, seconds by part.
        chunks: what each pass emitted, in order.
    """

    tokens: tuple[int, ...]
    text: str | None
    finish: str | None
    stats: Stats
    chunks: tuple[Chunk, ...] = field(repr=False)

    @property
    def n_emitted(self) -> tuple[int, ...]:
        """Tokens of each verify pass, uncut."""
        return self.stats.n_emitted
