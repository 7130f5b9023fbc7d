"""Training data: what the loss is on, what is refused, and which batch a step gets."""

import gzip
import json

import numpy as np
import pytest

from dspec.errors import ConfigError, DataError
from dspec.io.data import Example, batches, encode, hold_out, load_examples, parse_record, read_records

END, START, BOS = 256, 257, 258
SPECIALS = {"<end>": END, "<start>": START}


class ByteTokenizer:
    """Bytes as tokens; <end> and <start> are special. Its template spells turns `<start>role|text<end>.`"""

    eos_token_id = END

    def encode(self, text, add_special_tokens=True):
        ids = []
        while text:
            special = next((s for s in SPECIALS if text.startswith(s)), None)
            ids += [SPECIALS[special]] if special else list(text[0].encode())
            text = text[len(special) if special else 1 :]
        return ids

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert tokenize is False
        text = "".join(f"<start>{m['role']}|{m['content']}<end>." for m in messages)
        return text + ("<start>assistant|" if add_generation_prompt else "")


class BaseTokenizer(ByteTokenizer):
    """Its end token is not the one of its template, as in base models."""

    eos_token_id = 299


class ThinkingTokenizer(ByteTokenizer):
    """Like Qwen3: only the last assistant turn shows its (empty) thoughts."""

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        parts = []
        for i, m in enumerate(messages):
            thought = "[]" if m["role"] == "assistant" and i == len(messages) - 1 else ""
            parts.append(f"<start>{m['role']}|{thought}{m['content']}<end>.")
        return "".join(parts) + ("<start>assistant|" if add_generation_prompt else "")


class GrowingTokenizer(ByteTokenizer):
    """A template that writes the number of turns first: no prefix of a conversation begins the whole."""

    def apply_chat_template(self, messages, **options):
        return f"{len(messages)}:" + super().apply_chat_template(messages, **options)


CHAT = [
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c?"},
    {"role": "assistant", "content": "de"},
]


def trained(example):
    """The runs of trained tokens, as texts ("$" is the end token)."""
    text = "".join("$" if t == END else "^" if t == START else chr(t) for t in example.tokens)
    marked = "".join(c if m else " " for c, m in zip(text, example.loss_mask))
    return marked.split(), text


def test_a_text_is_trained_on_as_a_whole():
    example = encode(parse_record({"text": "abc"}, where="f:1"), ByteTokenizer())
    assert example.tokens.tolist() == list(b"abc")
    assert example.loss_mask.all() and example.trainable


def test_only_the_response_and_its_end_are_trained_on():
    example = encode(parse_record({"prompt": "ab", "response": "cd"}, where="f:1"), ByteTokenizer())
    assert example.tokens.tolist() == [*b"abcd", END]
    assert example.loss_mask.tolist() == [False, False, True, True, True]


def test_a_begin_token_comes_first_where_the_tokenizer_adds_one():
    class WithBos(ByteTokenizer):
        bos_token_id = BOS

        def encode(self, text, add_special_tokens=True):
            return [BOS] * add_special_tokens + super().encode(text)

    example = encode(parse_record({"prompt": "a", "response": "b"}, where="f:1"), WithBos())
    assert example.tokens.tolist() == [BOS, *b"ab", END]
    assert example.loss_mask.tolist() == [False, False, True, True]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), ThinkingTokenizer()])
def test_only_assistant_turns_and_their_end_token_are_trained_on(tokenizer):
    example = encode(parse_record({"messages": CHAT}, where="f:1"), tokenizer)
    runs, text = trained(example)
    thought = "[]" if isinstance(tokenizer, ThinkingTokenizer) else ""
    assert runs == ["b$", f"{thought}de$"]
    assert text == f"^user|a?$.^assistant|b$.^user|c?$.^assistant|{thought}de$."


def test_a_template_with_another_end_is_cut_by_rendering():
    example = encode(parse_record({"messages": CHAT}, where="f:1"), BaseTokenizer())
    assert trained(example)[0] == ["b$.", "de$."]


def test_a_template_that_rewrites_the_past_is_refused():
    with pytest.raises(DataError, match=r"f:7: got a chat template that renders the first"):
        encode(parse_record({"messages": CHAT}, where="f:7"), GrowingTokenizer())


