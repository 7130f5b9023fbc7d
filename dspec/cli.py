"""The command line: `dspec train | generate | bench | check | demo`.

Results go to stdout, everything else to stderr; `--json` prints one JSON object on stdout.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dspec import __version__
from dspec.cli_bench import bench_blocks, bench_drafter, bench_plan
from dspec.cli_check import check
from dspec.cli_decoders import BLOCK, build_decoder, with_decoder_options
from dspec.cli_options import with_settings
from dspec.cli_plan_options import Acceptance, AsPlan, BatchSizes, Budgets, Context, read_plan_options
from dspec.cli_prompt import read_prompt_options
from dspec.core.policies import POLICIES
from dspec.errors import ConfigError, DspecError, explain
from dspec.evaluation.report import plain
from dspec.io.block_family import published_family

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train block-diffusion drafters to speculate left to right, and decode with them exactly.",
)

POLICY_HELP = "; ".join(f"{policy.name}: {policy.summary}" for policy in POLICIES.values())
INTERRUPTED = 130  # what a shell reports after Ctrl-C

DECODER_HELP = (
    "speculative, tree or autoregressive; of a block-diffusion model: self-speculative, diffusion, wino."
)
DECODERS_HELP = 'To compare; repeat it: "tree(budget=8)", "self-speculative(exact=true)", autoregressive.'
Family = Annotated[str | None, typer.Option(help="Of a block-diffusion model: sdar, fast_dllm_v2 or llada2.")]
MaskToken = Annotated[int | None, typer.Option(help="Mask token of a block-diffusion model.")]
Backend = Annotated[str, typer.Option(help="auto, cuda, cpu, mps or mlx.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of the program itself."""
    if version:
        print(__version__)
        raise typer.Exit


def train(
    target: Annotated[str, typer.Argument(help="Hub id or folder of the target.")],
    data: Annotated[str, typer.Argument(help="JSONL of text, prompt/response or messages.")],
    *,
    output: Annotated[Path, typer.Option(help="Folder for the drafter.")],
    validation: Annotated[str | None, typer.Option(help="JSONL held out; default: part of DATA.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of the options below.")] = None,
    as_json: AsJson = False,
    settings: dict[str, Any],
) -> None:
    """Train a drafter for TARGET on DATA. Options win over the config file."""
    import dspec

    result = dspec.train(target, data, output, config=config, validation=validation, **settings)
    if as_json:
        print(_json({"output": str(output), **result.metrics}))
    if not result.metrics["finished"]:
        _note("The run was stopped early; the same command goes on where it stopped.")
        raise typer.Exit(INTERRUPTED)
    _note(f"The drafter is in {output}. Decode with: dspec generate {target} --drafter {output}")


app.command()(with_settings(train))


