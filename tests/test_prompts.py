"""Prompts: the forms that are read, and those that are refused with the four named."""

import array

import numpy as np
import pytest
import torch

from dspec.errors import ConfigError, ShapeError
from dspec.prompt import is_many, read_prompt
from tests.small_engines import byte_tokenizer, script, small_engine

HI = {"role": "user", "content": "Hi"}
IDS = [
    np.array([0, 1]),
    np.array([0, 1], dtype=np.uint8),
    [np.int64(0), np.int32(1)],
    (0, np.int64(1)),
    range(2),
    torch.tensor([0, 1]),
    torch.tensor([0, 1], dtype=torch.int32),
    list(torch.tensor([0, 1])),
    array.array("i", [0, 1]),
]


@pytest.fixture
def engine():
    return small_engine()


@pytest.fixture
def chatty():
    """An engine that says "ok" and whose tokenizer has a chat template of its own."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
        "{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    return script("ok", tokenizer)


@pytest.mark.parametrize("ids", IDS, ids=lambda v: type(v).__name__)
def test_integers_of_any_kind_are_token_ids(engine, ids):
    assert not is_many(ids)
    got = engine.encode(ids)
    assert got == [0, 1] and all(type(token) is int for token in got)
    out = engine.generate(ids, max_new_tokens=4, seed=np.int64(2), temperature=np.float32(1.0))
    assert out.tokens == engine.generate([0, 1], max_new_tokens=4, seed=2, temperature=1.0).tokens


@pytest.mark.parametrize(
    "many", [[np.array([0, 1]), [2]], ([0, 1], (2,)), [torch.tensor([0, 1]), np.array([2])]]
)
def test_a_list_of_prompts_may_mix_the_forms_of_ids(engine, many):
    assert is_many(many)
    outs = engine.generate(many, max_new_tokens=4)
    assert [o.tokens for o in outs] == [o.tokens for o in engine.generate([[0, 1], [2]], max_new_tokens=4)]


def test_rows_of_an_array_are_prompts(engine):
    assert len(engine.generate(np.array([[0, 1], [2, 3]]), max_new_tokens=2)) == 2


def test_texts_and_messages_are_read(chatty):
    assert chatty.encode("é") == list(chatty.target.tokenizer("é")["input_ids"])
    assert chatty.encode([HI]) == list(chatty.target.tokenizer("user: Hi\n")["input_ids"])
    assert read_prompt([{**HI, "name": "x"}]) == [{**HI, "name": "x"}]
    assert len(chatty.generate(["a", [HI], [1, 2]], max_new_tokens=1)) == 3


BAD = [
    None,
    5,
    HI,
    b"ab",
    bytearray(b"ab"),
    {1, 2},
    [1, "a"],
    [1, None],
    [True, False],
    [1.0, 2.0],
    np.array([1.0]),
    np.array([True]),
    np.array(3),
    np.zeros((1, 1, 1), dtype=int),
    torch.tensor([0.5]),
    [{"role": "user"}],
    [{"role": "user", "text": "Hi"}],
    [{"role": "user", "content": None}],
    [HI, "a"],
    [HI, 1],
    iter([1]),
]
FORMS = r"needs text, token ids, or chat messages .*`generate` also takes a list of those"


@pytest.mark.parametrize("prompt", BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_is_no_prompt_is_refused_with_the_four_forms(chatty, prompt):
    for call in (chatty.generate, chatty.stream, chatty.encode):
        with pytest.raises(ConfigError, match=FORMS):
            call(prompt)


@pytest.mark.parametrize(
    "prompt", [["a", "b"], [[0], [1]], [[HI], [HI]], list(torch.tensor([[0], [1]]))], ids=repr
)
def test_a_list_of_prompts_is_for_generate_only(chatty, prompt):
    assert len(chatty.generate(prompt, max_new_tokens=1)) == 2
    for call in (chatty.stream, chatty.encode):
        with pytest.raises(ConfigError, match=FORMS):
            call(prompt)


@pytest.mark.clause("NT-3")
def test_prompts_that_cannot_be_read_are_refused(engine):
    with pytest.raises(ShapeError, match=r"prompt\[1\]: got 6; needs an id in \[0, 6\)"):
        engine.generate([0, 6])
    with pytest.raises(ShapeError, match=r"prompt\[1\]\[0\]: got -1"):
        engine.generate([[0], [-1]])
    for nothing in ([], (), np.array([], dtype=int)):
        with pytest.raises(ConfigError, match="prompt: got no tokens"):
            engine.generate(nothing)
    for text in ("text", [HI]):
        with pytest.raises(ConfigError, match=r"prompt: got .*; needs token ids: the target has no tok"):
            engine.generate(text)
    with pytest.raises(ConfigError, match=r"prompt\[1\]: got 5; needs text"):
        engine.generate([[0], 5])


def test_a_template_that_fails_and_text_that_is_none_are_refused(chatty):
    with pytest.raises(ConfigError, match=r"prompt: got messages on which the chat template failed.*no such"):
        chatty.generate([{"role": "bad", "content": "Hi"}])
    with pytest.raises(ConfigError, match="prompt: got half of a surrogate pair"):
        chatty.generate("\ud800")
    with pytest.raises(ConfigError, match="prompt: got chat messages; needs text or ids"):
        script("ok", byte_tokenizer()).generate([HI])


def test_all_prompts_are_checked_before_the_first_is_decoded(engine, monkeypatch):
    monkeypatch.setattr(type(engine.target), "session", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(ShapeError, match=r"prompt\[1\]\[0\]"):
        engine.generate([[0], [9]])
