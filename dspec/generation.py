"""What decoding returns: chunks while it runs, a generation when it is done."""

from dataclasses import dataclass, field

from dspec.core.stats import Stats
from dspec.core.trace import BlockStats, Commit


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one pass emitted.

    Args:
        tokens: ids, cut at a stop or limit; accepted drafts first, the closing token last if uncut.
        pieces: the text that became certain with each token; empty without a tokenizer.
        n_accepted: accepted drafts, uncut; None for the prefill.
        n_drafted: drafted slots of the pass.
        finish: None while the request goes on, else "eos", "stop", "length" or, of `stream_many` alone,
            "error".
        error: what ended the request, where finish is "error".
        log_probs: the target's of each token, nats; None: they were not asked for.
    """

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    n_accepted: int | None
    n_drafted: int
    finish: str | None
    error: Exception | None = None
    log_probs: tuple[float, ...] | None = None

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
        log_probs: the target's of each token, nats; their sum is that of the output. None: not asked for.
    """

    tokens: tuple[int, ...]
    text: str | None
    finish: str | None
    stats: Stats
    chunks: tuple[Chunk, ...] = field(repr=False)
    log_probs: tuple[float, ...] | None = field(default=None, repr=False)

    @property
    def n_emitted(self) -> tuple[int, ...]:
        """Tokens of each verify pass, uncut."""
        return self.stats.n_emitted


@dataclass(frozen=True, kw_only=True)
class BlockChunk:
    """What one pass of a block-diffusion model made final.

    Spec: SS-24.

    Args:
        tokens: ids that are final now, in order; may be empty.
        pieces: the text that became certain with each token; empty without a tokenizer.
        commits: decisions of the pass, also those whose position is not final yet.
        n_accepted: accepted drafts of a verify pass, uncut; None: nothing was verified.
        n_drafted: drafts of it.
        forward_passes: of the request so far.
        finish: None while the request goes on, else "eos", "stop" or "length".
    """

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    commits: tuple[Commit, ...]
    n_accepted: int | None
    n_drafted: int
    forward_passes: int
    finish: str | None

    @property
    def text(self) -> str:
        """The chunk's text; "" without a tokenizer."""
        return "".join(self.pieces)


@dataclass(frozen=True, kw_only=True)
class BlockGeneration:
    """One output of a block-diffusion model.

    Spec: SS-24.

    Args:
        tokens: emitted ids, the prompt not included; an end token is kept.
        text: their text, cut before a stop string; None without a tokenizer.
        finish: "eos", "stop" or "length".
        stats: forward passes, accepted drafts, seconds.
        trace: every decision in order: position, token, kind, step.
    """

    tokens: tuple[int, ...]
    text: str | None
    finish: str | None
    stats: BlockStats
    trace: tuple[Commit, ...] = field(repr=False)
