"""Block-diffusion models at the command line: decoders by option and by text, JSON, one line a mistake."""

import dataclasses
import json

import pytest
from rich.console import Console

from dspec import cli
from dspec.block_display import STYLES, show_block_stream
from dspec.cli_decoders import BLOCK, HELP, parse_decoder
from dspec.core.trace import KINDS
from dspec.decoders import Diffusion, Editing, SelfSpeculative, Speculative, Tree
from dspec.errors import ConfigError
from tests import block_models

SDAR, FAST, LLADA = (str(block_models.FOLDERS[name]) for name in ("sdar", "fast_dllm_v2", "llada2"))
MASK = ("--mask-token-id", "299")
IDS = "101 101 100 115 32 49 48 48 32 45"


def run(capsys, *words):
    """Run the command line and return status, stdout, stderr."""
    status = cli.run([str(word) for word in words])
    out = capsys.readouterr()
    return status, out.out, out.err


def found(capsys, *words):
    status, out, err = run(capsys, *words, "--max-new-tokens", 12, "--ignore-eos", "--json")
    assert status == 0, err
    return json.loads(out)


@pytest.mark.clause("SS-15", "SS-24")
def test_generate_prints_one_json_object_with_its_trace(capsys, room):
    words = ("generate", FAST, *MASK, "--prompt-ids", IDS, "--backend", room.device)
    plain = found(capsys, *words, "--decoder", "autoregressive")
    default = found(capsys, *words)
    options = ("--decoder", "self-speculative", "--exact", "--layout", "fused", "--block-size", 4)
    fused = found(capsys, *words, *options)
    hybrid = found(capsys, *words, "--decoder", "self-speculative", "--route", "hysteresis(0, -1)")
    assert plain["tokens"] == default["tokens"] == fused["tokens"] and len(plain["tokens"]) == 12
    assert fused["forward_passes"] < plain["forward_passes"] == 1 + 12
    assert [entry[0] for entry in fused["trace"]] == list(range(10, 10 + len(fused["trace"])))
    assert {entry[2] for entry in hybrid["trace"]} <= set(KINDS)
    assert fused["seconds"]["total"] > 0 and fused["forwards_per_token"] == fused["forward_passes"] / 12


def test_a_family_is_named_where_the_config_does_not_say_it(capsys):
    words = ("generate", SDAR, *MASK, "--prompt-ids", IDS, "--decoder", "diffusion", "--select", "static")
    status, _, err = run(capsys, *words)
    assert status == 2 and "ConfigError: family: got none" in err
    assert len(found(capsys, *words, "--family", "sdar", "--steps", 2, "--block-size", 4)["tokens"]) == 12


def test_a_stream_of_ids_and_its_counts(capsys):
    words = ("generate", LLADA, *MASK, "--prompt-ids", IDS, "--decoder", "wino", "--block-size", 4)
    status, out, err = run(capsys, *words, "--max-new-tokens", 8, "--ignore-eos")
    assert status == 0 and len(out.split()) == 8
    assert "8 tokens" in err and "forward passes" in err and "ended by length" in err


