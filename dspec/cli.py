"""The command line: `dspec train | generate | bench | check | demo`.

Results go to stdout, everything else to stderr; `--json` prints one JSON object on stdout.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dspec import __version__
from dspec.cli_check import check
from dspec.cli_options import with_settings
from dspec.core.policies import POLICIES
from dspec.decoders import Autoregressive, Speculative
from dspec.errors import ConfigError, DspecError, explain
from dspec.evaluation.report import plain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train block-diffusion drafters to speculate left to right, and decode with them exactly.",
)

POLICY_HELP = "; ".join(f"{policy.name}: {policy.summary}" for policy in POLICIES.values())
INTERRUPTED = 130  # what a shell reports after Ctrl-C

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


@app.command()
def generate(
    target: Annotated[str, typer.Argument(help="Hub id or folder of the target.")],
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
    decoder: Annotated[str | None, typer.Option(help="speculative, or autoregressive: no drafts.")] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Go on after an end token.")] = False,
    backend: Backend = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Decode from a prompt; in a terminal accepted drafts and closing tokens have colours."""
    import dspec
    from dspec.display import show_stream
    from dspec.request import parse_request

    given = _prompt(prompt, prompt_file, prompt_ids, chat)
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "stop": tuple(stop or ()),
        **_decoder(decoder, policy),
        "ignore_eos": ignore_eos,
    }
    parse_request(settings)  # before minutes of loading
    engine = dspec.load(target, drafter, backend=backend, dtype=dtype)
    if not as_json:
        show_stream(engine, given, settings)
        return
    out = engine.generate(given, **settings)
    numbers = {"tau": out.stats.tau, "alpha": out.stats.alpha, "seconds": dict(out.stats.seconds)}
    fields = {"tokens": out.tokens, "text": out.text, "finish": out.finish, "n_emitted": out.n_emitted}
    print(_json({**fields, **numbers, "tokens_per_second": out.stats.tokens_per_second}))


@app.command()
def bench(
    target: Annotated[str, typer.Argument(help="Hub id or folder of the target.")],
    drafter: Annotated[str, typer.Argument(help="Drafter folder.")],
    suite: Annotated[str, typer.Option(help="gsm8k, humaneval, mt_bench, tiny, or a JSONL file.")] = "tiny",
    output: Annotated[Path | None, typer.Option(help="Folder for bench.json.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens a prompt.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Key of the uniforms.")] = 0,
    backend: Backend = "auto",
    as_json: AsJson = False,
) -> None:
    """Decode a suite of prompts and print tau, acceptance by slot and tokens per second."""
    import dspec
    from dspec.display import show_bench

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # before minutes of decoding
    engine = dspec.load(target, drafter, backend=backend)
    result = show_bench(
        engine, suite, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, quiet=as_json
    )
    if as_json:
        print(_json(result))
    if output is not None:
        (output / "bench.json").write_text(_json(result) + "\n", encoding="utf-8")


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
    except DspecError as error:
        _note(f"{type(error).__name__}: {error}")
        return 2
    except OSError as error:
        _note(f"{type(error).__name__}: {error}")
        return 2
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    return 0


def entry() -> None:
    """What the `dspec` script calls."""
    sys.exit(run())


def _prompt(text: str | None, file: Path | None, ids: str | None, chat: bool) -> Any:
    """Return the prompt that exactly one of the three options gives."""
    options = {"--prompt": text, "--prompt-file": file, "--prompt-ids": ids}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(explain("prompt", " and ".join(given) or "none", f"one of {', '.join(options)}"))
    messages = file is not None and file.suffix == ".json"
    if chat and (messages or ids is not None):
        raise ConfigError(explain("--chat", given[0], "a text to take as a message"))
    if ids is not None:
        return _numbers(ids)
    if file is not None:
        text = _read(file, lambda: file.read_text(encoding="utf-8"))
        if messages:
            return _read(file, lambda: json.loads(text))
    return [{"role": "user", "content": text}] if chat else text


def _decoder(name: str | None, policy: str | None) -> dict[str, Any]:
    """Return the settings that --decoder and --policy stand for."""
    made = {None: None, "speculative": Speculative(policy=policy), "autoregressive": Autoregressive()}
    if name not in made:
        raise ConfigError(explain("--decoder", repr(name), "speculative or autoregressive"))
    return {"decoder": made[name], "policy": None if name == "speculative" else policy}


def _numbers(ids: str) -> list[int]:
    try:
        return [int(word) for word in ids.replace(",", " ").split()]
    except ValueError as error:
        raise ConfigError(explain("--prompt-ids", repr(ids), 'integers such as "1 2 3"')) from error


def _read(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise ConfigError(
            explain("--prompt-file", f"{file}: {error}", "a readable text or JSON file")
        ) from error


def _json(value: Any) -> str:
    """Return JSON in which what is not a number (tau without a pass) is null."""
    return json.dumps(plain(value))


def _note(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    entry()
