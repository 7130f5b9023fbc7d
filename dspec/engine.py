"""The engine: a target, a drafter, and requests decoded with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dspec.backends.judge import NoDrafter, RequestJudge, check_ids
from dspec.backends.protocol import ArrayOps, DrafterModel, TargetModel
from dspec.core.decode import Limits, Pass, decode
from dspec.core.policies import choose_policy
from dspec.core.stats import Stats
from dspec.decoders import Speculative
from dspec.errors import ConfigError, explain
from dspec.generation import Chunk, Generation
from dspec.io.examples import encode_text, start_tokens
from dspec.request import Request, parse_request
from dspec.rng import Stream
from dspec.stopwatch import Stopwatch
from dspec.text import TextStream

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Engine:
    """Decodes with a target and, if there is one, a drafter. Made by `dspec.load`.

    Every call opens its own sessions: requests share no state, and a failing one leaves none.

    Spec: DL-1, DL-7, DL-8, DL-9, RS-8, RS-10, RS-13.

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

        Args:
            prompt: text, token ids, chat messages, or a list of those.
            **settings: max_new_tokens=256, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0,
                stop=(), policy=None, decoder=None, ignore_eos=False.

        Returns:
            A `Generation`, or a list of them; the i-th prompt of a list is request i of the seed.

        Raises:
            ConfigError: a setting is unknown, unsupported or out of range.
            NumericsError: the model returned NaN.
        """
        request = parse_request(settings)
        if not _is_many(prompt):
            return self._generate(prompt, request)
        return [self._generate(one, replace(request, number=i)) for i, one in enumerate(prompt)]

    def stream(self, prompt: Prompt, **settings: Any) -> Iterator[Chunk]:
        """Yield what each pass emits; the settings are those of `generate`.

        Args:
            prompt: text, token ids or chat messages.
            **settings: as for `generate`.

        Yields:
            One `Chunk` a pass; the last one carries `finish`.

        Raises:
            ConfigError: a setting is unknown, unsupported or out of range.
        """
        # Checked now, not at the first `next`: a generator would raise far from the call.
        request = parse_request(settings)
        return self._stream(self.encode(prompt), request, Stopwatch(self.ops))

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt.

        Args:
            prompt: text, token ids or chat messages.

        Returns:
            Ids, all inside the vocabulary.

        Raises:
            ConfigError: text without a tokenizer, or no tokens.
            ShapeError: an id outside the vocabulary.
        """
        ids = self._encode(prompt)
        if not ids:
            raise ConfigError(explain("prompt", "no tokens", "at least one token", clause="DL-1"))
        check_ids(ids, self.target.vocab_size, "prompt")
        return ids

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str) and all(isinstance(t, int) for t in prompt):
            return list(prompt)
        tokenizer = self.target.tokenizer
        if tokenizer is None:
            remedy = "Pass token ids, or a target folder with a tokenizer."
            raise ConfigError(
                explain(
                    "prompt", type(prompt).__name__, "token ids: the target has no tokenizer", remedy=remedy
                )
            )
        if isinstance(prompt, str):
            return start_tokens(tokenizer) + encode_text(tokenizer, prompt)
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                explain("prompt", "chat messages", "text or ids: the tokenizer has no chat template")
            )
        text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
        return encode_text(tokenizer, text)

    def _generate(self, prompt: Prompt, request: Request) -> Generation:
        watch = Stopwatch(self.ops)
        ids = self.encode(prompt)
        with watch.total():
            chunks = list(self._stream(ids, request, watch))
        tokens = [token for chunk in chunks for token in chunk.tokens]
        judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
        stats = Stats(
            n_accepted=tuple(chunk.n_accepted for chunk in judged),
            n_drafted=tuple(chunk.n_drafted for chunk in judged),
            n_tokens=len(tokens),
            seconds=watch.read(),
        )
        text = None if self.target.tokenizer is None else "".join(chunk.text for chunk in chunks)
        return Generation(
            tokens=tuple(tokens), text=text, finish=chunks[-1].finish, stats=stats, chunks=tuple(chunks)
        )

    def _stream(self, ids: list[int], request: Request, watch: Stopwatch) -> Iterator[Chunk]:
        text = self._text_stream(request)
        for step in self._passes(ids, request, watch):
            yield (chunk := _chunk(step, text))
            if chunk.finish == "stop":
                return

    def _passes(self, ids: list[int], request: Request, watch: Stopwatch) -> Iterator[Pass]:
        """Open the sessions of one request and run the loop."""
        speculative = isinstance(request.decoder, Speculative) and self.drafter is not None
        block_size = self.drafter.block_size if speculative else 1
        policy = choose_policy(getattr(request.decoder, "policy", None), request.sampling)
        capacity = len(ids) + request.max_new_tokens + block_size
        self._check_length(len(ids) + request.max_new_tokens)
        layer_ids = self.drafter.layer_ids if speculative else ()
        target = self.target.session(layer_ids=layer_ids, capacity=capacity)
        drafter = self.drafter.session(self.target, capacity=capacity) if speculative else NoDrafter(self.ops)
        judge = RequestJudge(
            self.ops, policy, request.sampling, Stream(request.seed, request.number), block_size - 1
        )
        limits = Limits(request.max_new_tokens, frozenset() if request.ignore_eos else self.target.eos_ids)
        yield from decode(watch.target(target), watch.drafter(drafter), judge, ids, limits)

    def _check_length(self, length: int) -> None:
        longest = self.target.max_positions
        if longest is not None and length > longest:
            remedy = "Shorten the prompt or lower max_new_tokens."
            raise ConfigError(
                explain("prompt + max_new_tokens", length, f"at most {longest} positions", remedy=remedy)
            )

    def _text_stream(self, request: Request) -> TextStream | None:
        if self.target.tokenizer is not None:
            return TextStream(self.target.tokenizer, request.stops)
        if request.stops:
            raise ConfigError(
                explain("stop", request.stops, "nothing: the target has no tokenizer", clause="DL-9")
            )
        return None


def _chunk(step: Pass, text: TextStream | None) -> Chunk:
    """Turn a pass into a chunk, cut after the token that completes a stop string."""
    pieces, tokens, finish = [], step.tokens, step.finish
    for token in tokens if text is not None else ():
        piece, stopped = text.feed(token)
        pieces.append(piece)
        if stopped:
            tokens, finish = tokens[: len(pieces)], "stop"
            break
    if text is not None and finish in ("eos", "length"):
        pieces[-1] += text.flush()
    return Chunk(
        tokens=tokens,
        pieces=tuple(pieces),
        n_accepted=step.n_accepted,
        n_drafted=step.n_drafted,
        finish=finish,
    )


def _is_many(prompt: Any) -> bool:
    """Whether `prompt` is a list of prompts rather than one."""
    return not isinstance(prompt, str) and len(prompt) > 0 and not isinstance(prompt[0], (int, Mapping))
