"""Text as it comes: pieces that make up the decoded whole, bounded work, stop strings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from dspec.errors import ConfigError
from dspec.text import PieceStream, TextStream
from tests.small_engines import byte_signs, byte_tokenizer, saying, script

# Tokens that begin and end inside characters, as merges of bytes may.
EXTRA = (b"x\xe4", b"\xbd\xa0\xf0", b"\x9f\x98", b" a", b"\xef\xbf\xbd", b"\x80\x80\x80")
BYTES = byte_tokenizer(EXTRA)
BYTE_ID = {byte: BYTES.get_vocab()[sign] for byte, sign in byte_signs().items()}
WORDS = [[BYTE_ID[b] for b in word.encode()] for word in ("é", "😀", "x", "你", "\ufffd", " ")]
LEADS = [[BYTE_ID[b]] for b in (0xC3, 0xE4, 0xF0, 0x9F, 0x80, 0xFF, 0xED, 0xA0)]
PARTS = [*WORDS, *LEADS, *([256 + i] for i in range(len(EXTRA) + 1))]


def streamed(tokenizer, tokens):
    stream = TextStream(tokenizer)
    pieces = [stream.feed(token) for token in tokens]
    assert not any(stopped for _, stopped in pieces)
    return "".join(piece for piece, _ in pieces) + stream.flush()


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30))
def test_pieces_of_a_byte_level_tokenizer_are_the_decoded_whole(parts):
    tokens = [token for part in parts for token in part]
    assert streamed(BYTES, tokens) == BYTES.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize(
    "tokens",
    [
        [BYTE_ID[0xC3]] * 7 + WORDS[3],
        [BYTE_ID[0xE4], *[257] * 9, 258, BYTE_ID[0x80]],
        [BYTE_ID[0xE4], *[257] * 9],
        [256] * 20 + [257, 258, BYTE_ID[0x80]],
        [BYTE_ID[0x61], BYTE_ID[0xC3]],
    ],
    ids=["character after rubbish", "cut nowhere", "open end", "text in every token", "tail"],
)
def test_pieces_are_the_decoded_whole_where_characters_straddle_tokens(tokens):
    assert streamed(BYTES, tokens) == BYTES.decode(tokens)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["▁", "▁a", "b", "é", "你", *["<end>"] * 4]), max_size=30),
    st.sampled_from(["strip", "metaspace"]),
)
def test_pieces_keep_the_spaces_of_other_decoders(words, kind):
    vocab = {"<unk>": 0, "▁": 1, "▁a": 2, "b": 3, **{f"<0x{i:02X}>": 4 + i for i in range(256)}}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    inner.add_special_tokens(["<end>"])
    vocab = inner.get_vocab()
    space, fallback = decoders.Replace("▁", " "), decoders.ByteFallback()
    chains = {
        "strip": [space, fallback, decoders.Fuse(), decoders.Strip(" ", 1, 0)],
        "metaspace": [fallback, decoders.Metaspace()],
    }
    inner.decoder = decoders.Sequence(chains[kind])
    tokens = [t for w in words for t in ([vocab[w]] if w in vocab else [4 + b for b in w.encode()])]
    assert streamed(inner, tokens) == inner.decode(tokens)


def test_special_tokens_do_not_stand_for_the_first_word():
    inner = Tokenizer(models.BPE(vocab={"▁a": 0, "▁b": 1}, merges=[]))
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["<end>"])
    assert streamed(inner, [0, *[2] * 20, 1, *[99] * 20, 1]) == "a b b"


def test_a_spoiled_run_of_byte_tokens_goes_on_with_what_comes():
    vocab = {"<unk>": 0, "a": 1, **{f"<0x{i:02X}>": 2 + i for i in range(256)}}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    inner.decoder = decoders.ByteFallback()
    run = [2 + b for b in "你".encode()] + [2 + 0xE5, 1]
    assert inner.decode(run) == "\ufffd\ufffd\ufffd\ufffda"
    assert streamed(inner, run) == "你\ufffda", "shown text cannot be taken back"


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, inner):
        self.inner, self.count = inner, 0

    def decode(self, tokens, **options):
        self.count += len(tokens)
        return self.inner.decode(tokens, **options)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    "pattern",
    [[BYTE_ID[0xC3]], [BYTE_ID[0x80]], [257], [256], [BYTES.eos_token_id], WORDS[2], WORDS[1], WORDS[4]],
    ids=["lead", "continuation", "straddling", "half", "special", "letter", "emoji", "replacement"],
)
def test_work_per_token_does_not_grow_with_the_output(pattern):
    def work(n):
        backend = Counting(BYTES.backend_tokenizer)
        stream = PieceStream(backend)
        for token in (pattern * n)[:n]:
            stream.feed(token)
        stream.flush()
        return backend.count

    assert work(4000) <= 2.1 * work(2000) <= 2.1 * 2000 * 50


@pytest.mark.clause("DL-9")
@pytest.mark.parametrize(
    ("stops", "text", "kept", "finish"),
    [
        (["wor"], "héllo ", "héllo wor", "stop"),
        (["xyz"], "héllo world", "héllo world", "eos"),
        (["worm", "ld"], "héllo wor", "héllo world", "stop"),
        (["é"], "h", "hé", "stop"),
        (["o", "lo"], "hél", "héllo", "stop"),
    ],
)
def test_text_is_cut_before_the_first_stop_string(tokenizer, stops, text, kept, finish):
    out = script("héllo world", tokenizer).generate([0], stop=stops)
    assert (out.text, out.finish) == (text, finish)
    tokens = out.tokens[:-1] if finish == "eos" else out.tokens
    assert tokenizer.decode(tokens) == kept


@pytest.mark.clause("DL-9")
def test_text_that_begins_a_stop_string_is_held_back_until_it_cannot(tokenizer):
    stream = TextStream(tokenizer, ["abcd"])
    pieces = [stream.feed(i)[0] for i in tokenizer("xabcabd")["input_ids"]]
    assert pieces == ["x", "", "", "", "abc", "", "abd"]
    assert "".join(pieces) + stream.flush() == "xabcabd"


@pytest.mark.clause("DL-9")
def test_a_stop_string_that_ends_inside_a_token_is_seen_at_that_token():
    out = saying([BYTE_ID[0x61], 256, BYTE_ID[0x61]], BYTES).generate([0], stop="x", max_new_tokens=3)
    assert (out.text, out.finish, len(out.tokens)) == ("a", "stop", 2)


def test_an_output_that_ends_inside_a_character_keeps_its_tail(tokenizer):
    ids = tokenizer("aé")["input_ids"]
    out = saying(ids, tokenizer).generate([0], max_new_tokens=2)
    assert out.text == tokenizer.decode(ids[:2]) == "a\ufffd"


@pytest.mark.clause("DL-9")
@pytest.mark.parametrize("stop", ["<|end|>", ["a", "b<|end|>"]])
def test_a_stop_string_with_a_special_token_is_refused(tokenizer, stop):
    with pytest.raises(ConfigError, match=r"stop: got .*without special tokens.* A model's end tokens end"):
        script("abc", tokenizer).generate([0], stop=stop)


def test_a_tokenizer_that_cannot_stream_is_refused():
    with pytest.raises(ConfigError, match="tokenizer: got object; needs one that can stream"):
        TextStream(object())
