"""Table models: what frameworks load from the folder has the table's law, to a stated bound."""

import json
from itertools import pairwise

import numpy as np
import pytest

import dspec
from dspec.errors import ConfigError
from dspec.testing.adapters.sources import DRAFTER, TARGET
from dspec.testing.checks.laws import check_distribution
from dspec.testing.models.tabular import bound, chain_law, checked_table, softmax, write_table_model

# Far apart and with zeros; the least probability is 1/4097.
STEEP = ((4096, 1, 0, 0), (0, 0, 0, 1), (1, 1, 1, 1), (1, 0, 4096, 0))
CONTEXT = [3, 0, 1, 2, 3, 3, 0, 0, 2, 1, 1]


def load_model(room, folder):
    """The folder as the room's framework loads it: model and tokenizer."""
    if room.name == "mlx":
        import mlx_lm

        return mlx_lm.load(str(folder))
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def logits_of(room, model, *, dtype=None):
    """(length of CONTEXT, V) logits."""
    if room.name == "mlx":
        if dtype:
            model.set_dtype(getattr(room.xp, dtype))
        return room.numpy(model(room.array([CONTEXT])))[0]
    import torch

    with torch.inference_mode():
        model = model if dtype is None else model.to(getattr(torch, dtype))
        return room.numpy(model(room.array([CONTEXT])).logits)[0]


def far(first, second):
    """Largest total variation of two arrays of laws."""
    return np.abs(np.asarray(first, np.float64) - second).sum(axis=-1).max() / 2


@pytest.mark.clause("RS-20")
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("table", [TARGET, DRAFTER, STEEP], ids=["target", "drafter", "steep"])
def test_law_of_a_loaded_model_is_the_table_at_every_position(room, tmp_path, table, kind):
    written = write_table_model(tmp_path, table, kind=kind)
    needed, law = checked_table(table)[CONTEXT], softmax(logits_of(room, load_model(room, tmp_path)[0]))
    assert far(law, needed) <= bound(table) < 1e-6
    assert far(written.table[CONTEXT], needed) <= bound(table)
    assert (law[needed == 0] == 0).all()


@pytest.mark.clause("RS-20")
def test_narrow_logits_are_the_same_in_every_dtype(room, tmp_path):
    written = write_table_model(tmp_path, STEEP, narrow=True)
    model = load_model(room, tmp_path)[0]
    whole = logits_of(room, model)
    assert far(softmax(whole), written.table[CONTEXT]) <= bound(STEEP)
    # 8 bits of mantissa: a logit moves by 2^-9 of itself, a law by as much at most.
    assert 0 < far(written.table, checked_table(STEEP)) <= 2**-9 * np.log(4097)
    for dtype in ("bfloat16", "float16"):
        assert np.array_equal(logits_of(room, load_model(room, tmp_path)[0], dtype=dtype), whole)
    plain = load_model(room, write_table_model(tmp_path / "plain", STEEP).folder)[0]
    assert not np.array_equal(logits_of(room, plain), logits_of(room, plain, dtype="bfloat16"))


def test_tokenizer_reads_and_writes_one_letter_a_token(room, tmp_path):
    write_table_model(tmp_path, TARGET)
    tokenizer = load_model(room, tmp_path)[1]
    assert tokenizer.encode("abcdda") == [0, 1, 2, 3, 3, 0]
    assert tokenizer.decode([3, 3, 0, 1]) == "ddab"


def test_end_token_is_the_tokenizers_and_the_configs(room, tmp_path):
    write_table_model(tmp_path, TARGET, eos=3)
    tokenizer = load_model(room, tmp_path)[1]
    assert tokenizer.eos_token_id == 3
    assert tokenizer.encode("ab</s>") == [0, 1, 3]
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 3


@pytest.mark.clause("RS-1")
def test_dspec_decodes_a_table_model(room, tmp_path):
    """alpha 1e-9; DRAFTER's law, at total variation 0.5, passes for the target's with chance < 1e-6."""
    write_table_model(tmp_path, TARGET, eos=3)
    engine = dspec.load(str(tmp_path), backend=room.device)

    def generate(n, seed):
        return [
            out.tokens for out in engine.generate([[0]] * n, seed=seed, max_new_tokens=2, temperature=1.0)
        ]

    law, other = (chain_law(table, 0, 2, eos=3) for table in (TARGET, DRAFTER))
    report = check_distribution(generate, law, n=250, seed=3)
    assert report.passed, report
    assert not check_distribution(generate, other, n=250, seed=3).passed


def test_chain_law_is_the_product_of_rows_and_stops_at_the_end_token():
    law = chain_law(TARGET, 0, 3, eos=3)
    laws = checked_table(TARGET)
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    assert law[3,] == laws[0, 3]
    assert law[1, 0, 2] == pytest.approx(laws[0, 1] * laws[1, 0] * laws[0, 2], rel=1e-12)
    assert not [path for path in law if 3 in path[:-1] or (1, 1) in pairwise(path)]


@pytest.mark.parametrize(
    "table",
    [
        [[1, 2]],
        [[1]],
        [[1, -1], [1, 1]],
        [[0, 0], [1, 1]],
        [[float("nan"), 1], [1, 1]],
        [[float("inf"), 1], [1, 1]],
        np.ones((27, 27)),
        [1, 2],
    ],
)
def test_what_is_no_table_is_refused(tmp_path, table):
    with pytest.raises(ConfigError, match="table: got shape"):
        write_table_model(tmp_path / "new", table)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("wrong", [{"kind": "gpt2"}, {"eos": 4}, {"eos": -1}])
def test_unknown_kinds_and_end_tokens_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="table model"):
        write_table_model(tmp_path / "new", TARGET, **wrong)
