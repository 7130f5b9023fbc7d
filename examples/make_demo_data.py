"""Write the demo's text: chat records to train, validate and evaluate a drafter offline.

    python examples/make_demo_data.py --data DATA --output dspec/demo/data

Every source becomes the same kind of record, a user message and an assistant message;
`train_tiny_target.py` imports these readers, so that the shipped target was trained on exactly
the format of the shipped text. Only permissive sources are read (MIT, CC BY 4.0, PSF-2.0,
Apache-2.0): the share-alike ones never reach the package.
"""

import argparse
import ast
import gzip
import json
import random
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

COMPLETE = "Complete this Python function.\n\n"
SOLVE = "Solve this exercise in Python.\n\n"

# Of the records this short, 98 % fit the 512 tokens that the target was trained on; most longer
# ones do not, and their ends would be seen by neither target nor drafter.
MAX_CHARACTERS = 1500

# Every 100th GSM8K training question is kept from target and drafter alike: 74 records.
GSM8K_HELD_OUT = 100

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """All records of a .jsonl or .jsonl.gz file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def chat(question: str, answer: str, domain: str) -> Record:
    """One exchange as a chat record."""
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "domain": domain}


def ask(record: Record) -> Record:
    """The prompt of a record: everything but the answer."""
    return {"messages": record["messages"][:1], "domain": record["domain"]}


def gsm8k(data: Path, split: str) -> list[Record]:
    """GSM8K as question and worked answer; split is "train", "validation" or "test".

    The calculator annotations (`<<48/2=24>>`) repeat what stands beside them. They are removed:
    no reader wants them, and copying them would flatter every drafter.
    """
    name = "test.jsonl" if split == "test" else "train.jsonl.gz"
    rows = read_records(data / "gsm8k" / name)
    if split != "test":
        held_out = split == "validation"
        last = GSM8K_HELD_OUT - 1
        rows = [r for i, r in enumerate(rows) if (i % GSM8K_HELD_OUT == last) == held_out]
    return [chat(r["question"].strip(), re.sub(r"<<[^>]*>>", "", r["answer"]).strip(), "math") for r in rows]


def mbpp(data: Path, first: int, last: int) -> list[Record]:
    """MBPP tasks first..last (inclusive) as description and program."""
    rows = read_records(data / "mbpp" / "mbpp.jsonl")
    rows = [r for r in rows if first <= r["task_id"] <= last]
    return [chat(r["text"].strip(), tidy(r["code"]), "code") for r in rows]


def exercism(data: Path) -> list[Record]:
    """Exercism exercises as instructions and example solution."""
    rows = read_records(data / "exercism_python" / "exercises.jsonl.gz")
    return [chat(SOLVE + r["instructions"].strip(), tidy(r["solution"]), "code") for r in rows]


def human_eval(data: Path) -> list[Record]:
    """HumanEval in the format of `functions`: the answer is the body of the function."""
    rows = read_records(data / "humaneval" / "HumanEval.jsonl.gz")
    return [chat(COMPLETE + r["prompt"].strip(), r["canonical_solution"].rstrip(), "code") for r in rows]


def mt_bench(data: Path) -> list[Record]:
    """First turns of MT-Bench, round robin over its eight categories."""
    rows = read_records(data / "mt_bench" / "question.jsonl")
    rank = {r["question_id"]: i % 10 for i, r in enumerate(rows)}  # ten in a row per category
    rows.sort(key=lambda r: (rank[r["question_id"]], r["question_id"]))
    return [ask(chat(r["turns"][0].strip(), "", "chat")) for r in rows]


def files(data: Path, source: str) -> list[Record]:
    """The {path, text} records of a folder of Python files."""
    return read_records(next((data / source).glob("*.jsonl.gz")))


def functions(rows: Iterable[Record]) -> list[Record]:
    """Every documented function of some files: signature and docstring, then its body."""
    records = []
    for row in rows:
        for head, body in split_functions(row["text"]):
            records.append(chat(COMPLETE + head, body, "code"))
    return records


def split_functions(text: str) -> Iterator[tuple[str, str]]:
    """Head (through the docstring) and body of each documented function in a program."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # Python 2 relics among the standard library's files
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node):
            continue
        if len(node.body) < 2:
            continue
        source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        cut = (node.body[0].end_lineno or node.lineno) - node.lineno + 1
        head = "\n".join(source.splitlines()[:cut])
        body = "\n".join(source.splitlines()[cut:]).strip("\n").rstrip()
        if body:
            yield head, body


def tidy(code: str) -> str:
    """Code with Unix line ends, spaces for tabs and no trailing space (MBPP mixes all three)."""
    return "\n".join(line.expandtabs(4).rstrip() for line in code.splitlines()).strip("\n")


def fits(record: Record) -> bool:
    """Whether a record is short enough to be learned whole."""
    return sum(len(m["content"]) for m in record["messages"]) <= MAX_CHARACTERS


def write_records(path: Path, records: list[Record]) -> None:
    """Write .jsonl, or .jsonl.gz with the same bytes on every run (no name, no time stamp)."""
    # ASCII: a raw U+2028 inside a string would break every reader that uses str.splitlines.
    text = "".join(json.dumps(r) + "\n" for r in records).encode("ascii")
    if path.suffix == ".gz":
        text = gzip.compress(text, compresslevel=9, mtime=0)
    path.write_bytes(text)
    print(f"{path.name}: {len(records)} records, {len(text):,} bytes")


def main() -> None:
    """Write the five files of the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of source texts")
    parser.add_argument("--output", type=Path, default=Path("dspec/demo/data"))
    parser.add_argument("--gsm8k", type=int, default=3000, help="maths records to draw")
    parser.add_argument("--functions", type=int, default=1500, help="function records to draw")
    parser.add_argument("--prompts", type=int, default=48, help="prompts per evaluation file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    documented = list(filter(fits, functions(files(args.data, "thealgorithms_python"))))
    train = draw.sample(gsm8k(args.data, "train"), args.gsm8k)
    train += draw.sample(documented, min(args.functions, len(documented)))
    train += mbpp(args.data, 601, 974) + exercism(args.data)
    train = list({json.dumps(r): r for r in train if fits(r)}.values())  # 4 functions stand twice
    draw.shuffle(train)
    write_records(args.output / "train.jsonl.gz", train)

    validation = draw.sample(gsm8k(args.data, "validation"), 32)
    validation += draw.sample(mbpp(args.data, 511, 600), 32)
    write_records(args.output / "validation.jsonl.gz", validation)

    suites = {
        "gsm8k": [ask(r) for r in draw.sample(gsm8k(args.data, "test"), args.prompts)],
        "humaneval": [ask(r) for r in draw.sample(human_eval(args.data), args.prompts)],
        "mt_bench": mt_bench(args.data)[: args.prompts],
    }
    for name, prompts in suites.items():
        write_records(args.output / f"eval_{name}.jsonl", prompts)


if __name__ == "__main__":
    main()
