"""What the front door calls on torch: open models for decoding, train a drafter."""

from pathlib import Path
from typing import Any

import torch

from dspec.backends.torch.drafter import Drafter
from dspec.backends.torch.learner import Learner
from dspec.backends.torch.opening import lent, open_drafter, open_target
from dspec.backends.torch.ops import TorchOps, resolve_device
from dspec.backends.torch.target import Target
from dspec.backends.torch.train import fit
from dspec.config import DrafterConfig, TrainConfig
from dspec.core.objectives import Objective
from dspec.errors import ConfigError, explain
from dspec.io.checkpoints import check_fits, check_output
from dspec.io.data import hold_out, load_examples
from dspec.io.examples import Example
from dspec.progress import note
from dspec.results import TrainResult
from dspec.rng import Purpose, Stream

# Names under which tokenizers carry a mask token of their own.
MASK_NAMES = ("<|mask|>", "<|MASK|>", "[MASK]", "<mask>")


def open_ops(device: str) -> TorchOps:
    """Return the array operations of a device."""
    return TorchOps(resolve_device(device))


def open_models(
    target: Any, drafter: Any, *, device: str, dtype: str, tokenizer: Any = None
) -> tuple[Target, Drafter | None, TorchOps]:
    """Return target, drafter and operations, loaded and found to fit.

    Spec: BD-7, DL-8.

    Args:
        target: hub id, folder, transformers model, or `Target`.
        drafter: hub id, folder, `Drafter`, or None.
        device: "auto", "cuda", "cpu" or "mps".
        dtype: "auto" or a name.
        tokenizer: None: the one beside the target's weights.

    Returns:
        What an `Engine` is made of.

    Raises:
        CheckpointError: a file is malformed, or the drafter does not fit the target.
        ConfigError: a setting contradicts what is loaded already, or there is no target.
    """
    opened = open_target(target, device=device, dtype=dtype, tokenizer=tokenizer)
    if drafter is not None:
        drafter = open_drafter(drafter, opened, device=device, dtype=dtype)
        check_fits(drafter.config, opened.facts)
        drafter.eval()
    return opened, drafter, TorchOps(opened.device)


def train(
    target: Any,
    data: Any,
    output: str | Path | None,
    *,
    config: TrainConfig,
    validation: Any,
    device: str,
    quiet: bool,
    tokenizer: Any = None,
) -> TrainResult:
    """Train one drafter; see `dspec.api.train`.

    Args:
        target: hub id, folder, transformers model, or `Target`.
        data: JSONL file.
        output: folder, or None.
        config: of the run.
        validation: JSONL file; None holds examples out of `data`.
        device: "auto", "cuda", "cpu" or "mps".
        quiet: show no progress.
        tokenizer: None: the one beside the target's weights.

    Returns:
        The result.
    """
    # What is cheap to refuse comes before what takes long: settings, target, data, in this order.
    if output is not None:
        check_output(output)
    Objective.parse(config.objective, reduction=config.reduction)
    with lent(target):
        opened = open_target(target, device=device, tokenizer=tokenizer)
        learners = {"drafter": new_learner(opened, config)}
        examples, held = read_examples(opened, data, validation, config, quiet=quiet)
        return fit(opened, learners, examples, config, validation=held, output=output, quiet=quiet)["drafter"]


def read_examples(
    target: Target, data: Any, validation: Any, config: TrainConfig, *, quiet: bool = True
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return the examples to train on and those to validate on.

    Args:
        target: gives tokenizer and vocabulary.
        data: JSONL file.
        validation: JSONL file; None holds `validate_examples` out of `data`, a tenth of it at most.
        config: sequence length, seed, `validate_examples`.
        quiet: False says on stderr what became of the records, and how many are held out.

    Returns:
        Both, cut to the sequence length.

    Raises:
        DataError: a record cannot be used.
    """

    def read(path: Any) -> tuple[Example, ...]:
        size = {"seq_len": config.seq_len, "vocab_size": target.vocab_size}
        found, summary = load_examples(path, tokenizer=target.tokenizer, **size)
        note(f"{path}: {summary}", quiet=quiet)
        return found

    examples = read(data)
    if validation is not None:
        return examples, read(validation)
    count = min(config.validate_examples, len(examples) // 10)
    note(f"validation: {_slice(count, len(examples), config.validate_examples)}", quiet=quiet)
    return hold_out(examples, count=count, seed=config.seed)


def _slice(count: int, whole: int, asked: int) -> str:
    """Return how many examples are held out, and why not as many as were asked for."""
    if count == asked:
        return f"{count} of {whole} examples held out" if asked else "none, as validate_examples is 0"
    less = f"a tenth of the data, which is less than validate_examples = {asked}"
    return f"{count or 'none'} of {whole} examples held out: {less}"


def new_learner(target: Target, config: TrainConfig) -> Learner:
    """Return a learner with a new drafter for the target, its weights drawn from the seed.

    Spec: RN-5.

    Args:
        target: what the drafter is for.
        config: shape, objective, seed.

    Returns:
        The learner.
    """
    shape = DrafterConfig.for_target(
        target.facts,
        block_size=config.block_size,
        layers=config.layers,
        target_layer_ids=config.target_layer_ids,
        mask_token_id=spare_token(target) if config.mask_token_id is None else config.mask_token_id,
    )
    generator = torch.Generator().manual_seed(_init_seed(config.seed))
    # Masters in float32, whatever the target's dtype: bfloat16 rounds small AdamW steps to nothing.
    drafter = Drafter(shape).initialise(generator).to(target.device)
    return Learner(drafter, target, config)


def spare_token(target: Target) -> int:
    """Return the token that stands for a drafted slot: a mask token of the tokenizer, or the first
    row of the embedding that no token uses.

    Args:
        target: gives tokenizer and embedding.

    Returns:
        Its id.

    Raises:
        ConfigError: there is none; the message says how to name one.
    """
    remedy = "Name a token the text never holds: mask_token_id=..."
    if target.tokenizer is None:
        raise ConfigError(
            explain("mask_token_id", "none", "an id: the target has no tokenizer", remedy=remedy)
        )
    known = target.tokenizer.get_vocab()
    for name in MASK_NAMES:
        if name in known:
            return int(known[name])
    first_free = max(known.values()) + 1
    if first_free >= target.vocab_size:
        got = f"none, and all {target.vocab_size} rows of the embedding are tokens"
        raise ConfigError(explain("mask_token_id", got, "an id", remedy=remedy))
    return int(first_free)


def _init_seed(seed: int) -> int:
    """Return the seed of a drafter's weights, a key of its own beside order and anchors."""
    return int(Stream(seed).generator(Purpose.INIT, 0).integers(2**63))
