"""The rooms can be read side by side: the same files, and in them the same names in the same order."""

import ast
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parent.parent / "dspec" / "backends"
FILES = sorted(path.name for path in (BACKENDS / "torch").glob("*.py"))


def public(tree):
    """Public functions and classes of a file, and public methods as Class.method, in order."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{name}" for name in public(node))


def in_order(first, second):
    """The names that both have, as each orders them."""
    return [n for n in first if n in second], [n for n in second if n in first]


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_its_counterpart_with_the_same_names_in_the_same_order(name):
    trees = [ast.parse((BACKENDS / room / name).read_text(encoding="utf-8")) for room in ("torch", "mlx")]
    torch_names, mlx_names = in_order(*(list(public(tree)) for tree in trees))
    assert torch_names == mlx_names
    assert torch_names or name == "__init__.py", "nothing corresponds"


def test_another_order_would_be_seen():
    first, second = "def a(): 0\nclass B:\n def c(s): 0", "class B:\n def c(s): 0\ndef a(): 0"
    found = in_order(*(list(public(ast.parse(text))) for text in (first, second)))
    assert found == (["a", "B", "B.c"], ["B", "B.c", "a"])
