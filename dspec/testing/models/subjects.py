"""dspec's own engines and backends in the forms that the pipeline's checks take."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dspec.core.policies import REJECTION, draft_tokens
from dspec.core.rejection import verify_greedy
from dspec.core.types import Draft, Sampling
from dspec.decoders import Autoregressive
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.request import parse_request
from dspec.testing.checks.independence import Key, Outputs, logged_keys
from dspec.testing.checks.isolation import Asked
from dspec.testing.checks.stops import EOS, VOCAB, Case, Ended, spell
from dspec.testing.models.places import PlaceDrafter, PlaceTarget, certain

PROMPT = (0, 1)


def interleaved(engine: Any, **settings: Any) -> Callable[[Sequence[Asked]], list[Any]]:
    """Return requests -> outputs, for `check_isolation`: all streams are open, a pass of each in turn.

    Args:
        engine: a `dspec.engine.Engine`.
        **settings: sampling and policy, as for `Engine.generate`.
    """

    def generate(asked: Sequence[Asked]) -> list[Any]:
        # `Engine.stream` numbers its request 0; a request's number is what this is about.
        streams = [engine._stream(_job(engine, one, settings)) for one in asked]
        outputs: list[list[Any]] = [[] for _ in asked]
        going = list(range(len(asked)))
        while going:
            for index in list(going):
                chunk = next(streams[index], None)
                if chunk is None:
                    going.remove(index)
                else:
                    outputs[index].append((chunk.tokens, chunk.n_accepted, chunk.finish))
        return outputs

    return generate


def _job(engine: Any, one: Asked, settings: dict[str, Any]) -> Any:
    decoder: dict[str, Any] = {} if one.drafts else {"policy": None, "decoder": Autoregressive()}
    limit = {"seed": one.seed, "max_new_tokens": one.max_new_tokens}
    request = replace(parse_request({**settings, **decoder, **limit}), number=one.number)
    return engine._job(list(one.prompt), request)


def side_by_side(
    engine: Any, *, batch_size: int = 3, **settings: Any
) -> Callable[[Sequence[Asked]], list[Any]]:
    """Return requests -> outputs, for `check_isolation`: in the rows of a batch, each with its own limits.

    Args:
        engine: a `dspec.engine.Engine`.
        batch_size: rows.
        **settings: sampling and policy, as for `Engine.generate`.
    """

    def generate(asked: Sequence[Asked]) -> list[Any]:
        jobs = [_job(engine, one, settings) for one in asked]
        outputs: list[list[Any]] = [[] for _ in asked]
        for index, chunk in engine._side_by_side(jobs, batch_size):
            outputs[index].append((chunk.tokens, chunk.n_accepted, chunk.finish))
        return outputs

    return generate


def listed(engine: Any, *, batch_size: int = 1, **settings: Any) -> Callable[[Sequence[Asked]], list[Any]]:
    """Return requests -> outputs, for `check_isolation`: by `Engine.generate` on lists.

    The place in the list is the request's number, so other requests of the same seed and limit fill the
    places between.

    Args:
        engine: a `dspec.engine.Engine`.
        batch_size: requests decoded side by side; 1: one after another.
        **settings: sampling and policy, as for `Engine.generate`.
    """

    def generate(asked: Sequence[Asked]) -> list[Any]:
        outputs: list[Any] = [None] * len(asked)
        groups: dict[Any, dict[int, int]] = {}
        for index, one in enumerate(asked):
            kind = (one.seed, one.max_new_tokens, one.drafts)
            while one.number in groups.setdefault(kind, {}):
                kind = (*kind, "again")
            groups[kind][one.number] = index
        for (seed, limit, drafts, *_), places in groups.items():
            prompts = [list(asked[next(iter(places.values()))].prompt)] * (max(places) + 1)
            for number, index in places.items():
                prompts[number] = list(asked[index].prompt)
            decoder: dict[str, Any] = {} if drafts else {"policy": None, "decoder": Autoregressive()}
            own = {**settings, **decoder, "seed": seed, "max_new_tokens": limit}
            found = engine.generate(prompts, batch_size=batch_size, **own)
            for number, index in places.items():
                out = found[number]
                outputs[index] = (out.tokens, out.stats.n_accepted, out.finish)
        return outputs

    return generate


def outputs_of(engine: Any, prompt: Sequence[int], **settings: Any) -> Outputs:
    """Return (seed, count) -> tokens of as many requests with one prompt, for `kinds_of`.

    Args:
        engine: a `dspec.engine.Engine`.
        prompt: token ids.
        **settings: as for `Engine.generate`.
    """

    def outputs(seed: int, count: int) -> list[tuple[int, ...]]:
        return [out.tokens for out in engine.generate([list(prompt)] * count, seed=seed, **settings)]

    return outputs


def keys_of(engine: Any, prompts: Sequence[Sequence[int]], **settings: Any) -> Callable[[int], Iterable[Key]]:
    """Return seed -> keys that requests of two neighbouring seeds read, for `check_independence`.

    Args:
        engine: a `dspec.engine.Engine`.
        prompts: token ids of the requests.
        **settings: as for `Engine.generate`.
    """

    def keys(seed: int) -> list[Key]:
        asked = [list(prompt) for prompt in prompts]

        def run() -> None:
            for near in (seed, seed + 1):
                engine.generate(asked, seed=near, **settings)

        return logged_keys(run)

    return keys


def independent_engine(ops: Any, law: Sequence[float], draft_law: Sequence[float], *, num_drafts: int) -> Any:
    """Return an engine whose tokens are independent with one law; for a prompt of two tokens.

    Args:
        ops: array operations of the backend.
        law: of every token.
        draft_law: of every draft.
        num_drafts: K.
    """
    with np.errstate(divide="ignore"):
        rows = [np.log(np.asarray(one, np.float32)) for one in (law, draft_law)]
    target = PlaceTarget(lambda place: rows[0], ops, len(law))
    return Engine(target, PlaceDrafter(lambda place, slot: rows[1], ops, num_drafts, len(PROMPT)), ops)


class Spelling:
    """The tokenizer of the scripts: two letters a token, none for the end token."""

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        """Return the special tokens: the end token."""
        return {EOS: _EndToken}

    def id_to_token(self, token: int) -> str | None:
        """Return a token's name; None outside the vocabulary."""
        return spell(token) or "<end>" if 0 <= token < VOCAB else None

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        return "".join(map(spell, tokens))


