"""The study's numbers as JSON and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from study_settings import StudySettings
from study_statistics import BOTH, MEAN, Taus, complete, curves, estimate

ABOUT = (
    "tau (mean tokens per verify pass) of drafters that differ in their objective alone, in expectation over "
    "acceptances along the target's own texts"
)


def make_report(
    settings: StudySettings, reports: Sequence[Mapping[str, Any]], command: str
) -> dict[str, Any]:
    """Everything that is written to study.json; arms that some seed lacks are named, not averaged."""
    arms = complete(reports, list(settings.arms))
    taus = estimate(reports, arms, settings.evaluation.main_cells, draws=settings.draws)
    bases = [base for base in settings.baselines if base in arms]
    return {
        "about": ABOUT,
        "command": command,
        "machine": reports[0]["machine"],
        "device": reports[0]["device"],
        "settings": settings.as_dict(),
        "made_of": reports[0]["made_of"],
        "seeds": list(taus.seeds),
        "missing": [name for name in settings.arms if name not in arms],
        "arms": {name: asdict(settings.arms[name]) for name in arms},
        "tau": {name: by_key(taus, lambda key, n=name: taus.tau(n, key)) for name in arms},
        "gain": {
            base: {
                name: by_key(taus, lambda key, n=name, b=base: taus.gain(n, b, key))
                for name in arms
                if name != base
            }
            for base in bases
        },
        "curves": curves(reports, arms),
        "costs": {name: costs(reports, name) for name in arms},
    }


def by_key(taus: Taus, figure: Any) -> dict[str, dict[str, Any]]:
    """A figure of every column and suite, nested."""
    found: dict[str, dict[str, Any]] = {}
    for cell, suite in taus.keys:
        found.setdefault(cell, {})[suite] = figure((cell, suite))
    return found


def costs(reports: Sequence[Mapping[str, Any]], arm: str) -> dict[str, Any]:
    """Seconds and memory of an arm, a number a seed; memory is that of its whole group."""
    entries = [report["arms"][arm] for report in reports]
    return {
        "own_step_seconds": [e["seconds"]["own_steps"] for e in entries],
        "replay_seconds": [e["seconds"]["replay"] for e in entries],
        "group_size": len(entries[0]["group"]),
        "group_tokens_per_s": [e["tokens_per_s_of_the_group"] for e in entries],
        "group_peak_memory_bytes": [e["peak_memory_bytes"] for e in entries],
    }


def ranked(report: Mapping[str, Any]) -> list[str]:
    """Arms by their mean tau over columns and suites, best first."""
    return sorted(report["arms"], key=lambda name: -report["tau"][name][BOTH][MEAN]["mean"])


def markdown(report: Mapping[str, Any]) -> str:
    """The main table, then tau by suite for every column; every number in them stands in the report."""
    first = next(iter(report["arms"]))
    columns = list(report["tau"][first])
    cells = [c for c in columns if c != BOTH]
    suites = [s for s in report["tau"][first][BOTH] if s != MEAN]
    parts = ["## τ over all suites, and gains", main_table(report, cells), foot(report, len(suites))]
    for cell in cells:
        parts += [f"## τ by suite, {cell}", suite_table(report, cell, [*suites, MEAN])]
    return "\n\n".join(parts) + "\n"


def main_table(report: Mapping[str, Any], cells: Sequence[str]) -> str:
    """An arm a row, the best first."""
    bases = list(report["gain"])
    heads = ["arm", "objective", *(f"τ {c}" for c in cells), "τ both", *(f"over {b}" for b in bases)]
    rows = []
    for name in ranked(report):
        tau = [number(report["tau"][name][c][MEAN]) for c in (*cells, BOTH)]
        gains = [percent(report["gain"][b][name][BOTH][MEAN]) if name != b else "" for b in bases]
        rows.append([name, objective_text(report["arms"][name]), *tau, *gains])
    return table(heads, rows, left=2)


def objective_text(arm: Mapping[str, str]) -> str:
    """An arm's objective, with its reduction where it is not the usual one."""
    usual = arm["reduction"] == "block_sum"
    return f"`{arm['objective']}`" + ("" if usual else f", {arm['reduction']}")


def suite_table(report: Mapping[str, Any], cell: str, suites: Sequence[str]) -> str:
    """Tau with its interval, an arm a row."""
    rows = [[name, *(ranged(report["tau"][name][cell][s]) for s in suites)] for name in ranked(report)]
    return table(["arm", *suites], rows, left=1)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Markdown; the first `left` columns are text, the others numbers."""
    marks = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, marks, *rows))


def foot(report: Mapping[str, Any], n_suites: int) -> str:
    """How the figures came about."""
    training, chosen = report["made_of"]["training"], report["settings"]["evaluation"]
    seeds, machine = report["seeds"], report["machine"]
    lines = [
        f"{len(seeds)} seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}), "
        f"{training['steps']} steps of {training['batch_size']} texts with "
        f"{training['anchors']} blocks of {training['block_size']}, "
        f"{training['layers']} layers. τ: mean over seeds and {n_suites} suites of at most "
        f"{chosen['prompts']} prompts, {chosen['max_new_tokens']} new tokens. In brackets: 95 % "
        "intervals over seeds (Student's t) and prompts (bootstrap), paired between arms; ± is the standard "
        "deviation over seeds. study.json has the two-level bootstrap's too.",
    ]
    if len(seeds) == 1:
        lines.append("One seed: the intervals are over prompts alone, and say nothing of other seeds.")
    elif len(seeds) < 5:
        lines.append(
            f"With {len(seeds)} seeds the spread over seeds is itself a rough guess, which is what makes "
            "the intervals wide; each seed's figure stands in study.json."
        )
    if report["missing"]:
        lines.append(f"Left out, for want of a seed: {', '.join(report['missing'])}.")
    lines.append(
        f"{report['device']}; {machine['processor']}, {machine['cores']} cores. `{report['command']}`"
    )
    return "\n\n".join(lines)


def number(value: Mapping[str, Any]) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{value['mean']:.3f}" + (f" ± {value['sd']:.3f}" if value["sd"] is not None else "")


def ranged(value: Mapping[str, Any]) -> str:
    """Mean and interval."""
    low, high = value["interval"]
    return f"{value['mean']:.2f} [{low:.2f}, {high:.2f}]"


def percent(value: Mapping[str, Any]) -> str:
    """A gain and its interval."""
    low, high = value["interval"]
    return f"{value['mean']:+.1%} [{100 * low:+.1f}, {100 * high:+.1f}]"