def generate(
    target: Annotated[str, typer.Argument(help="Hub id or folder of the target or block-diffusion model.")],
    drafter: Annotated[str | None, typer.Option(help="Drafter folder; none: one token a pass.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text to go on from.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Text file, or .json of chat messages.")] = None,
    prompt_ids: Annotated[str | None, typer.Option(help='Token ids: "1 2 3".')] = None,
    chat: Annotated[bool, typer.Option(help="Take the prompt as a user's chat message.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to emit.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 keeps all.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="0 keeps all.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Key of the uniforms.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; may be repeated.")] = None,
    policy: Annotated[str | None, typer.Option(help=POLICY_HELP)] = None,
    decoder: Annotated[str | None, typer.Option(help=DECODER_HELP)] = None,
    family: Family = None,
    mask_token_id: MaskToken = None,
    ignore_eos: Annotated[bool, typer.Option(help="Go on after an end token.")] = False,
    log_probs: Annotated[
        str | None, typer.Option(help="raw or warped: the target's, in the --json output.")
    ] = None,
    backend: Backend = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: AsJson = False,
    *,
    options: dict[str, Any],
) -> None:
    """Decode from a prompt; in a terminal accepted drafts and closing tokens have colours.

    A block-diffusion model drafts and verifies by itself: give its --family, or one of its decoders.
    """
    from dspec.request import parse_request

    given = read_prompt_options(prompt, prompt_file, prompt_ids, chat)
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "stop": tuple(stop or ()),
        "ignore_eos": ignore_eos,
        "log_probs": log_probs,
        "decoder": (made := build_decoder(decoder, options, policy)),
        "policy": None if hasattr(made, "policy") else policy,
    }
    parse_request(settings)  # before minutes of loading
    if log_probs is not None and not as_json:
        raise ConfigError(explain("--log-probs", log_probs, "--json beside it: text has no place for them"))
    named = family is not None or mask_token_id is not None or isinstance(made, BLOCK)
    if named or published_family(target) is not None:
        if drafter is not None:
            raise ConfigError(explain("--drafter", drafter, "none: a block-diffusion model drafts by itself"))
        model = {"family": family, "mask_token_id": mask_token_id, "backend": backend, "dtype": dtype}
        _generate_blocks(target, model, given, settings, as_json)
    else:
        _generate(target, drafter, {"backend": backend, "dtype": dtype}, given, settings, as_json)


app.command()(with_decoder_options(generate))


def _generate(target: str, drafter: str | None, model: Any, given: Any, settings: Any, as_json: bool) -> None:
    """Decode with a target and a drafter."""
    import dspec
    from dspec.display import show_stream

    engine = dspec.load(target, drafter, **model)
    if not as_json:
        show_stream(engine, given, settings)
        return
    out = engine.generate(given, **settings)
    numbers = {"tau": out.stats.tau, "alpha": out.stats.alpha, "seconds": dict(out.stats.seconds)}
    fields = {"tokens": out.tokens, "text": out.text, "finish": out.finish, "n_emitted": out.n_emitted}
    told = {} if out.log_probs is None else {"log_probs": out.log_probs}
    print(_json({**fields, **told, **numbers, "tokens_per_second": out.stats.tokens_per_second}))


def _generate_blocks(source: str, model: Any, given: Any, settings: Any, as_json: bool) -> None:
    """Decode with a block-diffusion model."""
    import dspec
    from dspec.block_display import as_plain, show_block_stream

    lm = dspec.load_block_diffusion(source, **model)
    if as_json:
        print(_json(as_plain(lm.generate(given, **settings))))
    else:
        show_block_stream(lm, given, settings)


@app.command()
def bench(
    target: Annotated[str, typer.Argument(help="Hub id or folder of the target or block-diffusion model.")],
    drafter: Annotated[str | None, typer.Argument(help="Drafter folder; none for block diffusion.")] = None,
    suite: Annotated[str, typer.Option(help="gsm8k, humaneval, mt_bench, tiny, or a JSONL file.")] = "tiny",
    decoder: Annotated[list[str] | None, typer.Option(help=DECODERS_HELP)] = None,
    family: Family = None,
    mask_token_id: MaskToken = None,
    output: Annotated[Path | None, typer.Option(help="Folder for bench.json.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens a prompt.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Key of the uniforms.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts side by side (block diffusion).")] = 1,
    plan: AsPlan = False,
    acceptance: Acceptance = None,
    context: Context = 256,
    batch_sizes: BatchSizes = None,
    budgets: Budgets = None,
    backend: Backend = "auto",
    as_json: AsJson = False,
) -> None:
    """Decode a suite of prompts: tau and acceptance of a drafter, or several decoders side by side.

    With --plan: time the passes here, predict the speed of block sizes, batches and trees, say if they pay.
    """
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # before minutes of decoding
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "quiet": as_json}
    timed = read_plan_options(plan, acceptance=acceptance, batch_sizes=batch_sizes, budgets=budgets)
    blocks = family is not None or mask_token_id is not None
    if blocks or (decoder and drafter is None and not plan) or published_family(target) is not None:
        if plan:
            raise ConfigError(explain("--plan", target, "a target of a drafter, not a block-diffusion model"))
        if drafter is not None:
            raise ConfigError(explain("DRAFTER", drafter, "none: a block-diffusion model drafts by itself"))
        model = {"family": family, "mask_token_id": mask_token_id, "backend": backend}
        result = bench_blocks(target, model, suite, decoder or [], {**settings, "batch_size": batch_size})
    elif plan:
        timed.update(context=context, output=output)
        result = bench_plan(target, drafter, backend, suite, decoder or [], {**settings, **timed})
    else:
        result = bench_drafter(target, drafter, backend, suite, decoder or [], settings)
    if as_json:
        print(_json(result))
    if output is not None:
        name = "plan.json" if plan else "bench.json"
        (output / name).write_text(_json(result) + "\n", encoding="utf-8")


app.command()(check)


@app.command()
def demo(
    backend: Backend = "auto",
    output: Annotated[Path, typer.Option(help="Folder for the report and the drafters.")] = Path(
        "demo-report"
    ),
    seed: Annotated[int, typer.Option(help="Of weights, order and anchors.")] = 0,
    quick: Annotated[
        bool, typer.Option(help="A minute's run with few steps: to see that all works.")
    ] = False,
) -> None:
    """Train drafters with four objectives on the tiny target that ships, and compare them."""
    from dspec.demo.run import run_demo

    run_demo(backend=backend, output=output, seed=seed, quick=quick)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; a dspec error is one line on stderr.

    Args:
        arguments: words after the program's name; None takes those of the process.

    Returns:
        0, or 1 for a failed check, 2 for bad input, 130 for a run that was stopped.
    """
    try:
        app(arguments, standalone_mode=True)
    except (DspecError, OSError) as error:
        _note(f"{type(error).__name__}: {error}")
        return 2
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    return 0


def entry() -> None:
    """What the `dspec` script calls."""
    sys.exit(run())


def _json(value: Any) -> str:
    """Return JSON in which what is not a number (tau without a pass) is null."""
    return json.dumps(plain(value))


def _note(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    entry()
