"""Draft trees on transformers' models: a position and a mask a node, and which models take them."""

from typing import Any

import torch
from torch import Tensor

from dspec.backends.torch.cache import KeyValueCache
from dspec.backends.torch.pretrained import GROUPED
from dspec.backends.tree_nodes import PROBE, ancestors
from dspec.core.tree import Tree
from dspec.errors import BackendUnavailable, explain

# Kernels that take any mask; flash attention takes none, flex its own kind.
ATTENTION = ("sdpa", GROUPED, "eager")


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
    ids = torch.tensor([PROBE.tokens(model.get_input_embeddings().weight.shape[0])], device=device)
    states = []
    with torch.no_grad():
        for some, layout in ((ids, tree_layout(model, PROBE.tree, 0)), (ids[:, PROBE.path], {})):
            cache = KeyValueCache(len(body.layers), capacity=ids.shape[1])
            found = body(input_ids=some, past_key_values=cache, use_cache=True, **layout)
            states.append(found.last_hidden_state.float())
    beside, alone = states[0][:, PROBE.path], states[1]
    if not (beside - alone).abs().mean() <= PROBE.same * alone.abs().mean():
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


def _kinds(config: Any) -> list[str]:
    """The kinds of its layers, as transformers' own functions of masks tell them."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if kinds:
        return kinds
    return ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
