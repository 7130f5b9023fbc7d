"""Whether a request's output is its own: the same alone and in any company."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dspec.testing.report import Report

CLAUSES = ("RS-9", "RN-4", "RS-10")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request.

    Args:
        prompt: token ids.
        seed: of its uniforms.
        number: of the request under that seed.
        max_new_tokens: its limit.
        drafts: whether tokens are drafted for it.
    """

    prompt: tuple[int, ...]
    seed: int = 0
    number: int = 0
    max_new_tokens: int = 6
    drafts: bool = True

    def __str__(self) -> str:
        tail = "" if self.drafts else ", no drafts"
        key = f"seed {self.seed}, number {self.number}"
        return f"prompt {list(self.prompt)}, {key}, {self.max_new_tokens} tokens{tail}"


Batch = tuple[Asked, ...]


def check_isolation(
    generate_batch: Callable[[Sequence[Asked]], Sequence[Any]],
    *,
    prompts: Sequence[Sequence[int]] = ((0,), (1, 2), (2, 1, 0), (1,), (0, 2, 1, 1, 2)),
    seed: int = 0,
    batches: Sequence[Sequence[Mapping[str, Any]]] | None = None,
    alone: Callable[[Sequence[Asked]], Sequence[Any]] | None = None,
) -> Report:
    """Check that each request gives bitwise the same output alone and in every company.

    Companies: all requests together, in other orders, beside themselves, beside requests of other seeds,
    without drafts, with other prompts or limits, and alone again after all that.

    Spec: RS-9, RN-4, RS-10.

    Args:
        generate_batch: requests -> one output each, in their order; outputs are compared by `==`, so
            they should hold all that must be equal: tokens, counts, log-probabilities as bytes.
        prompts: token ids of the subject's vocabulary, of different lengths.
        seed: of the seeds and orders.
        batches: try these instead, requests as the fields of `Asked`.
        alone: what gives the output of one request alone; None: `generate_batch`.

    Returns:
        The report, alpha 0; a failing company is reduced as far as it still fails.

    Example:
        >>> check_isolation(lambda asked: [hash(one) for one in asked]).passed
        True
    """
    if batches is None:
        tries = list(companies(prompts, seed=seed))
    else:
        tries = [tuple(Asked(**{**one, "prompt": tuple(one["prompt"])}) for one in b) for b in batches]
    own: dict[Asked, Any] = {}
    for one in dict.fromkeys(one for batch in tries for one in batch):
        (own[one],) = (generate_batch if alone is None else alone)([one])
    tried = {"requests": 0, "batches": 0}
    for batch in tries:
        tried["batches"] += 1
        tried["requests"] += len(batch)
        if _differing(generate_batch, batch, own) is not None:
            return _failed(generate_batch, batch, own, tried)
    return Report(check="isolation", passed=True, tried=tried, clauses=CLAUSES)


def companies(prompts: Sequence[Sequence[int]], *, seed: int) -> Iterator[Batch]:
    """Yield batches; every request in one of them is also run alone.

    Args:
        prompts: of different lengths.
        seed: of the seeds and orders.
    """
    rng = random.Random(seed)
    asked = tuple(
        Asked(prompt=tuple(prompt), seed=rng.randrange(2**32), number=index, max_new_tokens=4 + index % 3)
        for index, prompt in enumerate(prompts)
    )
    yield asked
    yield asked[::-1]
    yield asked[1:] + asked[:1]
    yield tuple(rng.sample(asked, len(asked)))
    yield from itertools.pairwise(asked)
    first, *others = asked
    yield first, first
    yield (first, *(replace(one, seed=first.seed) for one in others))
    yield (first, *(replace(one, seed=first.seed, prompt=first.prompt) for one in others))
    yield (*(replace(one, seed=rng.randrange(2**32)) for one in others), first)
    yield (first, *(replace(one, drafts=False) for one in others))
    yield (*(replace(one, drafts=False) for one in others), first)
    yield (first, *(replace(one, max_new_tokens=1) for one in others))
    yield (first, *(replace(one, max_new_tokens=12, prompt=one.prompt * 3) for one in others))
    for one in asked:  # alone again, after all others
        yield (one,)


def _differing(generate_batch: Any, batch: Batch, alone: Mapping[Asked, Any]) -> tuple[int, Any] | None:
    """Return the first row whose output is not the one alone, and that output; or None."""
    outputs = list(generate_batch(batch))
    for index, one in enumerate(batch):
        if len(outputs) != len(batch) or outputs[index] != alone[one]:
            return index, outputs[index] if index < len(outputs) else "missing"
    return None


def _failed(generate_batch: Any, batch: Batch, alone: Mapping[Asked, Any], tried: dict[str, int]) -> Report:
    """Take neighbours out while the batch still fails, then report it."""
    for index in reversed(range(len(batch))):
        fewer = batch[:index] + batch[index + 1 :]
        if fewer and _differing(generate_batch, fewer, alone) is not None:
            batch = fewer
    again = _differing(generate_batch, batch, alone)
    plain = [{**asdict(one), "prompt": list(one.prompt)} for one in batch]
    index, output = again if again is not None else (0, "another one now: outputs depend on earlier calls")
    example = {
        "request": str(batch[index]),
        "beside": [str(one) for place, one in enumerate(batch) if place != index],
        "row": index,
        "alone": alone[batch[index]],
        "in this batch": output,
    }
    return Report(
        check="isolation",
        passed=False,
        tried=tried,
        clauses=CLAUSES,
        counterexample=example,
        replay={"check": "isolation", "arguments": {"batches": [plain]}},
    )
