"""Measuring tree passes, and decoding a suite with trees."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from dspec.backends.judge import RequestJudge
from dspec.backends.tree_judge import RequestTreeJudge
from dspec.core.policies import GREEDY
from dspec.core.tree import walk
from dspec.core.types import Sampling
from dspec.decoders import Tree
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.evaluation.pass_times import Clock, medians
from dspec.evaluation.roofline import rate_of
from dspec.evaluation.suites import Suite
from dspec.evaluation.tree_plan import TreePlan, TreeTimes, plan_trees
from dspec.request import check_length
from dspec.rng import Stream


def measure_trees(
    engine: Engine,
    context: Sequence[int],
    *,
    budgets: Sequence[int],
    repetitions: int = 15,
    clock: Clock = perf_counter,
    typical: Callable[[Sequence[float]], float] = median,
) -> TreeTimes:
    """Time tree passes after a context: the proposal with its tree, the target's pass, the rest.

    Medians over repetitions, or what `typical` says, in each of which every budget has one pass; greedy.
    What is kept is the anchor and one node.

    Spec: DL-11.

    Args:
        engine: with a drafter.
        context: ids of the prompt, at least one.
        budgets: nodes of a tree, the anchor not counted.
        repetitions: timed, after some that are not.
        clock: seconds.
        typical: time of several.

    Returns:
        The times.

    Raises:
        ConfigError: no drafter or one that goes slot by slot, no repetitions, a budget out of range, or
            more positions than the target can read.
        BackendUnavailable: the target reads no trees.
    """
    if engine.drafter is None:
        raise ConfigError(explain("trees", "no drafter", "a drafter, whose laws they are made of"))
    if repetitions < 1:
        raise ConfigError(explain("pass times", f"{repetitions} repetitions", "at least one"))
    sizes = sorted({int(Tree(budget=budget).budget) for budget in budgets})
    engine.target.check_trees()
    check_length(len(context) + sizes[-1] + 1, engine.target.max_positions)
    middle = medians(_Bench(engine, context, sizes, clock).round, repetitions, typical=typical)
    parts = {part: {n: middle[part, n] for n in sizes} for part in ("verify", "draft", "rest")}
    return TreeTimes(context=len(context), **parts)


class _Bench:
    """Two sessions at rest after a context, and one round of timed tree passes on them."""

    def __init__(self, engine: Engine, context: Sequence[int], budgets: Sequence[int], clock: Clock) -> None:
        drafter: Any = engine.drafter
        self._ops, self._clock, self._at, self._anchor = engine.ops, clock, len(context), int(context[-1])
        room = len(context) + max(drafter.block_size, budgets[-1]) + 2
        self._target: Any = engine.target.session(layer_ids=drafter.layer_ids, capacity=room)
        self._drafter = drafter.session(engine.target, capacity=room)
        request = RequestJudge(engine.ops, GREEDY, Sampling(), Stream(0), drafter.block_size - 1)
        self._judges = {budget: RequestTreeJudge(request, budget) for budget in budgets}
        features, judge = self._target.prefill(context).features, self._judges[budgets[0]]
        # The first proposal takes the context in; those that are timed take in what a pass kept.
        tree = self._drafter.propose(self._anchor, self._at, features, judge.rule(self._at))
        self._target.score_tree(self._anchor, tree)
        self._features = self._target.keep((1,))
        self._target.rewind(self._at)

    def round(self) -> dict[tuple[str, int], float]:
        """Return the seconds of each part, by its name and budget."""
        found, clock, at = {}, self._clock, self._at
        for budget, judge in self._judges.items():
            self._drafter.rewind(at)
            start = clock()
            tree = self._drafter.propose(self._anchor, at + 1, self._features, judge.rule(at + 1))
            found["draft", budget] = clock() - start
            self._score(tree)  # see `pass_times`: the first of another size is slower
            self._target.rewind(at)
            start = clock()
            scores = self._score(tree)
            read = clock()
            walk(tree, judge.drawn(scores, tree, at))
            self._target.keep((1,))  # node 1 is always a child of the anchor
            found["verify", budget], found["rest", budget] = read - start, clock() - read
            self._target.rewind(at)
        return found

    def _score(self, tree: Any) -> Any:
        scores = self._target.score_tree(self._anchor, tree)
        self._ops.to_host(scores.logits[0, -1, :1])
        return scores


@dataclass
class _Count:
    """Tokens, passes and seconds of decodes, prefills left out."""

    tokens: int = 0
    passes: int = 0
    seconds: float = 0.0

    def add(self, chunks: Iterable[Any], clock: Clock) -> None:
        """Read a stream to its end and count what follows its first chunk, the prefill's."""
        emitted, begun = [], 0.0
        for number, chunk in enumerate(chunks):
            begun = clock() if number == 0 else begun
            emitted.append(1 + (chunk.n_accepted or 0))
        self.seconds += clock() - begun
        self.tokens += sum(emitted[1:])
        self.passes += len(emitted) - 1


def measure_tree_plan(
    engine: Engine,
    times: TreeTimes,
    suite: Suite,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    clock: Clock = perf_counter,
) -> TreePlan:
    """Decode a suite with a tree of every budget, and predict with the taus that this gave.

    For each prompt budgets take turns, and the drafter's own blocks with them; prompt i has the seed
    `seed + i` under all. A tree's tau is of these prompts, and so is the measured speed: they may be
    shorter than the context of the times.

    Spec: DL-2, DL-11.

    Args:
        engine: with the drafter whose times these are.
        times: of the budgets.
        suite: prompts.
        max_new_tokens: most tokens a prompt.
        temperature: 0 is greedy.
        seed: key of the first prompt's uniforms.
        clock: seconds.

    Returns:
        The plan, with measured speeds.

    Raises:
        ConfigError: a setting is out of range, or no pass followed a prefill.
    """
    arms: dict[int, Any] = {0: None, **{budget: Tree(budget=budget) for budget in sorted(times.verify)}}
    counts = {arm: _Count() for arm in arms}
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    for number, prompt in enumerate([suite.prompts[0], *suite.prompts]):
        # The first prompt comes twice: what it takes the first time is not counted.
        for arm, decoder in arms.items():
            count = _Count() if number == 0 else counts[arm]
            chosen = {**settings, "seed": seed + max(number - 1, 0), "decoder": decoder}
            count.add(engine.stream(prompt, **chosen), clock)
    if not all(count.passes for count in counts.values()):
        raise ConfigError(explain("trees", "no pass after a prefill", "more than one --max-new-tokens"))
    rates = {arm: rate_of(count.tokens, count.seconds) for arm, count in counts.items()}
    block = rates.pop(0)
    taus = {arm: count.tokens / count.passes for arm, count in counts.items() if arm}
    return plan_trees(times, taus, measured=rates, measured_block=block)
