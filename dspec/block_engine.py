"""The engine of a block-diffusion language model: requests decoded in batches, alone or with a stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from dspec.backends.block_judge import BlockJudge, streams_of
from dspec.backends.judge import check_ids
from dspec.backends.protocol import ArrayOps, BlockModel
from dspec.block_cost import measured
from dspec.block_plans import plan_of, scratch_of
from dspec.core.canvas import Filling
from dspec.core.decode import Limits
from dspec.core.denoising import denoise
from dspec.core.layouts import blocked
from dspec.core.plans import Plan
from dspec.core.policies import REJECTION, choose_policy
from dspec.core.self_speculation import speculate
from dspec.core.settings import read_integer
from dspec.core.trace import BlockStats, Commit, Event
from dspec.decoders import Autoregressive, Diffusion, SelfSpeculative, Speculative, Tree, Wino
from dspec.errors import ConfigError, explain
from dspec.generation import BlockChunk, BlockGeneration
from dspec.prompt import Prompt, encode_prompt, is_many
from dspec.request import Request, check_length, parse_request
from dspec.text import TextStream, open_text, read_pieces

BATCH_SIZE = 8  # prompts of a list that are decoded side by side


@dataclass(frozen=True)
class _Job:
    """Requests decoded side by side, all that can be checked of them checked."""

    prompts: list[list[int]]
    numbers: list[int]
    request: Request
    plan: Plan | Filling


@dataclass(frozen=True)
class BlockDiffusion:
    """Decodes with a block-diffusion language model. Made by `dspec.load_block_diffusion`.

    Every call opens its own session: requests share no state.

    Spec: SS-14, SS-22, SS-23, SS-24, SS-26.

    Args:
        model: the language model.
        ops: array operations of its backend.
    """

    model: BlockModel
    ops: ArrayOps
    _costs: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    def generate(
        self, prompt: Prompt | Sequence[Prompt], *, batch_size: int = BATCH_SIZE, **settings: Any
    ) -> Any:
        """Decode one prompt, or each of a list, some side by side.

        All prompts are checked before the first one is decoded.

        Args:
            prompt: text, token ids (a list or an integer array), chat messages, or a list of those.
            batch_size: prompts of a list that are decoded side by side; each one's output is what it is
                alone, up to near-ties.
            **settings: max_new_tokens=256, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0,
                stop=None, decoder=None, ignore_eos=False. `decoder` is one of `dspec.decoders`; None:
                `SelfSpeculative(exact=True)`, the law of block-size-one decoding.

        Returns:
            A `BlockGeneration`, or a list of them; the i-th prompt of a list is request i of the seed.

        Raises:
            ConfigError: a prompt or setting is unknown, unsupported or out of range.
            ShapeError: a token id outside the vocabulary.
            NumericsError: the model returned NaN.

        Example:
            >>> lm.generate("Q: 2 + 2?", max_new_tokens=16).text             # doctest: +SKIP
        """
        batch_size = read_integer("batch_size", batch_size, 1, 2**31, "an integer >= 1", clause="SS-22")
        request = parse_request(settings)
        if not is_many(prompt):
            return self._decode(self._job([prompt], request, ["prompt"]))[0]
        wheres = [f"prompt[{i}]" for i in range(len(prompt))]
        job = self._job(list(prompt), request, wheres)
        results: list[BlockGeneration] = []
        for i in range(0, len(prompt), batch_size):
            part = slice(i, i + batch_size)
            results += self._decode(_Job(job.prompts[part], job.numbers[part], request, job.plan))
        return results

    def stream(self, prompt: Prompt, **settings: Any) -> Iterator[BlockChunk]:
        """Yield what each pass makes final; the settings are those of `generate`.

        Everything is checked at the call, not at the first `next`.

        Args:
            prompt: text, token ids or chat messages.
            **settings: as for `generate`.

        Yields:
            One `BlockChunk` a pass that decides something; the last one carries `finish`.

        Raises:
            ConfigError: the prompt or a setting is unknown, unsupported or out of range.
            ShapeError: a token id outside the vocabulary.
        """
        job = self._job([prompt], parse_request(settings), ["prompt"])
        return (chunk for _, chunk in self._chunks(job))

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt.

        Raises:
            ConfigError: not a prompt, text without a tokenizer, or no tokens.
            ShapeError: an id outside the vocabulary.
        """
        return self._encode(prompt, "prompt")

    def logits(self, ids: Any, *, block_size: int) -> Any:
        """Return the logits of every position under the block-causal mask.

        Position i sees all of its block and of the blocks before it; block size 1 is causal.

        Spec: SS-1, SS-3.

        Args:
            ids: T token ids; the mask token among them, where something is to be predicted.
            block_size: positions a block, >= 1.

        Returns:
            (T, V) array of the backend; row i tells of token i (aligned) or i + 1 (shifted). The mask
            token has its logit.

        Raises:
            ConfigError: no ids, a block size below 1, or more ids than the model can read.
            ShapeError: an id outside the vocabulary.
        """
        size = read_integer("block_size", block_size, 1, 2**31, "an integer >= 1", clause="SS-3")
        ids = self._encode(ids, "ids")
        check_length(len(ids), self.model.max_positions)
        session = self.model.session(rows=1, capacity=len(ids))
        hidden = session.read([blocked(tuple(ids), start=0, block_size=size)])
        return session.logits(hidden, [list(range(len(ids)))])[0]

    def _encode(self, prompt: Any, where: str) -> list[int]:
        ids = encode_prompt(prompt, self.model.tokenizer, where)
        check_ids(ids, self.model.vocab_size, where)
        return ids

    def _job(self, prompts: Sequence[Any], request: Request, wheres: Sequence[str]) -> _Job:
        """Check all that can be checked without a pass."""
        decoder = request.decoder
        if request.policy is not None:
            remedy = "Put it into the decoder: SelfSpeculative(exact=True, policy=...)."
            raise ConfigError(explain("policy", request.policy, "None", remedy=remedy, clause="SS-23"))
        if request.log_probs is not None:
            remedy = "dspec.load(target, drafter) reports them."
            needed = "None: of a block-diffusion model they are not reported"
            raise ConfigError(
                explain("log_probs", repr(request.log_probs), needed, remedy=remedy, clause="SS-23")
            )
        if isinstance(decoder, (Speculative, Tree)):
            needed = "Autoregressive(), Diffusion(...), Wino(...), SelfSpeculative(...) or None"
            raise ConfigError(explain("decoder", decoder, needed, clause="SS-23"))
        decoder = decoder or SelfSpeculative(exact=True)
        assert isinstance(decoder, (Autoregressive, Diffusion, Wino, SelfSpeculative))
        open_text(self.model.tokenizer, request.stops)
        plan = plan_of(decoder, self.model)
        ids = [self._encode(prompt, where) for prompt, where in zip(prompts, wheres, strict=True)]
        for one in ids:
            check_length(len(one) + request.max_new_tokens, self.model.max_positions)
        return _Job(ids, list(range(len(ids))), request, measured(plan, self.model, self.ops, self._costs))

    def _decode(self, job: _Job) -> list[BlockGeneration]:
        start = perf_counter()
        chunks: list[list[BlockChunk]] = [[] for _ in job.prompts]
        for row, chunk in self._chunks(job):
            chunks[row].append(chunk)
        seconds = {"total": perf_counter() - start}
        return [_generation(own, seconds, self.model.tokenizer is not None) for own in chunks]

    def _chunks(self, job: _Job) -> Iterator[tuple[int, BlockChunk]]:
        """Run the loop; a row that meets a stop string is told to end."""
        request, stopped = job.request, set[int]()
        texts = [open_text(self.model.tokenizer, request.stops) for _ in job.prompts]
        for event in self._events(job, stopped):
            if event.row in stopped:
                continue
            chunk = _chunk(event, texts[event.row])
            if chunk.finish == "stop":
                stopped.add(event.row)
            yield event.row, chunk

    def _events(self, job: _Job, stopped: set[int]) -> Iterator[Event]:
        request, plan = job.request, job.plan
        longest = max(map(len, job.prompts)) + request.max_new_tokens
        capacity = longest + scratch_of(plan)
        session = self.model.session(rows=len(job.prompts), capacity=capacity)
        limits = Limits(request.max_new_tokens, frozenset() if request.ignore_eos else self.model.eos_ids)
        streams = streams_of(request.seed, job.numbers)
        # Slots of a block are drawn one by one here too, but the law they are judged by is the same
        # weights' own: sampled drafts stood four times as often as argmax ones at temperature 1.
        policy = choose_policy(getattr(request.decoder, "policy", None) or REJECTION.name, request.sampling)
        judge = BlockJudge(self.ops, policy, request.sampling, streams, self.model.mask_id)
        if isinstance(plan, Filling):
            return denoise(session, judge, job.prompts, limits, plan, stopped=stopped)
        return speculate(session, judge, job.prompts, limits, plan, stopped=stopped)


def _chunk(event: Event, text: TextStream | None) -> BlockChunk:
    tokens, pieces, finish = read_pieces(event.tokens, event.finish, text)
    return BlockChunk(
        tokens=tokens,
        pieces=pieces,
        commits=event.commits,
        n_accepted=event.n_accepted,
        n_drafted=event.n_drafted,
        forward_passes=event.passes,
        finish=finish,
    )


def _generation(chunks: Sequence[BlockChunk], seconds: dict[str, float], has_text: bool) -> BlockGeneration:
    tokens = tuple(token for chunk in chunks for token in chunk.tokens)
    judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
    trace: tuple[Commit, ...] = tuple(commit for chunk in chunks for commit in chunk.commits)
    return BlockGeneration(
        tokens=tokens,
        text="".join(chunk.text for chunk in chunks) if has_text else None,
        finish=chunks[-1].finish,
        stats=BlockStats(
            forward_passes=chunks[-1].forward_passes,
            n_tokens=len(tokens),
            n_accepted=tuple(chunk.n_accepted or 0 for chunk in judged),
            n_drafted=tuple(chunk.n_drafted for chunk in judged),
            seconds=seconds,
        ),
        trace=trace,
    )
