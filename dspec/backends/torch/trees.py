"""Draft trees on transformers' models: a position and a mask a node, and which models take them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dspec.backends.torch.cache import KeyValueCache
from dspec.backends.torch.pretrained import GROUPED
from dspec.core.tree import Tree
from dspec.errors import BackendUnavailable, explain

# Kernels that take any mask; flash attention takes none, flex its own kind.
ATTENTION = ("sdpa", GROUPED, "eager")
# A path behind two siblings of its first node: seen, or counted as positions, they would change its states.
PROBE, PROBE_PATH = Tree(tokens=(5, 6, 7, 8, 9, 10), parents=(0, 0, 0, 3, 4, 5)), (0, 3, 4, 5, 6)
PROBE_ANCHOR = 4
# Mean difference of states, relative: 0.14 and more on ten small models with a wrong position or mask, below
# 0.01 by rounding in bfloat16; between them, so that one expert that rounding routes elsewhere is no fault.
SAME = 0.05


def refuse_unless_trees(model: Any) -> None:
    """Raise unless the model reads draft trees: takes a position and a mask a node, and obeys them.

    Two passes over seven tokens at most: the nodes of a path beside other branches, and the path alone.

    Spec: DL-11.

    Args:
        model: a transformers model that dspec drives.

    Raises:
        BackendUnavailable: names what is in the way.
    """
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation not in ATTENTION:
        got = f"attention {config._attn_implementation!r}"
        _refuse(model, got, "one of " + ", ".join(map(repr, ATTENTION)) + ", which take a mask of any form")
    body, device = model.get_decoder(), model.get_input_embeddings().weight.device
    # Ids above those of padding, whose embedding may be zero, where the vocabulary has them.
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[token % vocabulary for token in (PROBE_ANCHOR, *PROBE.tokens)]], device=device)
    states = []
    with torch.no_grad():
        for some, layout in ((ids, tree_layout(model, PROBE, 0)), (ids[:, PROBE_PATH], {})):
            cache = KeyValueCache(len(body.layers), capacity=ids.shape[1])
            found = body(input_ids=some, past_key_values=cache, use_cache=True, **layout)
            states.append(found.last_hidden_state.float())
    beside, alone = states[0][:, PROBE_PATH], states[1]
    if not (beside - alone).abs().mean() <= SAME * alone.abs().mean():
        _refuse(model, "other states in a tree than along its path", "positions and masks that are obeyed")


def _refuse(model: Any, got: str, needed: str) -> None:
    remedy = "Use Speculative(), or load the model with attn_implementation='sdpa'."
    raise BackendUnavailable(explain(type(model).__name__, got, needed, remedy=remedy, clause="DL-11"))


def tree_layout(model: Any, tree: Tree, start: int) -> dict[str, Any]:
    """Return what the model's body takes beside the ids of anchor and nodes.

    Spec: DL-11.

    Args:
        model: a transformers model.
        tree: the nodes after the anchor, N of them.
        start: the anchor's position; all before it are committed.

    Returns:
        "position_ids", (1, N + 1); "attention_mask", (1, 1, N + 1, start + N + 1) or, where layers differ
        in what they see, one of them by kind of layer.
    """
    config = model.config.get_text_config(decoder=True)
    weight = model.get_input_embeddings().weight
    # Nothing is queued here: the pass has just waited for the tokens that the tree is made of.
    own = torch.tensor([[0, *tree.depths]], device=weight.device) + start
    above = torch.from_numpy(ancestors(tree)).to(weight.device)
    before = torch.arange(start, device=weight.device)[None]
    seen = torch.cat([above.new_ones(own.shape[1], start), above], dim=1)
    age = own[0, :, None] - torch.cat([before, own], dim=1)

    def mask(kind: str) -> Tensor:
        here = seen & (age < config.sliding_window) if kind == "sliding_attention" else seen
        if config._attn_implementation == "eager":  # it adds the mask to the scores
            lowest = torch.finfo(weight.dtype).min
            return torch.zeros(here.shape, dtype=weight.dtype, device=here.device).masked_fill(~here, lowest)[
                None, None
            ]
        return here[None, None]

    kinds = _kinds(config)
    masks = {kind: mask(kind) for kind in kinds}
    return {"position_ids": own, "attention_mask": masks if len(kinds) > 1 else masks[kinds[0]]}


def ancestors(tree: Tree) -> NDArray[np.bool_]:
    """Return (N + 1, N + 1): whether the node of a row sees that of a column, itself or an ancestor.

    Spec: DL-11.

    Args:
        tree: the nodes after the anchor.

    Returns:
        Rows and columns in the order of the nodes, the anchor first.

    Example:
        >>> ancestors(Tree((5, 6), (0, 0))).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    seen = np.eye(len(tree.tokens) + 1, dtype=np.bool_)
    for number, parent in enumerate(tree.parents, 1):
        seen[number] |= seen[parent]
    return seen


def _kinds(config: Any) -> list[str]:
    """The kinds of its layers, as transformers' own functions of masks tell them."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if kinds:
        return kinds
    return ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
