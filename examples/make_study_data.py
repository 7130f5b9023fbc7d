"""Write the text of the drafter study: training records, and six suites of prompts that nothing trains on.

    python examples/make_study_data.py --data DATA --output STUDY

Beside what `make_demo_data.py` reads it takes dialogues that are share-alike (CC BY-SA), so that the folder
it writes must not be shipped with the package; its README says which file has which licence. The choice
is a function of the seed alone.

The suites: gsm8k, humaneval, mbpp (tasks 11-510), mt_bench, dialogue (every 20th one of sgd, up to a turn of
the user) and source (10 to 40 lines of every 20th file of the standard library).
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import make_demo_data as demo
from make_demo_data import Record
from transformers import AutoTokenizer, PreTrainedTokenizerBase

TOKENIZER = Path(__file__).parent.parent / "dspec" / "demo" / "target"
HELD_OUT = 20  # as the data's README asks: every 20th dialogue and every 20th file are for evaluation
TURNS = (1, 3, 5)  # turns of a dialogue's prompt, by turns; the last one is the user's
LINES = (10, 41)  # lines of a file's prompt: from 10 to 40
PLACES = 5  # prompts of a file: 25 files are held out, and some of the places do not fit
ROLES = {"USER": "user", "SYSTEM": "assistant"}
SOURCES = {
    # file -> what it is made of
    "train.jsonl.gz": "sgd (CC BY-SA 4.0), dolly (CC BY-SA 3.0), gsm8k, exercism_python and "
    "thealgorithms_python (MIT), mbpp (CC BY 4.0), python_stdlib (PSF-2.0)",
    "validation.jsonl.gz": "gsm8k (MIT), mbpp (CC BY 4.0)",
    "suite_gsm8k.jsonl": "gsm8k test (MIT)",
    "suite_humaneval.jsonl": "HumanEval (MIT)",
    "suite_mbpp.jsonl": "mbpp, tasks 11-510 (CC BY 4.0)",
    "suite_mt_bench.jsonl": "MT-Bench (Apache-2.0)",
    "suite_dialogue.jsonl": "sgd, every 20th dialogue (CC BY-SA 4.0, share-alike)",
    "suite_source.jsonl": "python_stdlib, every 20th file (PSF-2.0)",
}
README = """# Text of the drafter study

Written by `examples/make_study_data.py` (seed {seed}) from public data; licences and origins stand in the
folders of the sources. **Not to be shipped**: files that name sgd or dolly are share-alike (CC BY-SA), and
their text stays out of the package. Nothing of a suite is in train or validation.

| file | records | made of |
|---|---:|---|
{rows}
"""


def dialogues(data: Path, *, held_out: bool) -> list[Record]:
    """The dialogues of sgd as chats: those to train on, or every 20th."""
    rows = demo.read_records(data / "sgd" / "sgd_train.jsonl.gz")
    chosen = rows[::HELD_OUT] if held_out else [r for i, r in enumerate(rows) if i % HELD_OUT]
    return [{"messages": turns(row["turns"]), "domain": "chat"} for row in chosen]


def turns(pairs: list[list[str]]) -> list[dict[str, str]]:
    """Messages of (speaker, utterance) pairs."""
    return [{"role": ROLES[speaker], "content": text.strip()} for speaker, text in pairs]


def instructions(data: Path) -> list[Record]:
    """Dolly's instructions, with their context where there is one, and their answers."""
    rows = demo.read_records(data / "dolly" / "dolly_train.jsonl.gz")
    texts = ["\n\n".join(t for t in (r["instruction"].strip(), r["context"].strip()) if t) for r in rows]
    return [demo.chat(text, r["response"].strip(), "chat") for text, r in zip(texts, rows, strict=True)]


def stdlib(data: Path, *, held_out: bool) -> list[Record]:
    """The standard library's files: those to train on, or every 20th."""
    rows = demo.files(data, "python_stdlib")
    return rows[::HELD_OUT] if held_out else [r for i, r in enumerate(rows) if i % HELD_OUT]


