"""Loops over scripted requests, wrong and right, for `check_stop_rules`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dspec.testing.checks.stops import EOS, Case, Ended, spell

Tokens = tuple[int, ...]
Cut = Callable[[Tokens, Tokens, Case], tuple[Tokens, str | None]]


def said(tokens: Tokens) -> str:
    """Return the text of tokens."""
    return "".join(map(spell, tokens))


def stopped(text: str, case: Case) -> bool:
    """Return whether a stop string is in the text."""
    return any(stop in text for stop in case.stops)


def cut(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    """Return what is kept of all tokens after a pass, and why it ends; token by token, right."""
    kept = before
    for token in block:
        kept += (token,)
        if stopped(said(kept), case):
            return kept, "stop"
        if token == EOS:
            return kept, "eos"
        if len(kept) == case.max_new_tokens:
            return kept, "length"
    return kept, None


def shorten(text: str, case: Case) -> str:
    """Return the text before the first stop string."""
    return text[: min((text.index(stop) for stop in case.stops if stop in text), default=len(text))]


@dataclass(frozen=True, kw_only=True)
class StopLoop:
    """A loop over a script in replaceable parts; the defaults are right.

    Args:
        cut: (tokens before, tokens of the pass, case) -> tokens kept and why it ends, or None.
        text: (tokens, case) -> text.
        report: (what is reported, uncut passes, case) -> what is reported.
        drafted_stop: whether an end token that was drafted ends the output, rejected or not.
    """

    cut: Cut = cut
    text: Callable[[Tokens, Case], str] = lambda tokens, case: shorten(said(tokens), case)
    report: Callable[[Ended, list[Tokens], Case], Ended] = lambda ended, passes, case: ended
    drafted_stop: bool = False

    def __call__(self, case: Case) -> Ended:
        """Run a case."""
        kept, finish = self.cut((), (case.token(0),), case)
        passes: list[Tokens] = []
        streamed = [kept]
        while finish is None:
            place = 1 + len(passes) * (case.accepted + 1)
            passes.append(tuple(case.token(place + slot) for slot in range(case.accepted + 1)))
            before = kept
            kept, finish = self.cut(before, passes[-1], case)
            drafts = [case.draft(place + slot, slot) for slot in range(case.num_drafts)]
            if self.drafted_stop and EOS in drafts:
                finish = finish or "eos"
            streamed.append(kept[len(before) :])
        ended = Ended(
            tokens=kept,
            finish=finish,
            text=self.text(kept, case),
            n_tokens=len(kept),
            n_accepted=(case.accepted,) * len(passes),
            n_drafted=(case.num_drafts,) * len(passes),
            streamed=tuple(streamed),
        )
        return self.report(ended, passes, case)


# Wrong cuts -----------------------------------------------------------------------------------------


def _junk(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    kept, finish = cut(before, block, case)
    return ((before + block)[: case.max_new_tokens] if finish == "eos" else kept), finish


def _junk_after_text(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    kept, finish = cut(before, block, case)
    return ((before + block)[: case.max_new_tokens] if finish == "stop" else kept), finish


def _length_first(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    whole = before + block
    if len(whole) >= case.max_new_tokens:
        return whole[: case.max_new_tokens], "length"
    return cut(before, block, case)


def _length_names(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    kept, finish = cut(before, block, case)
    return kept, "length" if len(kept) == case.max_new_tokens else finish


def _last_only(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    whole = before + block
    if whole[-1] == EOS or stopped(said(whole), case) or len(whole) >= case.max_new_tokens:
        kept, finish = cut(before, block, case)
        return (
            (kept, finish)
            if whole[-1] == EOS or finish != "eos"
            else (whole[: case.max_new_tokens], "length")
        )
    return whole, None


def _beyond_limit(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    kept, finish = cut(before, block, case)
    return kept, "eos" if EOS in block else finish


def _without_eos(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    kept, finish = cut(before, block, case)
    return (kept[:-1] if finish == "eos" else kept), finish


def _overrun(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    kept, finish = cut(before, block, case)
    return (before + block if finish == "length" else kept), finish


def _one_more(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    return cut(before, block, replace(case, max_new_tokens=case.max_new_tokens + 1))


def _first_not_tested(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    kept, finish = cut(before, block, case)
    goes_on = not before and finish == "eos"
    return kept, ("length" if len(kept) == case.max_new_tokens else None) if goes_on else finish


def _stop_in_one_token(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    for index, token in enumerate(block[: case.max_new_tokens - len(before)]):
        if stopped(spell(token), case):
            return before + block[: index + 1], "stop"
    return cut(before, block, replace(case, stops=()))


def _stop_in_one_pass(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    for index in range(len(block[: case.max_new_tokens - len(before)])):
        if stopped(said(block[: index + 1]), case):
            return before + block[: index + 1], "stop"
    return cut(before, block, replace(case, stops=()))


# Right cuts that look wrong -------------------------------------------------------------------------


def _by_places(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    """Find every end first, then take the earliest; a stop string is looked for from its end."""
    whole = before + block
    ends = [(case.max_new_tokens, 2, "length")] if len(whole) >= case.max_new_tokens else []
    ends += [(whole.index(EOS) + 1, 1, "eos")] if EOS in whole else []
    ends += [(n, 0, "stop") for n in range(len(whole), 0, -1) if stopped(said(whole[:n]), case)]
    if not ends:
        return whole, None
    end, _, why = min(ends)
    return whole[:end], why


# Reports --------------------------------------------------------------------------------------------


def _past(ended: Ended, passes: list[Tokens], case: Case) -> Ended:
    return replace(ended, n_tokens=1 + sum(map(len, passes)))


def _kept_drafts(ended: Ended, passes: list[Tokens], case: Case) -> Ended:
    shown = (ended.streamed or ())[1:]
    return replace(ended, n_accepted=tuple(min(case.accepted, len(part)) for part in shown))


def _with_prefill(ended: Ended, passes: list[Tokens], case: Case) -> Ended:
    return replace(ended, n_accepted=(0, *(ended.n_accepted or ())), n_drafted=(0, *(ended.n_drafted or ())))


def _streams_all(ended: Ended, passes: list[Tokens], case: Case) -> Ended:
    return replace(ended, streamed=((case.token(0),), *passes))


def _shows_all(ended: Ended, passes: list[Tokens], case: Case) -> Ended:
    return replace(ended, pieces=tuple(map(spell, ended.tokens)))


def _tokens_only(ended: Ended, passes: list[Tokens], case: Case) -> Ended:
    return Ended(tokens=ended.tokens)


def _whole_text(ended: Ended, passes: list[Tokens], case: Case) -> Ended:
    """Right: nothing is shown until the end, then all at once."""
    return replace(ended, pieces=("", "", ended.text or ""), streamed=None)


@dataclass(frozen=True)
class ToTheLimit:
    """Decodes up to the limit whatever comes and cuts it all afterwards; right, and slow."""

    def __call__(self, case: Case) -> Ended:
        """Run a case."""
        ended = StopLoop(cut=_to_limit)(case)
        tokens, finish = cut((), ended.tokens, case)
        passes = -(-(len(tokens) - 1) // (case.accepted + 1))
        return Ended(
            tokens=tokens,
            finish=finish,
            text=shorten(said(tokens), case),
            n_tokens=len(tokens),
            n_accepted=(ended.n_accepted or ())[:passes],
        )


def _to_limit(before: Tokens, block: Tokens, case: Case) -> tuple[Tokens, str | None]:
    whole = (before + block)[: case.max_new_tokens]
    return whole, "length" if len(whole) == case.max_new_tokens else None


WRONG: dict[str, Any] = {
    "junk after the end token": StopLoop(cut=_junk),
    "limit before the end token inside it": StopLoop(cut=_length_first),
    "an end token as the last one is called length": StopLoop(cut=_length_names),
    "only the last token of a pass is tested": StopLoop(cut=_last_only),
    "an end token behind the limit is the reason": StopLoop(cut=_beyond_limit),
    "the end token is dropped": StopLoop(cut=_without_eos),
    "runs past the limit to the end of the pass": StopLoop(cut=_overrun),
    "the prefill's token is not counted": StopLoop(cut=_one_more),
    "the prefill's token is not tested": StopLoop(cut=_first_not_tested),
    "a drafted end token ends it though rejected": StopLoop(drafted_stop=True),
    "stop strings inside one token only": StopLoop(cut=_stop_in_one_token),
    "stop strings inside one pass only": StopLoop(cut=_stop_in_one_pass),
    "tokens after a stop string": StopLoop(cut=_junk_after_text),
    "the stop string stays in the text": StopLoop(text=lambda tokens, case: said(tokens)),
    "counts tokens past the end": StopLoop(report=_past),
    "counts accepted drafts after the cut": StopLoop(report=_kept_drafts),
    "counts the prefill as a pass": StopLoop(report=_with_prefill),
    "streams whole passes": StopLoop(report=_streams_all),
    "shows text that begins a stop string": StopLoop(report=_shows_all),
}
RIGHT: dict[str, Any] = {
    "token by token": StopLoop(),
    "the earliest of all ends": StopLoop(cut=_by_places),
    "decodes to the limit, then cuts": ToTheLimit(),
    "reports tokens only": StopLoop(report=_tokens_only),
    "shows the text at the end": StopLoop(report=_whole_text),
}