def test_tokens_carry_the_colour_of_how_they_were_decided(capsys, monkeypatch):
    monkeypatch.setattr(Console, "color_system", property(lambda self: "standard"))
    from dspec.backends.torch.front import open_block_model
    from dspec.block_engine import BlockDiffusion

    model = {"family": None, "mask_token_id": 299, "device": "cpu", "dtype": "auto", "tokenizer": None}
    lm = BlockDiffusion(*open_block_model(FAST, **model))
    settings = {
        "max_new_tokens": 16,
        "decoder": SelfSpeculative(exact=True, block_size=4),
        "ignore_eos": True,
    }
    show_block_stream(lm, [101, 101, 100], settings)
    out = capsys.readouterr().out
    assert "\x1b[32m" in out and "\x1b[1;33m" in out  # accepted drafts, tokens of the verify pass
    assert set(STYLES) | {"remasked"} == set(KINDS)


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--decoder", "diffusion", "--route", "never"),
            "--route: got 'never' with --decoder diffusion; needs",
        ),
        (("--route", "never"), "--decoder: got nothing; needs one of speculative"),
        (
            ("--decoder", "self-speculative", "--exact", "--threshold", 0.5),
            "threshold: got 0.5 with exact=True",
        ),
        (("--decoder", "self-speculative", "--route", "hysteresis(0, 1)"), "route: got 'hysteresis(0, 1)'"),
        (
            ("--decoder", "diffusion", "--block-size", 8, "--sub-block", 3),
            "block_size: got 8; needs a multiple",
        ),
        (("--decoder", "diffusion", "--edit-threshold", -1), "threshold: got -1.0"),
        (("--decoder", "wino"), "Wino: got a token-shifted model"),
        (("--family", "sdar"), "family"),
        (("--decoder", "diffusion", "--drafter", "x"), "--drafter: got x; needs none"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, words, message):
    status, out, err = run(capsys, "generate", FAST, *MASK, "--prompt-ids", IDS, *words)
    assert status == 2 and out == ""
    assert message in err.strip().splitlines()[-1] and "Traceback" not in err


def test_every_field_of_a_decoder_is_an_option(capsys):
    out = run(capsys, "generate", "--help")[1].replace("\n", "")
    decoders = (Speculative, Tree, *BLOCK)
    names = {f.name for one in decoders for f in dataclasses.fields(one)} - {"edit", "policy", "costs"}
    assert names | {"edit_threshold", "edit_passes"} == set(HELP)
    for name in HELP:
        assert "--" + name.replace("_", "-") in out


def test_a_decoder_as_a_text():
    text, decoder = parse_decoder(" diffusion(select=static, steps=4, block_size=8, edit_threshold=0.5) ")
    assert text == "diffusion(select=static, steps=4, block_size=8, edit_threshold=0.5)"
    assert decoder == Diffusion(select="static", steps=4, block_size=8, edit=Editing(threshold=0.5))
    text = "self-speculative(route=hysteresis(0, -1), estimator=margin(0.1), bonus=true)"
    assert parse_decoder(text)[1].route == "hysteresis(0, -1)"
    assert parse_decoder("self-speculative(exact=TRUE, policy=one_hot)")[1].policy == "one_hot"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("diffusion(steps)", "field=value"),
        ("diffusion(depth=3)", "field=value; fields"),
        ("diffusion(steps=many)", "a number for steps"),
        ("self-speculative(exact=yes)", "exact=true or exact=false"),
        ("diffusion(route=never)", "with --decoder diffusion"),
        ("2 fast", "such as"),
        ("slow()", "one of speculative"),
    ],
)
def test_a_text_that_is_no_decoder_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_decoder(text)


def test_bench_compares_decoders(capsys, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"tokens": [101, 102, 103]}\n{"tokens": [104, 105]}\n')
    words = ("bench", FAST, *MASK, "--suite", tmp_path / "two.jsonl", "--max-new-tokens", 8)
    texts = ("autoregressive", "self-speculative(exact=true, block_size=4)")
    status, out, err = run(
        capsys, *words, "--decoder", texts[0], "--decoder", texts[1], "--output", tmp_path / "b", "--json"
    )
    assert status == 0, err
    result = json.loads(out)
    assert result == json.loads((tmp_path / "b" / "bench.json").read_text())
    slow, fast = (result["decoders"][text] for text in texts)
    assert fast["exact_match"] == slow["exact_match"] == 1
    assert fast["log_likelihood"]["value"] == pytest.approx(slow["log_likelihood"]["value"])
    status, out, _ = run(capsys, *words)
    assert status == 0 and "autoregressive" in out and "diffusion" in out
    assert max(map(len, out.splitlines())) <= 80
    status, _, err = run(capsys, "bench", FAST, "drafter")
    assert status == 2 and "DRAFTER: got drafter; needs none" in err
