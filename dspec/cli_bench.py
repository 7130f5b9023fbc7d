"""What `dspec bench` does: a drafter on a suite, decoders side by side, or a plan."""

from collections.abc import Mapping, Sequence
from typing import Any

from dspec.cli_decoders import BLOCK, parse_decoder
from dspec.errors import ConfigError, explain

DECODERS = ("autoregressive", "self-speculative(exact=true)", "diffusion")


def bench_plan(
    target: str,
    drafter: str | None,
    backend: str,
    suite: str,
    texts: Sequence[str],
    settings: Mapping[str, Any],
) -> Any:
    """Predict and measure the speed of block sizes, batches and trees.

    Args:
        target, drafter: hub ids or folders; no drafter: drafts for nothing.
        backend: name.
        suite: name or file.
        texts: of --decoder, which a plan does not take.
        settings: of `show_plan`.

    Raises:
        ConfigError: decoders beside a plan, or a setting out of range.
    """
    import dspec
    from dspec.cli_plan import show_plan

    if texts:
        remedy = "Leave one out: a plan has --budgets for trees."
        raise ConfigError(explain("--decoder", ", ".join(texts), "no --plan beside it", remedy=remedy))
    return show_plan(dspec.load(target, drafter, backend=backend), suite, backend=backend, **settings)


def bench_drafter(
    target: str,
    drafter: str | None,
    backend: str,
    suite: str,
    texts: Sequence[str],
    settings: Mapping[str, Any],
) -> Any:
    """Decode a suite with a target and a drafter: by its blocks, or by several decoders in turn.

    Args:
        target, drafter: hub ids or folders.
        backend: name.
        suite: name or file.
        texts: decoders as `parse_decoder` reads them, the baseline first; none: acceptance by slot.
        settings: of `show_bench` and `show_comparison`.

    Raises:
        ConfigError: no drafter, or a decoder of block-diffusion models.
    """
    import dspec
    from dspec.display import decoder_table, show_bench
    from dspec.evaluation.drafted_bench import compare_drafted
    from dspec.suite_display import show_comparison

    if drafter is None:
        raise ConfigError(explain("DRAFTER", "none", "a drafter folder, or a block-diffusion model"))
    decoders = dict(parse_decoder(text) for text in texts)
    for text, decoder in decoders.items():
        if isinstance(decoder, BLOCK):
            needed = "speculative, tree or autoregressive, where there is a drafter"
            raise ConfigError(explain("--decoder", repr(text), needed))
    engine = dspec.load(target, drafter, backend=backend)
    if decoders:
        return show_comparison(compare_drafted, decoder_table, engine, suite, decoders, **settings)
    return show_bench(engine, suite, **settings)


def bench_blocks(
    source: str, model: Mapping[str, Any], suite: str, texts: Sequence[str], settings: Mapping[str, Any]
) -> Any:
    """Decode a suite with decoders of a block-diffusion model; without names, three of them.

    Args:
        source: hub id or folder.
        model: keywords of `load_block_diffusion`.
        suite: name or file.
        texts: decoders as `parse_decoder` reads them, the baseline first.
        settings: of `show_comparison`.
    """
    import dspec
    from dspec.evaluation.decoder_bench import compare_decoders
    from dspec.evaluation.decoder_table import decoder_table
    from dspec.suite_display import show_comparison

    decoders = dict(parse_decoder(text) for text in texts or DECODERS)
    lm = dspec.load_block_diffusion(source, **model)
    return show_comparison(compare_decoders, decoder_table, lm, suite, decoders, **settings)