def test_no_template_no_tokenizer_and_ids_beyond_the_vocabulary_are_refused():
    class NoTemplate(ByteTokenizer):
        chat_template = None

    with pytest.raises(DataError, match="f:1: got messages but no chat template"):
        encode(parse_record({"messages": CHAT}, where="f:1"), NoTemplate())
    with pytest.raises(DataError, match="f:1: got text but no tokenizer"):
        encode(parse_record({"text": "a"}, where="f:1"))
    with pytest.raises(DataError, match="f:1: got the token id 300; needs ids < 300"):
        encode(parse_record({"tokens": [1, 300]}, where="f:1"), vocab_size=300)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"txt": "a"}', r"the keys 'txt'; needs one of \{\"text\"\}"),
        ('{"prompt": "a"}', r"the keys 'prompt'"),
        ('{"text": "a", "prompt": "b", "response": "c"}', r"the keys 'text', 'prompt'"),
        ("{}", r"\(none\)"),
        ("[1]", "a JSON list"),
        ('{"text": ', "malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        ('{"text": 3}', "text: got 3"),
        (r'{"text": "\ud800"}', "surrogate"),
        ('{"messages": []}', "messages: got "),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\]: got the keys \['role'\]"),
        ('{"messages": [{"role": "robot", "content": ""}]}', r"messages\[0\]: role: got 'robot'"),
        ('{"tokens": [1, -1]}', "tokens: got "),
        ('{"tokens": [1, true]}', "tokens: got "),
        ('{"tokens": [1, 2], "loss_mask": [true]}', "loss_mask: got .*2 times"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=rf"data.jsonl:3.*{message}"):
        list(read_records(path))


def test_bytes_that_are_not_text_and_cut_archives_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:1"):
        list(read_records(tmp_path / "a.jsonl"))
    whole = gzip.compress(b'{"text": "a"}\n' * 1000)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"b.jsonl.gz:"):
        list(read_records(tmp_path / "b.jsonl.gz"))
    (tmp_path / "c.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"c.jsonl.gz:1"):
        list(read_records(tmp_path / "c.jsonl.gz"))
    with pytest.raises(DataError, match=r"d.csv.*jsonl"):
        list(read_records(tmp_path / "d.csv"))


def test_loading_cuts_drops_and_counts(tmp_path):
    records = [
        {"tokens": [1, 2, 3, 4, 5, 6]},
        {"tokens": [1, 2, 3, 4, 5, 6], "loss_mask": [0, 0, 0, 0, 1, 1]},  # cut away
        {"tokens": [1, 2, 3], "loss_mask": [1, 0, 1]},  # no two neighbours
        {"tokens": [1, 2], "loss_mask": [1, 1]},
    ]
    path = tmp_path / "ids.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    examples, summary = load_examples(path, seq_len=4)
    assert [e.tokens.tolist() for e in examples] == [[1, 2, 3, 4], [1, 2]]
    assert (summary.records, summary.kept, summary.dropped, summary.truncated) == (4, 2, 2, 2)
    assert (summary.tokens, summary.loss_tokens) == (6, 6)


def test_a_file_without_anything_to_train_on_is_refused(tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text('{"tokens": [1]}\n')
    with pytest.raises(DataError, match="1 records, none trainable"):
        load_examples(path, seq_len=8)


def numbered(count, length=3):
    return [Example(np.full(length, i), np.ones(length, dtype=bool)) for i in range(count)]


@pytest.mark.clause("RN-5")
def test_every_example_occurs_once_an_epoch_in_a_new_order():
    examples = numbered(10)
    steps = [batches(examples, batch_size=4, seq_len=8, seed=3, step=s).tokens[:, 0] for s in range(5)]
    seen = np.concatenate(steps).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] and seen[:10] != list(range(10))


@pytest.mark.clause("RN-5")
def test_a_batch_depends_on_seed_and_step_alone():
    def ids(seed, step):
        return batches(numbered(50), batch_size=8, seq_len=8, seed=seed, step=step).tokens.tolist()

    forward = [ids(1, s) for s in range(20)]
    assert [ids(1, s) for s in reversed(range(20))][::-1] == forward
    assert ids(2, 0) != forward[0]


def test_padding_is_right_masked_and_of_few_lengths():
    examples = [Example(np.arange(1, n + 1), np.ones(n, dtype=bool)) for n in (3, 65, 270)]
    batch = batches(examples, batch_size=3, seq_len=1000, seed=0, step=0)
    assert batch.tokens.shape == batch.loss_mask.shape == (3, 320)
    assert batch.tokens.dtype == np.int64 and sorted(batch.lengths.tolist()) == [3, 65, 270]
    for row, mask, length in zip(batch.tokens, batch.loss_mask, batch.lengths):
        assert row[:length].tolist() == list(range(1, length + 1)) and not row[length:].any()
        assert mask[:length].all() and not mask[length:].any()
    assert batches(examples, batch_size=3, seq_len=100, seed=0, step=0).tokens.shape == (3, 100)


@pytest.mark.clause("RN-5")
def test_the_validation_slice_is_apart_and_reproducible():
    examples = numbered(20)
    train, held = hold_out(examples, count=5, seed=4)
    ids = [[int(e.tokens[0]) for e in part] for part in (train, held)]
    assert len(held) == 5 and sorted(ids[0] + ids[1]) == list(range(20))
    again = hold_out(examples, count=5, seed=4)[1]
    assert [int(e.tokens[0]) for e in again] == ids[1]
    with pytest.raises(ConfigError, match="validate_examples: got 20"):
        hold_out(examples, count=20, seed=4)
