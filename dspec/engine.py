"""The engine: a target, a drafter, and requests decoded with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from dspec.backends.draft_arrays import DraftArrays
from dspec.backends.judge import NoDrafter, RequestJudge, check_ids
from dspec.backends.ledger import Ledger
from dspec.backends.protocol import ArrayOps, DrafterModel, TargetModel
from dspec.backends.sampled_judge import tree_judge
from dspec.backends.tree_judge import RequestTreeJudge
from dspec.batching import BATCH_SIZE, alike, batch_chunks, open_batch
from dspec.core.cut_pass import CutPass
from dspec.core.decode import Limits, Pass, block_pass, decode
from dspec.core.tree_decode import SizedTreePass, tree_pass
from dspec.decoders import Autoregressive, Speculative, Tree
from dspec.drafting import length_of, size_of, windowed
from dspec.errors import ConfigError, NumericsError, explain
from dspec.generation import Chunk, Generation
from dspec.job import Job
from dspec.pass_costs import PassCosts
from dspec.prompt import Prompt, encode_prompt, is_many
from dspec.request import Request, check_batch_size, check_length, parse_request, parse_requests
from dspec.rng import Stream
from dspec.stopwatch import Stopwatch
from dspec.text import open_text


@dataclass(frozen=True)
class Engine:
    """Decodes with a target and, if there is one, a drafter. Made by `dspec.load`.

    Every call opens its own sessions: requests share no state, and a failing one leaves none.

    Spec: DL-1, DL-7, DL-8, DL-9, DL-11, DL-12, DL-13, RS-8, RS-10, RS-13, RS-19, RS-23.

    Args:
        target: the model whose law is kept.
        drafter: the model that proposes; None decodes one token a pass.
        ops: array operations of the backend both live on.
    """

    target: TargetModel
    drafter: DrafterModel | None
    ops: ArrayOps
    # Measured once (DL-13, DL-14); an engine made by `replace` measures its own.
    _costs: PassCosts = field(default_factory=PassCosts, init=False, repr=False, compare=False)

    def generate(
        self, prompt: Prompt | Sequence[Prompt], *, batch_size: int = BATCH_SIZE, **settings: Any
    ) -> Any:
        """Decode one prompt, or each of a list, some side by side.

        All prompts are checked before the first one is decoded.

        Spec: DL-12, RN-4.

        Args:
            prompt: text, token ids (a list or an integer array), chat messages, or a list of those.
            batch_size: prompts of a list that are decoded side by side, where the models can; each one's
                output is what it is alone, up to what a pass of another shape rounds differently. 1: one
                after another.
            **settings: max_new_tokens=256, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0,
                stop=None, policy=None, decoder=None, ignore_eos=False, log_probs=None. `decoder=None`
                drafts if there is a drafter; `Speculative(...)` and `Tree(...)` need one. `log_probs` is
                "raw" or "warped": the target's log-probability of every token, before or under the
                sampling settings.

        Returns:
            A `Generation`, or a list of them in the order asked; the i-th prompt of a list is request i of
            the seed. `stats.seconds` of one decoded in a batch has "total" alone: its share of the batch's
            time, by passes.

        Raises:
            ConfigError: a prompt or setting is unknown, unsupported or out of range.
            ShapeError: a token id outside the vocabulary.
            NumericsError: the model returned NaN; of a list, the first request to meet it is named.
            BackendUnavailable: `Tree(...)` with a target that reads no trees.
        """
        check_batch_size(batch_size)
        request = parse_request(settings)
        if not is_many(prompt):
            return self._generate(self._job(prompt, request))
        return self._generations(self._jobs(prompt, [request] * len(prompt)), batch_size)

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

    def stream_many(
        self,
        prompts: Sequence[Prompt],
        *,
        settings: Sequence[Mapping[str, Any]] | None = None,
        batch_size: int = BATCH_SIZE,
        **shared: Any,
    ) -> Iterator[tuple[int, Chunk]]:
        """Yield what each pass emits for each of many requests, each with its own settings.

        Everything is checked at the call, not at the first `next`.

        Spec: DL-12, RN-4.

        Args:
            prompts: text, token ids or chat messages; the i-th is request i of its seed.
            settings: of each prompt, those of `generate`; they go before the shared ones. None: no own.
            batch_size: requests decoded side by side, where the models can.
            **shared: settings of all.

        Yields:
            The place of the prompt and a `Chunk`, as passes end; a request's last chunk carries `finish`.
            One that fails by NaN ends with finish "error", its `NumericsError` in `error`, and the others
            go on.

        Raises:
            ConfigError: a prompt or setting is unknown, unsupported or out of range, or not one mapping of
                settings a prompt.
            ShapeError: a token id outside the vocabulary.

        Example:
            >>> for i, chunk in engine.stream_many(["Q: 1 + 1?", "Q: 2 + 2?"]):  # doctest: +SKIP
            ...     print(i, chunk.text)
        """
        check_batch_size(batch_size)
        requests = parse_requests(prompts, settings, shared)
        return self._side_by_side(self._jobs(prompts, requests), batch_size)

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

    def _job(self, prompt: Any, request: Request) -> Job:
        return self._opened(request, *self._checked(prompt, request, "prompt"))

    def _jobs(self, prompts: Sequence[Any], requests: Sequence[Request]) -> list[Job]:
        """Return a job a prompt; all prompts are checked before the machine is measured for one of them."""
        pairs = list(zip(prompts, requests, strict=True))
        checked = [self._checked(*pair, f"prompt[{i}]") for i, pair in enumerate(pairs)]
        return [
            self._opened(replace(request, number=i), *found)
            for i, (request, found) in enumerate(zip(requests, checked, strict=True))
        ]

    def _checked(self, prompt: Any, request: Request, where: str) -> tuple[list[int], DrafterModel | None]:
        """Check all that can be checked without a pass; return the prompt's ids and who drafts."""
        drafter = self._drafter_for(request.decoder)
        ids = self._encode(prompt, where)
        check_length(len(ids) + request.max_new_tokens, self.target.max_positions)
        return ids, drafter

    def _opened(self, request: Request, ids: list[int], drafter: DrafterModel | None) -> Job:
        """Return the job of a request, after measuring the machine where that is asked for."""
        n_slots = 0 if drafter is None else drafter.block_size - 1
        stream = Stream(request.seed, request.number)
        law = request.reports()
        ledger = None if law is None else Ledger(law)
        judge = RequestJudge(self.ops, request.rule(), request.sampling, stream, n_slots, ledger)
        tree = request.decoder if isinstance(request.decoder, Tree) else None
        size = size_of(request.decoder, self, self._costs)
        most = 0 if tree is None else int(tree.budget) if size is None else size.largest
        return Job(
            ids=ids,
            limits=Limits(request.max_new_tokens, frozenset() if request.ignore_eos else self.target.eos_ids),
            judge=judge if tree is None else tree_judge(judge, most, sampled=tree.drafts == "sampled"),
            ahead=max(n_slots, most),
            drafter=drafter,
            length=length_of(request.decoder, self, self._costs),
            size=size,
            text=open_text(self.target.tokenizer, request.stops),
            ledger=ledger,
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
        if isinstance(decoder, Autoregressive) or self.drafter is None:
            return None
        return windowed(self.drafter, getattr(decoder, "draft_window", None))

    def _generate(self, job: Job) -> Generation:
        watch = Stopwatch(self.ops)
        with watch.total():
            chunks = list(self._stream(job, watch))
        return job.generation(chunks, watch.read())

    def _generations(self, jobs: Sequence[Job], batch_size: int) -> list[Generation]:
        """Decode jobs with one drafter or none; one after another each has its own time by parts."""
        rows = min(batch_size, len(jobs))
        sessions = open_batch(self.target, self.ops, jobs, rows) if rows > 1 else None
        if sessions is None:
            return [self._generate(job) for job in jobs]
        start = perf_counter()
        chunks: list[list[Chunk]] = [[] for _ in jobs]
        for i, chunk in batch_chunks(sessions, self.ops, jobs, rows):
            if chunk.error is not None:
                raise chunk.error
            chunks[i].append(chunk)
        a_pass = (perf_counter() - start) / sum(map(len, chunks))
        return [job.generation(own, {"total": a_pass * len(own)}) for job, own in zip(jobs, chunks)]

    def _side_by_side(self, jobs: Sequence[Job], batch_size: int) -> Iterator[tuple[int, Chunk]]:
        """Decode jobs of blocks, of trees, then those that do not draft; in batches where the models can."""
        for places in alike(jobs):
            part = [jobs[i] for i in places]
            rows = min(batch_size, len(part))
            sessions = open_batch(self.target, self.ops, part, rows) if rows > 1 else None
            if sessions is None:
                yield from ((i, chunk) for i in places for chunk in self._alone(jobs[i]))
            else:
                found = batch_chunks(sessions, self.ops, part, rows)
                yield from ((places[at], chunk) for at, chunk in found)

    def _alone(self, job: Job) -> Iterator[Chunk]:
        """Decode one of many: its failure is its own."""
        try:
            yield from self._stream(job)
        except NumericsError as error:
            yield job.chunk(Pass((), None, 0, "error", error))

    def _stream(self, job: Job, watch: Stopwatch | None = None) -> Iterator[Chunk]:
        for step in self._passes(job, watch):
            yield (chunk := job.chunk(step))
            if chunk.finish == "stop":
                return

    def _passes(self, job: Job, watch: Stopwatch | None) -> Iterator[Pass]:
        """Open the sessions of one request and run the loop; nobody reads the time of a stream."""
        layer_ids = () if job.drafter is None else job.drafter.layer_ids
        target: Any = self.target.session(layer_ids=layer_ids, capacity=job.capacity)
        drafter: Any = NoDrafter(self.ops)
        if job.drafter is not None:
            drafter = job.drafter.session(self.target, capacity=job.capacity)
        if watch is not None:
            target, drafter = watch.target(target), watch.drafter(drafter)
        one_pass: Any = tree_pass if isinstance(job.judge, RequestTreeJudge) else block_pass
        if job.length is not None:
            one_pass = CutPass(job.length, DraftArrays(self.ops))
        if job.size is not None:
            one_pass = SizedTreePass(job.size, DraftArrays(self.ops))
        yield from decode(target, drafter, job.judge, job.ids, job.limits, one_pass=one_pass)
