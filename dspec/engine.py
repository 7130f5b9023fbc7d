"""The engine: a target, a drafter, and requests decoded with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dspec.backends.judge import NoDrafter, RequestJudge, check_ids
from dspec.backends.protocol import ArrayOps, DrafterModel, TargetModel
from dspec.backends.tree_judge import RequestTreeJudge
from dspec.core.decode import Limits, Pass, block_pass, decode
from dspec.core.stats import Stats
from dspec.core.tree_decode import tree_pass
from dspec.decoders import Autoregressive, Speculative, Tree
from dspec.errors import ConfigError, explain
from dspec.generation import Chunk, Generation
from dspec.prompt import Prompt, encode_prompt, is_many
from dspec.request import Request, check_length, parse_request
from dspec.rng import Stream
from dspec.stopwatch import Stopwatch
from dspec.text import TextStream, open_text, read_pieces


@dataclass(frozen=True)
class _Job:
    """One request with all that is checked before its first pass."""

    ids: list[int]
    limits: Limits
    judge: RequestJudge | RequestTreeJudge
    ahead: int  # most drafts of a pass
    drafter: DrafterModel | None
    text: TextStream | None


@dataclass(frozen=True)
class Engine:
    """Decodes with a target and, if there is one, a drafter. Made by `dspec.load`.

    Every call opens its own sessions: requests share no state, and a failing one leaves none.

    Spec: DL-1, DL-7, DL-8, DL-9, DL-11, RS-8, RS-10, RS-13, RS-23.

    Args:
        target: the model whose law is kept.
        drafter: the model that proposes; None decodes one token a pass.
        ops: array operations of the backend both live on.
    """

    target: TargetModel
    drafter: DrafterModel | None
    ops: ArrayOps

    def generate(self, prompt: Prompt | Sequence[Prompt], **settings: Any) -> Any:
        """Decode one prompt, or each of a list.

        All prompts are checked before the first one is decoded.

        Args:
            prompt: text, token ids (a list or an integer array), chat messages, or a list of those.
            **settings: max_new_tokens=256, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0,
                stop=None, policy=None, decoder=None, ignore_eos=False. `decoder=None` drafts if
                there is a drafter; `Speculative(...)` and `Tree(...)` need one.

        Returns:
            A `Generation`, or a list of them; the i-th prompt of a list is request i of the seed.

        Raises:
            ConfigError: a prompt or setting is unknown, unsupported or out of range.
            ShapeError: a token id outside the vocabulary.
            NumericsError: the model returned NaN.
            BackendUnavailable: `Tree(...)` with a target that reads no trees.
        """
        request = parse_request(settings)
        if not is_many(prompt):
            return self._generate(self._job(prompt, request))
        jobs = [
            self._job(one, replace(request, number=i), where=f"prompt[{i}]") for i, one in enumerate(prompt)
        ]
        return [self._generate(job) for job in jobs]

    def stream(self, prompt: Prompt, **settings: Any) -> Iterator[Chunk]:
        """Yield what each pass emits; the settings are those of `generate`.

        Everything is checked at the call, not at the first `next`.

        Args:
            prompt: text, token ids or chat messages.
            **settings: as for `generate`.

        Yields:
            One `Chunk` a pass; the last one carries `finish`.

        Raises:
            ConfigError: the prompt or a setting is unknown, unsupported or out of range.
            ShapeError: a token id outside the vocabulary.
            BackendUnavailable: `Tree(...)` with a target that reads no trees.
        """
        return self._stream(self._job(prompt, parse_request(settings)))

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt.

        Args:
            prompt: text, token ids or chat messages.

        Returns:
            Ids, all inside the vocabulary.

        Raises:
            ConfigError: not a prompt, text without a tokenizer, or no tokens.
            ShapeError: an id outside the vocabulary.
        """
        return self._encode(prompt, "prompt")

    def _encode(self, prompt: Any, where: str) -> list[int]:
        ids = encode_prompt(prompt, self.target.tokenizer, where)
        check_ids(ids, self.target.vocab_size, where)
        return ids

    def _job(self, prompt: Any, request: Request, where: str = "prompt") -> _Job:
        """Check all that can be checked without a model pass."""
        drafter = self._drafter_for(request.decoder)
        n_slots = 0 if drafter is None else drafter.block_size - 1
        stream = Stream(request.seed, request.number)
        judge = RequestJudge(self.ops, request.rule(), request.sampling, stream, n_slots)
        budget = request.decoder.budget if isinstance(request.decoder, Tree) else None
        ids = self._encode(prompt, where)
        check_length(len(ids) + request.max_new_tokens, self.target.max_positions)
        return _Job(
            ids=ids,
            limits=Limits(request.max_new_tokens, frozenset() if request.ignore_eos else self.target.eos_ids),
            judge=judge if budget is None else RequestTreeJudge(judge, budget),
            ahead=max(n_slots, budget or 0),
            drafter=drafter,
            text=open_text(self.target.tokenizer, request.stops),
        )

    def _drafter_for(self, decoder: Any) -> DrafterModel | None:
        """Return who drafts, or refuse what cannot be done with these models."""
        if not isinstance(decoder, (Speculative, Tree, Autoregressive, type(None))):
            remedy = "Open a block-diffusion model: dspec.load_block_diffusion(...)."
            needed = "Speculative(...), Tree(...), Autoregressive() or None"
            raise ConfigError(explain("decoder", decoder, needed, remedy=remedy, clause="RS-13"))
        if isinstance(decoder, (Speculative, Tree)) and self.drafter is None:
            remedy = "Load one, dspec.load(target, drafter), or leave `decoder` out."
            raise ConfigError(explain("decoder", decoder, "a drafter: this engine has none", remedy=remedy))
        if isinstance(decoder, Tree):
            self.target.check_trees()
        return None if isinstance(decoder, Autoregressive) else self.drafter

    def _generate(self, job: _Job) -> Generation:
        watch = Stopwatch(self.ops)
        with watch.total():
            chunks = list(self._stream(job, watch))
        tokens = [token for chunk in chunks for token in chunk.tokens]
        judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
        stats = Stats(
            n_accepted=tuple(chunk.n_accepted for chunk in judged),
            n_drafted=tuple(chunk.n_drafted for chunk in judged),
            n_tokens=len(tokens),
            seconds=watch.read(),
        )
        text = None if job.text is None else "".join(chunk.text for chunk in chunks)
        return Generation(
            tokens=tuple(tokens), text=text, finish=chunks[-1].finish, stats=stats, chunks=tuple(chunks)
        )

    def _stream(self, job: _Job, watch: Stopwatch | None = None) -> Iterator[Chunk]:
        for step in self._passes(job, watch):
            yield (chunk := _chunk(step, job.text))
            if chunk.finish == "stop":
                return

    def _passes(self, job: _Job, watch: Stopwatch | None) -> Iterator[Pass]:
        """Open the sessions of one request and run the loop; nobody reads the time of a stream."""
        capacity = len(job.ids) + job.limits.max_new_tokens + job.ahead + 1
        layer_ids = () if job.drafter is None else job.drafter.layer_ids
        target: Any = self.target.session(layer_ids=layer_ids, capacity=capacity)
        drafter: Any = NoDrafter(self.ops)
        if job.drafter is not None:
            drafter = job.drafter.session(self.target, capacity=capacity)
        if watch is not None:
            target, drafter = watch.target(target), watch.drafter(drafter)
        one_pass = tree_pass if isinstance(job.judge, RequestTreeJudge) else block_pass
        yield from decode(target, drafter, job.judge, job.ids, job.limits, one_pass=one_pass)


def _chunk(step: Pass, text: TextStream | None) -> Chunk:
    """Turn a pass into a chunk, cut after the token that completes a stop string."""
    tokens, pieces, finish = read_pieces(step.tokens, step.finish, text)
    return Chunk(
        tokens=tokens,
        pieces=pieces,
        n_accepted=step.n_accepted,
        n_drafted=step.n_drafted,
        finish=finish,
    )
