"""The grid of stops: where the stop stands, where the limit, where a pass ends, how many drafts stand.

Every case is a script: the target is certain of its next token at every position, and the first
`accepted` drafts of each pass agree with it. So all that may vary is where the output ends, and what is
counted.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from string import ascii_lowercase
from typing import Any

from dspec.testing.report import Report

CLAUSES = ("RS-14", "DL-1", "DL-2", "DL-3", "DL-9")
LETTERS = 12  # tokens 0..11 read "ab", "cd", ... "wx"
EOS = LETTERS  # reads ""
VOCAB = LETTERS + 1
STOPS = (
    ("b",),
    ("ab",),
    ("bc",),
    ("cdef",),
    ("fg",),
    ("hij",),
    ("lmnop",),
    ("cdef", "d"),
    ("zz", "ef"),
    ("zz",),
)


def spell(token: int) -> str:
    """Return the text of a token of the scripts.

    Example:
        >>> spell(1), spell(EOS)
        ('cd', '')
    """
    return ascii_lowercase[2 * token : 2 * token + 2] if token < LETTERS else ""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scripted request.

    Args:
        num_drafts: K; 0: one token a pass.
        accepted: leading drafts of every pass that agree with the target; the others are wrong, and the
            first wrong one is the end token wherever that is wrong.
        max_new_tokens: the limit.
        eos_at: place of the only end token among the target's tokens; None: there is none.
        stops: stop strings.
    """

    num_drafts: int
    accepted: int
    max_new_tokens: int
    eos_at: int | None = None
    stops: tuple[str, ...] = ()

    def token(self, place: int) -> int:
        """Return the target's token at a place of the output, the prefill's at place 0."""
        return EOS if place == self.eos_at else place % LETTERS

    def draft(self, place: int, slot: int) -> int:
        """Return the draft for a place at a slot (0-based) of its pass."""
        right = self.token(place)
        return right if slot < self.accepted else EOS if right != EOS else 0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What came out of a case; None: the subject does not report it.

    Args:
        tokens: the output.
        finish: "eos", "stop" or "length".
        text: of the output.
        n_tokens: tokens that were counted as output.
        n_accepted: accepted drafts of each verify pass, uncut.
        n_drafted: drafts of each verify pass.
        streamed: tokens of each pass as they were shown, the prefill's first.
        pieces: text as it was shown, in as many pieces as the subject likes.
    """

    tokens: tuple[int, ...]
    finish: str | None = None
    text: str | None = None
    n_tokens: int | None = None
    n_accepted: tuple[int, ...] | None = None
    n_drafted: tuple[int, ...] | None = None
    streamed: tuple[tuple[int, ...], ...] | None = None
    pieces: tuple[str, ...] | None = None


def check_stop_rules(
    generate: Callable[[Case], Ended],
    *,
    text: bool = True,
    longest: int = 7,
    slots: tuple[int, ...] = (0, 1, 2, 3),
    cases: list[Mapping[str, Any]] | None = None,
) -> Report:
    """Check where outputs end, why, and what is counted, on a grid of scripted requests.

    Spec: RS-14, DL-1, DL-2, DL-3, DL-9.

    Args:
        generate: runs a case; `dspec.testing.models.subjects.scripted` makes one of an engine's parts.
        text: whether it can make text, that is, find stop strings.
        longest: largest limit, and one more than the last place of an end token.
        slots: values of K.
        cases: run these instead, the fields of `Case` each.

    Returns:
        The report, alpha 0.

    Example:
        >>> check_stop_rules(expected).passed
        True
    """
    given = None if cases is None else [Case(**{**case, "stops": tuple(case["stops"])}) for case in cases]
    tried = 0
    for case in given or make_cases(text=text, longest=longest, slots=slots):
        tried += 1
        wrong = _judge(generate(case), expected(case))
        if wrong:
            return _failed(case, wrong, tried)
    return Report(check="stop_rules", passed=True, tried={"cases": tried}, clauses=CLAUSES)


def _failed(case: Case, wrong: dict[str, Any], tried: int) -> Report:
    size = case.max_new_tokens + case.num_drafts + 1
    return Report(
        check="stop_rules",
        passed=False,
        tried={"cases": tried},
        clauses=CLAUSES,
        counterexample={
            **asdict(case),
            "target says": [case.token(place) for place in range(size)],
            "end token": EOS,
            **wrong,
        },
        replay={"check": "stop_rules", "arguments": {"cases": [{**asdict(case), "stops": list(case.stops)}]}},
    )


def make_cases(*, text: bool, longest: int, slots: tuple[int, ...]) -> Iterator[Case]:
    """Yield the grid, small cases first."""
    for limit in range(1, longest + 1):
        for num_drafts in slots:
            for accepted in range(num_drafts + 1):
                common = {"num_drafts": num_drafts, "accepted": accepted, "max_new_tokens": limit}
                for place in (None, *range(longest + 1)):
                    yield Case(**common, eos_at=place)
                for stops in STOPS if text else ():
                    yield Case(**common, stops=stops)
                if text:  # the end token before, at and behind a stop string that spans places 3 and 4
                    for place in (3, 4, 5):
                        yield Case(**common, stops=("hij",), eos_at=place)


def expected(case: Case) -> Ended:
    """Return what a right generation gives, read off the script without a loop over passes.

    Args:
        case: the script.

    Returns:
        Everything that may be reported of it.

    Example:
        >>> expected(Case(num_drafts=2, accepted=2, max_new_tokens=9, eos_at=2)).tokens
        (0, 1, 12)
    """
    tokens = [case.token(place) for place in range(case.max_new_tokens)]
    finish = "length"
    if case.eos_at is not None and case.eos_at < len(tokens):
        tokens, finish = tokens[: case.eos_at + 1], "eos"
    for end in range(1, len(tokens) + 1):  # the first token that completes a stop string ends it
        text = "".join(map(spell, tokens[:end]))
        cuts = [text.index(stop) for stop in case.stops if stop in text]
        if cuts:
            tokens, finish, text = tokens[:end], "stop", text[: min(cuts)]
            break
    step = case.accepted + 1
    passes = -(-(len(tokens) - 1) // step)
    return Ended(
        tokens=tuple(tokens),
        finish=finish,
        text=text,
        n_tokens=len(tokens),
        n_accepted=(case.accepted,) * passes,
        n_drafted=(case.num_drafts,) * passes,
        streamed=(tuple(tokens[:1]), *(tuple(tokens[1 + i * step :][:step]) for i in range(passes))),
    )


def _judge(got: Ended, needed: Ended) -> dict[str, Any]:
    """Return the first field that is reported and wrong, or nothing."""
    for name in (field.name for field in fields(Ended)):
        ours, right = getattr(got, name), getattr(needed, name)
        if name == "pieces" and ours is not None:
            # Shown text cannot be taken back, so the pieces must make up the text itself.
            ours, right = "".join(ours), needed.text
        if ours is not None and ours != right:
            return {"wrong": name, "got": ours, "needed": right}
    return {}
