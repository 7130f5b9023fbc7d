"""A job: one request with all that is checked before its first pass, and what its passes turn into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dspec.backends.judge import RequestJudge
from dspec.backends.ledger import Ledger
from dspec.backends.protocol import DrafterModel
from dspec.backends.tree_judge import RequestTreeJudge
from dspec.core.cut_pass import DraftLength
from dspec.core.decode import Limits, Pass
from dspec.core.stats import Stats
from dspec.core.tree_decode import TreeSize
from dspec.generation import Chunk, Generation
from dspec.text import TextStream, read_pieces


@dataclass(frozen=True)
class Job:
    """One request, ready to be decoded once.

    Args:
        ids: of the prompt.
        limits: when it ends.
        judge: its policy, settings and uniforms.
        ahead: most drafts of a pass.
        drafter: that drafts for it, or None.
        length: how many of its drafts a pass verifies; None: all.
        size: how many nodes its trees have; None: as many in every pass.
        text: that its tokens are fed to; None: the model has no tokenizer.
        ledger: what the judge writes log-probabilities to; None: it writes none.
    """

    ids: list[int]
    limits: Limits
    judge: RequestJudge | RequestTreeJudge
    ahead: int
    drafter: DrafterModel | None
    length: DraftLength | None
    size: TreeSize | None
    text: TextStream | None
    ledger: Ledger | None = None

    @property
    def capacity(self) -> int:
        """Positions that prompt, output and the last pass's drafts may take."""
        return len(self.ids) + self.limits.max_new_tokens + self.ahead + 1

    def chunk(self, step: Pass) -> Chunk:
        """Return a pass as a chunk, cut after the token that completes a stop string."""
        tokens, pieces, finish = read_pieces(step.tokens, step.finish, self.text)
        return Chunk(
            tokens=tokens,
            pieces=pieces,
            n_accepted=step.n_accepted,
            n_drafted=step.n_drafted,
            finish=finish,
            error=step.error,
            log_probs=None if self.ledger is None else self.ledger.read(len(tokens)),
        )

    def generation(self, chunks: Sequence[Chunk], seconds: Mapping[str, float]) -> Generation:
        """Return the whole output of its chunks."""
        tokens = tuple(token for chunk in chunks for token in chunk.tokens)
        judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
        stats = Stats(
            n_accepted=tuple(chunk.n_accepted or 0 for chunk in judged),
            n_drafted=tuple(chunk.n_drafted for chunk in judged),
            n_tokens=len(tokens),
            seconds=seconds,
        )
        text = None if self.text is None else "".join(chunk.text for chunk in chunks)
        return Generation(
            tokens=tokens,
            text=text,
            finish=chunks[-1].finish,
            stats=stats,
            chunks=tuple(chunks),
            log_probs=None if self.ledger is None else tuple(p for c in chunks for p in c.log_probs or ()),
        )
