"""How a part asks for draft trees: "tree 5", or "sampled tree 5", where a policy's name stands."""

from collections.abc import Sequence
from typing import Any

from dspec.decoders import Tree
from dspec.errors import BackendUnavailable, ConfigError

SAMPLED = "sampled "


def tree_budget(policy: str | None) -> int:
    """Return the nodes of "tree 5", which stands where a policy's name does; 0 for a policy.

    Args:
        policy: a name; None: the engine's own.

    Example:
        >>> tree_budget("tree 5"), tree_budget("sampled tree 2"), tree_budget("rejection")
        (5, 2, 0)
    """
    word, _, budget = (policy or "").removeprefix(SAMPLED).partition(" ")
    return int(budget) if word == "tree" else 0


def samples(policy: str | None) -> bool:
    """Return whether the trees that a part asks for are sampled.

    Args:
        policy: a name, or "tree N".

    Example:
        >>> samples("sampled tree 5"), samples("tree 5"), samples("sampled_match")
        (True, False, False)
    """
    return (policy or "").startswith(SAMPLED)


def settings_for(policy: str | None) -> dict[str, Any]:
    """Return the settings of `Engine.generate` that ask for a policy, or for a tree.

    Args:
        policy: a name, or "tree N".

    Example:
        >>> settings_for("sampled tree 5"), settings_for("block")
        ({'decoder': Tree(budget=5, drafts='sampled')}, {'policy': 'block'})
    """
    budget = tree_budget(policy)
    drafts = "sampled" if samples(policy) else "likeliest"
    return {"decoder": Tree(budget=budget, drafts=drafts)} if budget else {"policy": policy}


def trees_refused(engine: Any, prompt: Sequence[int], policy: str | None) -> str:
    """Return why an engine decodes no trees; "" if it does, or if none are asked for.

    Args:
        engine: a `dspec.engine.Engine`.
        prompt: token ids.
        policy: a name, or "tree N".
    """
    if not tree_budget(policy):
        return ""
    try:
        engine.generate(list(prompt), max_new_tokens=2, ignore_eos=True, **settings_for(policy))
    except (BackendUnavailable, ConfigError) as error:
        return str(error)
    return ""
