"""The options of `dspec bench --plan`, and what their words mean."""

from typing import Annotated, Any

import typer

from dspec.errors import ConfigError, explain
from dspec.tree_decoder import MOST_NODES as MOST

PLAN_HELP = "Time passes and predict tokens per second by block size instead."
ACCEPTANCE_HELP = 'Of each slot (--plan): "0.8" or "0.9,0.8"; default: the drafter\'s on the suite.'
BATCH_HELP = 'Requests side by side to plan for beside one alone (--plan): "2,4,8".'
BUDGETS_HELP = 'Nodes of draft trees to plan for (--plan): "8,16,32"; needs a drafter.'

AsPlan = Annotated[bool, typer.Option("--plan", help=PLAN_HELP)]
Acceptance = Annotated[str | None, typer.Option(help=ACCEPTANCE_HELP)]
Context = Annotated[int, typer.Option(help="Positions before the timed passes (--plan).")]
BatchSizes = Annotated[str | None, typer.Option(help=BATCH_HELP)]
Budgets = Annotated[str | None, typer.Option(help=BUDGETS_HELP)]


def read_plan_options(plan: bool, **words: str | None) -> dict[str, Any]:
    """Return what the options of a plan say, as `show_plan` takes it.

    Args:
        plan: whether there is to be one.
        **words: acceptance, batch_sizes and budgets, as given; None: not given.

    Raises:
        ConfigError: an option that means nothing without --plan, or words that are no such numbers.

    Example:
        >>> read_plan_options(True, acceptance="0.8", batch_sizes="4,1", budgets=None)
        {'acceptance': (0.8,), 'batch_sizes': (1, 4), 'budgets': ()}
    """
    for name, text in words.items():
        if text is not None and not plan:
            raise ConfigError(explain(f"--{name.replace('_', '-')}", repr(text), "--plan beside it"))
    return {
        "acceptance": read_acceptance(words["acceptance"]),
        "batch_sizes": read_sizes("--batch-sizes", words["batch_sizes"]),
        "budgets": read_sizes("--budgets", words["budgets"]),
    }


def read_acceptance(text: str | None) -> tuple[float, ...] | None:
    """Return the acceptance that an option gives: one number, or one a slot.

    Args:
        text: such as "0.8" or "0.9,0.8,0.7"; None: not given.

    Returns:
        The numbers; None: to be measured.

    Raises:
        ConfigError: no numbers in [0, 1].

    Example:
        >>> read_acceptance("0.9, 0.8")
        (0.9, 0.8)
    """
    if text is None:
        return None
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= value <= 1 for value in values):
        raise ConfigError(explain("--acceptance", repr(text), 'numbers in [0, 1]: "0.8" or "0.9,0.8,0.7"'))
    return values


def read_sizes(option: str, text: str | None) -> tuple[int, ...]:
    """Return the sizes that an option lists, smallest first, each once.

    Args:
        option: its name, for the error.
        text: such as "1,2,4"; None: not given.

    Returns:
        The sizes; none if it was not given.

    Raises:
        ConfigError: no integers from 1 to 4096.

    Example:
        >>> read_sizes("--budgets", "16, 8,16")
        (8, 16)
    """
    if text is None:
        return ()
    try:
        values = sorted({int(word) for word in text.split(",")})
    except ValueError:
        values = [0]
    if not 1 <= values[0] <= values[-1] <= MOST:
        raise ConfigError(explain(option, repr(text), f'integers from 1 to {MOST}: "8,16,32"'))
    return tuple(values)