def pieces(rows: list[Record]) -> list[Record]:
    """Files in pieces of whole lines that can be learned whole."""
    records = []
    for row in rows:
        piece = ""
        for line in [*demo.tidy(row["text"]).splitlines(keepends=True), ""]:
            if piece and (not line or len(piece) + len(line) > demo.MAX_CHARACTERS):
                records.append({"text": piece, "domain": "code"})
                piece = ""
            piece += line
    return [r for r in records if len(r["text"]) <= demo.MAX_CHARACTERS]


def opening(record: Record, number: int) -> Record:
    """The prompt of a dialogue: its first turns, the last of them the user's."""
    return {"messages": record["messages"][: TURNS[number % len(TURNS)]], "domain": "chat"}


def excerpts(rows: list[Record], fits: Callable[[Record], bool]) -> list[Record]:
    """Prompts of files: some places of each, 10 to 40 lines as they fit, the file going on after them."""
    records = []
    for row in rows:
        lines = demo.tidy(row["text"]).splitlines(keepends=True)
        for place in range(PLACES):
            first = place * len(lines) // PLACES
            text = [{"text": "".join(lines[first : first + n]), "domain": "code"} for n in range(*LINES)]
            records += [r for r in text if fits(r)][-1:] if first + LINES[1] < len(lines) else []
    return records


def within(tokenizer: PreTrainedTokenizerBase, longest: int) -> Callable[[Record], bool]:
    """Whether a prompt has at most so many tokens, as a function of it."""

    def fits(record: Record) -> bool:
        text = record.get("text")
        if text is None:
            asked = {"add_generation_prompt": True, "tokenize": False}
            text = tokenizer.apply_chat_template(record["messages"], **asked)
        return len(tokenizer(text, verbose=False)["input_ids"]) <= longest

    return fits


def suites(data: Path, fits: Callable[[Record], bool]) -> dict[str, list[Record]]:
    """All prompts of each suite that fit, in the sources' order."""
    found = {
        "gsm8k": [demo.ask(r) for r in demo.gsm8k(data, "test")],
        "humaneval": [demo.ask(r) for r in demo.human_eval(data)],
        "mbpp": [demo.ask(r) for r in demo.mbpp(data, 11, 510)],
        "mt_bench": demo.mt_bench(data),
        "dialogue": [opening(r, i) for i, r in enumerate(dialogues(data, held_out=True))],
        "source": excerpts(stdlib(data, held_out=True), fits),
    }
    return {name: list(filter(fits, records)) for name, records in found.items()}


def training(data: Path) -> list[Record]:
    """Training records of all domains, none of them in a suite, each once."""
    algorithms, library = demo.files(data, "thealgorithms_python"), stdlib(data, held_out=False)
    records = demo.gsm8k(data, "train") + demo.mbpp(data, 601, 974) + demo.exercism(data)
    records += demo.functions(algorithms + library) + pieces(algorithms + library)
    records += dialogues(data, held_out=False) + instructions(data)
    return list({repr(r): r for r in records if "text" in r or demo.fits(r)}.values())


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of source texts")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--prompts", type=int, default=64, help="prompts a suite, at most")
    parser.add_argument("--longest", type=int, default=256, help="tokens of a prompt, at most")
    parser.add_argument(
        "--records", type=int, default=None, help="training records, at most; all if left out"
    )
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="folder; the shipped target's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    fits = within(AutoTokenizer.from_pretrained(args.tokenizer), args.longest)
    args.output.mkdir(parents=True, exist_ok=True)
    records = training(args.data)
    draw.shuffle(records)
    validation = draw.sample(demo.gsm8k(args.data, "validation"), 32)
    validation += draw.sample(demo.mbpp(args.data, 511, 600), 32)
    files = {"train.jsonl.gz": records[: args.records], "validation.jsonl.gz": validation}
    for name, prompts in suites(args.data, fits).items():
        files[f"suite_{name}.jsonl"] = draw.sample(prompts, min(args.prompts, len(prompts)))
    for name, rows in files.items():
        demo.write_records(args.output / name, rows)
    table = "\n".join(f"| {name} | {len(rows)} | {SOURCES[name]} |" for name, rows in files.items())
    (args.output / "README.md").write_text(README.format(seed=args.seed, rows=table), encoding="utf-8")


if __name__ == "__main__":
    main()
