"""An objective: a sum of terms, its text form, and what it must be shown."""

from dataclasses import dataclass, replace
from typing import Any

from dspec.core.law_terms import LawTerm, Lk
from dspec.core.objective_text import parse_terms, term_text, unknown
from dspec.core.schedules import Progress
from dspec.core.signals import SIGNALS
from dspec.core.term_table import TERMS
from dspec.core.terms import REDUCTIONS, Decay, FirstError, Term
from dspec.errors import ConfigError, explain


@dataclass(frozen=True)
class Objective:
    """A sum of terms and how its cross-entropy is reduced; `str` gives its text form.

    Spec: OB-6, OB-7.

    Args:
        terms: at least one of those in `dspec.core.term_table`.
        reduction: "block_sum" divides a term by its number of blocks, as the papers' equations do;
            "weighted_mean" divides decay by the sum of its weights.

    Raises:
        ConfigError: no terms, an unknown reduction, a first_error that does not know which of
            several decays it follows, terms that want the target's law at different temperatures, or lk
            terms of different eta.

    Example:
        >>> str(Objective((Decay(10), FirstError())))
        'decay(10)+first_error(0.3)'
    """

    terms: tuple[Term, ...]
    reduction: str = "block_sum"

    def __post_init__(self) -> None:
        if not self.terms:
            raise ConfigError(explain("objective", "no terms", f"one of {', '.join(TERMS)}", clause="OB-6"))
        if self.reduction not in REDUCTIONS:
            raise unknown("reduction", self.reduction, list(REDUCTIONS))
        self.resolved()
        if len(self._temperatures) > 1:
            needed = "one temperature of the target's law"
            raise ConfigError(explain("objective", str(self), needed, clause="OB-12"))
        if len(self._etas) > 1:
            raise ConfigError(explain("objective", str(self), "one eta of its lk terms", clause="OB-16"))

    @classmethod
    def parse(cls, text: str, *, reduction: str = "block_sum") -> "Objective":
        """Return the objective of a text form: terms and presets joined by "+".

        Spec: OB-6.

        Args:
            text: such as "ltr", "decay(10)+chain(40)", "reach(0.5)" or "uniform+chain(0->40)".
            reduction: "block_sum" or "weighted_mean".

        Returns:
            The objective; `str` of it parses back to it.

        Raises:
            ConfigError: bad grammar, an unknown name, or a value out of range.

        Example:
            >>> str(Objective.parse("uniform + chain(weight=5)"))
            'decay(inf)+chain(5)'
        """
        return cls(parse_terms(text), reduction)

    def __str__(self) -> str:
        return "+".join(term_text(term) for term in self.terms)

    @property
    def signals(self) -> tuple[str, ...]:
        """Those that its gradient goes through, in the order of `SIGNALS`."""
        return tuple(s for s in SIGNALS if any(s == term.signal for term in self.terms))

    @property
    def needs_law(self) -> bool:
        """Whether it reads the overlap or the divergence."""
        return any(term.reads_law for term in self.terms)

    @property
    def needs_confidence(self) -> bool:
        """Whether it reads the target's probability of the gold tokens."""
        return any(term.reads_confidence for term in self.terms)

    @property
    def temperature(self) -> float:
        """Of the target's law; 1 where no term names one."""
        return float(next(iter(self._temperatures), 1.0))

    @property
    def eta(self) -> float:
        """Of the signal "mixed"; 0 where no term is lk."""
        return float(next(iter(self._etas), 0.0))

    @property
    def waits(self) -> bool:
        """Whether some denominator depends on what the drafter does, not on masks alone."""
        return any(term.waits(self.reduction) for term in self.terms)

    @property
    def scheduled(self) -> bool:
        """Whether an argument changes over a run."""
        return any(term.schedules() for term in self.terms)

    def at(self, progress: Progress) -> "Objective":
        """Return the objective of one step: its numbers instead of its schedules.

        Spec: OB-18.

        Args:
            progress: where in its run the step lies.

        Returns:
            An objective without schedules; itself if it has none.

        Raises:
            ConfigError: an epoch schedule, and the run does not know its epochs.

        Example:
            >>> str(Objective.parse("decay(10)+chain(0->40)").at(Progress(step=1, steps=3)))
            'decay(10)+chain(20)'
        """
        return replace(self, terms=tuple(t.at(progress) for t in self.terms)) if self.scheduled else self

    def resolved(self) -> tuple[Term, ...]:
        """Return the terms with every first_error's gamma filled in from the decay beside it."""
        gammas = {term.gamma for term in self.terms if isinstance(term, Decay)} or {float("inf")}
        open_gamma = [term for term in self.terms if isinstance(term, FirstError) and term.gamma is None]
        if open_gamma and len(gammas) > 1:
            needed = "its own gamma, since the decay terms differ"
            remedy = "write first_error(0.3, gamma=10)"
            raise ConfigError(explain("first_error", str(self), needed, remedy=remedy, clause="OB-3"))
        gamma = next(iter(gammas))
        return tuple(
            replace(term, gamma=gamma) if isinstance(term, FirstError) and term.gamma is None else term
            for term in self.terms
        )

    @property
    def _temperatures(self) -> set[Any]:
        return {term.temperature for term in self.terms if isinstance(term, LawTerm)}

    @property
    def _etas(self) -> set[Any]:
        return {term.eta for term in self.terms if isinstance(term, Lk)}