class _EndToken:
    content, special = "<end>", True


def scripted(ops: Any, **settings: Any) -> Callable[[Case], Ended]:
    """Return case -> what an engine on this backend makes of the script, for `check_stop_rules`.

    Args:
        ops: array operations of the backend.
        **settings: sampling and policy, as for `Engine.generate`.
    """

    def generate(case: Case) -> Ended:
        def draft(place: int, slot: int) -> Any:
            return certain(case.draft(place, slot), VOCAB)

        tokenizer = Spelling()
        target = PlaceTarget(
            lambda place: certain(case.token(place), VOCAB), ops, VOCAB, frozenset([EOS]), tokenizer
        )
        drafter = PlaceDrafter(draft, ops, case.num_drafts, len(PROMPT)) if case.num_drafts else None
        stop = {"stop": list(case.stops)} if case.stops else {}
        limits = {"max_new_tokens": case.max_new_tokens, **stop}
        out = Engine(target, drafter, ops).generate(list(PROMPT), **{**settings, **limits})
        return Ended(
            tokens=out.tokens,
            finish=out.finish,
            text=out.text,
            n_tokens=out.stats.n_tokens,
            n_accepted=out.stats.n_accepted,
            n_drafted=out.stats.n_drafted,
            streamed=tuple(chunk.tokens for chunk in out.chunks),
            pieces=tuple(chunk.text for chunk in out.chunks),
        )

    return generate


def proposer(ops: Any, sampling: Sampling, policy: Any = REJECTION) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return dspec's rule for drafts on a backend's arrays, numpy outside, for `check_honesty`.

    Args:
        ops: array operations of the backend.
        sampling: settings of the law.
        policy: of `dspec.core.policies`.
    """

    def propose(logits: Any, uniforms: Any) -> tuple[Any, Any]:
        arrays = ops.from_host(logits), ops.from_host(uniforms)
        draft = draft_tokens(arrays[0], policy, sampling, arrays[1], xp=ops.xp)
        probs = None if draft.probs is None else np.asarray(ops.to_host(draft.probs))
        return np.asarray(ops.to_host(draft.tokens)), probs

    return propose


def greedy_rule(ops: Any, *, dtype: str = "float32") -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return dspec's greedy verification on a backend's arrays, numpy outside, for `check_greedy`.

    Args:
        ops: array operations of the backend.
        dtype: of the logits on the device: the namespace's name of it.

    Raises:
        ConfigError: the namespace has no such dtype.
    """
    if not hasattr(ops.xp, dtype):
        raise ConfigError(explain("dtype", repr(dtype), "a dtype of the backend"))

    def greedy(logits: Any, drafts: Any) -> tuple[Any, Any]:
        device = ops.xp.astype(ops.from_host(logits), getattr(ops.xp, dtype))
        verdict = verify_greedy(device, Draft(ops.from_host(drafts)), xp=ops.xp)
        return np.asarray(ops.to_host(verdict.tokens)), np.asarray(ops.to_host(verdict.n_accepted))

    return greedy
