"""A block-diffusion model in numpy, float64, one slot and one expert at a time, from the published tensors.

A pass is a list of slots with a set of keys each; nothing here knows of layouts, rows, groups or capacity.
"""

import numpy as np
from safetensors.numpy import load_file


class ReferenceModel:
    """The families by their published tensors: `read` takes what was read before and what sees what."""

    def __init__(self, folder, config):
        self.config = config
        self.tensors = {
            name: t.astype(np.float64) for name, t in load_file(folder / "model.safetensors").items()
        }

    def read(self, past, tokens, positions, sight):
        """Logits (P, V) of slots and their keys and values, one list a layer.

        `past` is such a list or None; `sight[i]` are the places that slot i looks at, the past's first.
        """
        names = ("model.word_embeddings.weight", "model.embed_tokens.weight")
        hidden = next(self.tensors[n] for n in names if n in self.tensors)[list(tokens)]
        entries = []
        for i in range(self.config.num_hidden_layers):
            old = [] if past is None else past[i]
            x = self.norm(hidden, f"model.layers.{i}.input_layernorm")
            mixed, new = self.attend(x, i, positions, sight, old)
            hidden = hidden + mixed
            x = self.norm(hidden, f"model.layers.{i}.post_attention_layernorm")
            hidden = hidden + np.stack([self.mix(row, i) for row in x])
            entries.append([*old, *new])
        hidden = self.norm(hidden, "model.norm")
        head = self.tensors.get("lm_head.weight")
        return hidden @ (self.tensors[names[1]] if head is None else head).T, entries

    def norm(self, x, name):
        return (
            x
            / np.sqrt((x**2).mean(-1, keepdims=True) + self.config.rms_norm_eps)
            * self.tensors[f"{name}.weight"]
        )

    def attend(self, x, i, positions, sight, old):
        c = self.config
        queries, keys, values = self.project(x, i)
        new = []
        for place, position in enumerate(positions):
            queries[place] = [self.turn(h, position) for h in queries[place]]
            new.append(([self.turn(h, position) for h in keys[place]], list(values[place])))
        every, out = [*old, *new], []
        for place, seen in enumerate(sight):
            heads = []
            for h, query in enumerate(queries[place]):
                group = h // (c.num_attention_heads // c.num_key_value_heads)
                scores = np.array([query @ every[j][0][group] for j in seen]) / np.sqrt(c.head_dim)
                weights = np.exp(scores - scores.max())
                heads.append(weights / weights.sum() @ np.array([every[j][1][group] for j in seen]))
            out.append(np.concatenate(heads))
        kind = "attention.dense" if c.family == "llada2" else "self_attn.o_proj"
        return np.stack(out) @ self.tensors[f"model.layers.{i}.{kind}.weight"].T, new

    def project(self, x, i):
        """Queries, keys and values (P, heads, d), before positions turn them."""
        c, t = self.config, self.tensors
        sizes = [c.num_attention_heads * c.head_dim, *[c.num_key_value_heads * c.head_dim] * 2]
        if c.family == "llada2":
            parts = np.split(
                x @ t[f"model.layers.{i}.attention.query_key_value.weight"].T, np.cumsum(sizes)[:2], -1
            )
            norms = [f"model.layers.{i}.attention.{n}_layernorm" for n in ("query", "key")]
        else:
            names = [f"model.layers.{i}.self_attn.{n}_proj" for n in "qkv"]
            parts = [x @ t[f"{n}.weight"].T + t.get(f"{n}.bias", 0) for n in names]
            norms = [f"model.layers.{i}.self_attn.{n}_norm" for n in "qk"]
        parts = [part.reshape(len(x), -1, c.head_dim) for part in parts]
        if c.family != "fast_dllm_v2":
            parts[:2] = [self.norm(part, name) for part, name in zip(parts, norms)]
        return parts

    def turn(self, head, position):
        """Entry j and entry j + half of the turned part are the two coordinates of a pair."""
        width, head = self.config.rotary_dim, head.copy()
        half = width // 2
        for j in range(half):
            angle = position * self.config.rope_theta ** (-2 * j / width)
            a, b = head[j], head[j + half]
            head[j], head[j + half] = (
                a * np.cos(angle) - b * np.sin(angle),
                b * np.cos(angle) + a * np.sin(angle),
            )
        return head

    def mix(self, x, i):
        prefix = f"model.layers.{i}.mlp"
        if f"{prefix}.gate.weight" not in self.tensors:
            return self.mlp(x, prefix)
        out = self.mlp(x, f"{prefix}.shared_experts")
        for expert, weight in self.route(x, prefix):
            out = out + weight * self.mlp(x, f"{prefix}.experts.{expert}")
        return out

    def mlp(self, x, prefix):
        gate, up, down = (self.tensors[f"{prefix}.{n}_proj.weight"] for n in ("gate", "up", "down"))
        inner = gate @ x
        return down @ (inner / (1 + np.exp(-inner)) * (up @ x))

    def route(self, x, prefix):
        """(expert, weight) of a token."""
        scores = 1 / (1 + np.exp(-self.tensors[f"{prefix}.gate.weight"] @ x))
        ids = best_experts(scores + self.tensors[f"{prefix}.gate.expert_bias"], self.config.experts)
        total = sum(scores[e] for e in ids) if len(ids) > 1 else 1.0
        return [(e, scores[e] / total * self.config.experts.routed_scaling_factor) for e in ids]


def best_experts(scores, experts):
    """The chosen experts of one token, best first: only those of the best groups may be chosen."""
    size = experts.num_experts // experts.n_group
    groups = [range(g * size, (g + 1) * size) for g in range(experts.n_group)]
    groups.sort(key=lambda group: -sum(sorted((scores[e] for e in group), reverse=True)[:2]))
    allowed = [e for group in groups[: experts.topk_group] for e in group]
    return sorted(allowed, key=lambda e: -scores[e])[: experts.num_experts_per_tok]


def sight_of(layout, length):
    """What each slot of a layout sees of `length` cached positions and of the pass, by the clause (SS-3)."""
    reach = length if layout.reach is None else min(layout.reach, length)
    sight = []
    for i in range(layout.size):
        seen = list(range(reach))
        for j in range(layout.size):
            shared, own = layout.groups[j] == 0, layout.groups[i] == layout.groups[j] != 0
            if ((shared and layout.ranks[j] <= layout.reads[i]) or own) and j != layout.skips[i]:
                seen.append(length + j)
        sight.append(seen)
    return sight
