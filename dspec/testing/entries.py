"""The checks of the kit by name, each bound to what a subject offers; one entry runs one part of a level.

An entry takes the subject's bench, the part's arguments, and what a replay narrows them to: keyword
arguments of the check itself, in JSON types, such as the one instance that failed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import array_api_compat.numpy as npx

from dspec.backends.registry import open_ops
from dspec.core.policies import POLICIES
from dspec.core.types import Sampling
from dspec.decoders import Costs, Speculative
from dspec.testing.bench import RULES, Bench, on_device, several_on_device
from dspec.testing.checks.block_engines import check_greedy_blocks, draw_blocks, law_of_blocks
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import check_coupled_arrays, check_coupling
from dspec.testing.checks.engines import default_prompt, draw_outputs, drawing, law_of_outputs
from dspec.testing.checks.honesty import check_honesty
from dspec.testing.checks.independence import check_independence, kinds_of
from dspec.testing.checks.isolation import check_isolation
from dspec.testing.checks.lattice import check_lattice
from dspec.testing.checks.laws import check_distribution, check_exact_law
from dspec.testing.checks.requests import check_requests
from dspec.testing.checks.rollback import check_rollback
from dspec.testing.checks.self_speculation import check_self_speculation
from dspec.testing.checks.several import check_several
from dspec.testing.checks.several_coupling import check_several_coupling
from dspec.testing.checks.stops import check_stop_rules
from dspec.testing.checks.streams import check_streams
from dspec.testing.checks.ties import check_greedy
from dspec.testing.models.block_worlds import make_block_worlds
from dspec.testing.models.recall import recall_engine
from dspec.testing.models.subjects import (
    greedy_rule,
    independent_engine,
    interleaved,
    keys_of,
    listed,
    outputs_of,
    proposer,
    scripted,
    side_by_side,
)
from dspec.testing.models.symbolic import decode_sampler
from dspec.testing.models.symbolic_sampled import sampled_tree_sampler
from dspec.testing.models.symbolic_trees import tree_sampler
from dspec.testing.models.table_engine import on_backend, settings_of, table_engine
from dspec.testing.models.tree_settings import samples, settings_for, tree_budget, trees_refused
from dspec.testing.models.worlds import World, make_worlds, mixed_worlds
from dspec.testing.report import Report

Arguments = Mapping[str, Any]
Entry = Callable[[Bench, Arguments, Arguments], Report]

SAMPLED = ("plain", "half", "third", "top_p", "top_k", "mixed")
GREEDY = ("greedy", "ties")
TREE_CLAUSES = ("RS-1", "RS-3", "RS-8", "RS-14", "DL-1", "DL-3", "RN-2")
LAW, DRAFT_LAW = (0.5, 0.3, 0.2), (0.25, 0.25, 0.5)  # of independent tokens: every pair comes up often
NUM_DRAFTS = 2
# How requests are asked for, and how many are decoded side by side.
FORMS: dict[str, tuple[Any, dict[str, int]]] = {
    "interleaved": (interleaved, {}),
    "listed": (listed, {}),
    "batched": (listed, {"batch_size": 3}),
    "side by side": (side_by_side, {"batch_size": 3}),
    "own lengths": (side_by_side, {"batch_size": 3}),
}
RISE = 0.25  # cost of a token more in a pass, in passes of one: from no drafts to all are worth it at times
OTHER_MAP = (
    "needs the two-level draw of RS-10; a right sampler that draws otherwise is checked as a generator"
)


def exact_law(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Enumerate the library's decode loop in worlds, over blocks or over trees."""
    warps = GREEDY if given["policy"] == "greedy" else SAMPLED
    worlds = mixed_worlds(seed=given["seed"], warps=warps, size=-(-given["count"] // 9))
    # The last ones are dearer and tell more: with four tokens a wrong bonus shows.
    own = {"worlds": worlds[-given["count"] :]}
    budget = tree_budget(given["policy"])
    if not budget:
        return check_exact_law(decode_sampler(given["policy"]), **{**own, **only})
    if samples(given["policy"]):
        report = check_exact_law(sampled_tree_sampler(budget), **{**own, **only})
        return replace(report, clauses=(*TREE_CLAUSES, "RS-2", "RS-4", "RS-5", "RS-22", "RS-24"))
    report = check_exact_law(tree_sampler(budget), **{**own, **only})
    # Such a tree's tokens are the target's own: nothing is accepted by a ratio, nothing corrected.
    return replace(report, clauses=(*TREE_CLAUSES, "RS-23"))


def lattice(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Count a verifier's law over a grid of uniforms."""
    verify, common = bench.verifier(given["mode"], given["dtype"])
    own = {"count": given["count"], "seed": given["seed"], **common}
    # Laws are cast on the device: numpy has no bfloat16 to hand them over in.
    return _noted(bench, check_lattice(verify, **{**own, **only, "dtype": common["xp"].float32}))


def boundaries(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Try the edges of a verifier."""
    verify, common = bench.verifier(given["mode"], "float32")
    return check_boundaries(verify, **{**common, **only})


def coupling(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Compare a verifier with the scalar float64 reference."""
    verify, common = bench.verifier(given["mode"], "float32")
    own = {name: given[name] for name in ("rows", "vocab", "num_drafts", "seed")}
    return _noted(bench, check_coupling(verify, **{**own, **common, **only}))


def _noted(bench: Bench, report: Report) -> Report:
    """Say with the failure of a verifier of the user that its map from uniforms to tokens may be another."""
    if bench.adapter is None or report.counterexample is None:
        return report
    return replace(report, counterexample={**report.counterexample, "note": OTHER_MAP})


def several(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Count the law of a slot with several drafts."""
    own = {name: given[name] for name in ("kind", "count", "seed")}
    verify = several_on_device(bench.ops, given["dtype"])
    return check_several(verify, **{**own, **only, "xp": npx, "dtype": npx.float32})


def several_coupling(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Compare the rule of several drafts with the scalar float64 reference."""
    own = {name: given[name] for name in ("kind", "rows", "vocab", "seed")}
    return check_several_coupling(several_on_device(bench.ops), **{**own, **only, "xp": npx})


def coupled_arrays(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Compare a backend with numpy."""
    rule = RULES[given["mode"]]
    ours, theirs = on_device(rule, open_ops("numpy")), on_device(rule, bench.ops)
    own = {name: given[name] for name in ("rows", "mode", "seed")}
    return check_coupled_arrays(ours, theirs, **{**own, **only})


def distribution(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Draw outputs whose law is known: of an adapter, of an engine, or of an engine of tables."""
    own = {name: given[name] for name in ("n", "seed", "alpha")}
    # The law is always the subject's own: JSON has no tuples or numbers for keys.
    if bench.adapter is not None:
        adapter = bench.adapter
        return check_distribution(adapter.generate, **{**own, **only, "law": adapter.law})
    if bench.engine is not None:
        refused = trees_refused(bench.engine, default_prompt(bench.engine), given["policy"])
        if refused:
            return Report(check="distribution", passed=True, tried={}, not_run=refused)
        law = law_of_outputs(bench.engine)
        return check_distribution(draw_outputs(bench.engine, given["policy"]), **{**own, **only, "law": law})
    if bench.lm is not None:
        drawn = draw_blocks(bench.lm, given["policy"], given["form"])
        report = check_distribution(drawn, **{**own, **only, "law": law_of_blocks(bench.lm)})
        return replace(report, clauses=(*report.clauses, "SS-14"))
    world = world_of(given)
    generate = drawing(
        table_engine(world, bench.ops), world.prompt, **settings_of(world), **settings_for(given["policy"])
    )
    report = check_distribution(generate, **{**own, **only, "law": world.law()})
    # The law is that of the world's warp, whatever the drafter, under the engine's own verifier.
    rule = "RS-18"
    if tree_budget(given["policy"]):
        rule = "RS-24" if samples(given["policy"]) else "RS-23"
    return replace(report, clauses=(*report.clauses, "RS-3", "RS-13", rule))


def independence(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Look at pairs of outputs of an engine whose tokens are independent."""
    engine = independent_engine(bench.ops, LAW, DRAFT_LAW, num_drafts=NUM_DRAFTS)
    settings = {"temperature": 1.0, "policy": given["policy"], "max_new_tokens": NUM_DRAFTS + 3}
    outputs = outputs_of(engine, (0, 1), **settings)
    kinds = kinds_of(outputs, apart=NUM_DRAFTS + 1)
    own = {name: given[name] for name in ("n", "seed", "alpha")}
    law = {(token,): chance for token, chance in enumerate(LAW)}
    keys = keys_of(engine, [[0, 1], [1, 1]], **settings)
    return check_independence(kinds, **{**own, "law": law, "keys": keys, **only})


def isolation(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Generate requests alone and in company."""
    engine = bench.engine if bench.engine is not None else table_engine(world_of(given), bench.ops)
    own: dict[str, Any] = {"seed": given["seed"]}
    if bench.engine is not None:
        ids = default_prompt(engine)
        own["prompts"] = [ids[:1], ids[1:3], ids[:5], ids[2:3], ids]
    form, options = FORMS[given["form"]]
    settings: dict[str, Any] = {"temperature": 1.0, "policy": given["policy"]}
    if given["form"] == "own lengths" and engine.drafter is not None:
        costs = Costs(verify=tuple(1 + RISE * k for k in range(engine.drafter.block_size)))
        decoder = Speculative(policy=given["policy"], block="auto", costs=costs)
        settings = {"temperature": 1.0, "decoder": decoder}
    generate = form(engine, **options, **settings)
    if not options.get("batch_size"):
        return check_isolation(generate, **{**own, **only})
    # In rows beside each other, against one after another.
    alone = form(engine, batch_size=1, **settings)
    report = check_isolation(generate, alone=alone, **{**own, **only})
    return replace(report, clauses=(*report.clauses, "DL-12"))


def rollback(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Walk a model's sessions against fresh ones."""
    own = {"steps": given["steps"], "seed": given["seed"]}
    if bench.engine is not None:
        return check_rollback(lambda: bench.engine, **{**own, **only})
    return check_rollback(lambda: on_backend(recall_engine(), bench.ops), **{**own, **only})


def stop_rules(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Run scripted requests over a grid of stops."""
    own = {"longest": given["longest"], "slots": tuple(given["slots"])}
    heat = 0.0 if given["policy"] == "greedy" else 1.0
    generate = scripted(bench.ops, temperature=heat, policy=given["policy"])
    return check_stop_rules(generate, **{**own, **only})


def greedy(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Force ties on greedy verification."""
    own = {"count": given["count"], "seed": given["seed"], "dtype": None}
    # In 16 bits the device ties what float32 tells apart, so such leads are left out there.
    if given["dtype"] != "float32":
        own["dtype"] = npx.float16
    rule = greedy_rule(bench.ops, dtype=given["dtype"])
    return check_greedy(rule, xp=npx, **{**own, **only})


def honesty(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Hold drafts against the law that is reported with them."""
    sampling = Sampling(temperature=0.8, top_p=0.95) if given["cut"] else Sampling(temperature=1.0)
    propose = proposer(bench.ops, sampling, POLICIES[given["policy"]])
    own = {name: given[name] for name in ("vocab", "count", "seed")}
    return check_honesty(propose, xp=npx, **{**own, **only})


def requests(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Watch whole requests of an engine of tables."""
    return check_requests(bench.ops, **{"seed": given["seed"], **only})


def self_speculation(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Enumerate the library's loop of self-speculation in worlds."""
    worlds = make_block_worlds(given["count"], seed=given["seed"], policy=given["policy"])
    return check_self_speculation(**{"worlds": worlds, **only})


def greedy_blocks(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Compare greedy self-speculation with block-size-one decoding."""
    return check_greedy_blocks(bench.lm, **{"form": given["form"], **only})


def streams(bench: Bench, given: Arguments, only: Arguments) -> Report:
    """Compare the uniforms with an independent generator."""
    return check_streams(**{"count": given["count"], "seed": given["seed"], **only})


def world_of(given: Arguments) -> World:
    """Return the world of a part that runs an engine of tables."""
    return make_worlds(1, seed=given["world"], warps=(given.get("warp", "plain"),), num_drafts=2)[0]


_ALL: tuple[Entry, ...] = (exact_law, streams, lattice, boundaries, coupling, coupled_arrays, greedy, honesty)
_ALL += (
    several,
    several_coupling,
    self_speculation,
    greedy_blocks,
    requests,
    stop_rules,
    isolation,
    rollback,
    distribution,
    independence,
)
CHECKS: dict[str, Entry] = {entry.__name__: entry for entry in _ALL}
