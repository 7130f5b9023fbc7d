"""The uniforms against a second implementation of their generator, in plain integers."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dspec.rng import Purpose, Stream
from dspec.testing.report import Report

CLAUSES = ("RN-1", "RN-2", "RN-3", "RN-4", "RS-10")
# What recorded outputs rest on: these numbers never change (RN-2).
PURPOSES = {
    "DRAFT": 0,
    "ACCEPT": 1,
    "CLOSE": 2,
    "ANCHORS": 3,
    "ORDER": 4,
    "INIT": 5,
    "DENOISE": 6,
    "REVIEW": 7,
}
WORD = 2**64


def check_streams(
    *,
    count: int = 50,
    seed: int = 0,
    keys: Sequence[Sequence[int]] | None = None,
    stream: Callable[..., Any] = Stream,
) -> Report:
    """Check that uniforms are the stated function of their key, whatever is drawn beside them.

    Spec: RN-1, RN-2, RN-3, RN-4.

    Args:
        count: number of random keys.
        seed: of the keys.
        keys: use these instead, [seed, request, purpose, position] each.
        stream: what is checked, called with (seed, request).

    Returns:
        The report; alpha is 0.

    Example:
        >>> check_streams(count=3).passed
        True
    """
    numbers = {purpose.name: int(purpose) for purpose in Purpose}
    if numbers != PURPOSES:
        return _failed(0, {"purposes": numbers, "needed": PURPOSES}, [])
    chosen = [list(key) for key in keys] if keys is not None else _keys(count, seed)
    for index, key in enumerate(chosen):
        wrong = _wrong(key, stream)
        if wrong is not None:
            return _failed(index + 1, {"key": key, **wrong}, [key])
    tried = {"keys": len(chosen), "uniforms": len(chosen) * 12}
    return Report(check="streams", passed=True, tried=tried, clauses=CLAUSES)


def _failed(tried: int, wrong: dict[str, Any], keys: list[list[int]]) -> Report:
    return Report(
        check="streams",
        passed=False,
        tried={"keys": tried},
        counterexample=wrong,
        clauses=CLAUSES,
        replay={"check": "streams", "arguments": {"keys": keys}},
    )


def _keys(count: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    edges = [[0, 0, 0, 0], [WORD - 1, WORD - 1, 2, 2**40]]
    return edges + [
        [rng.randrange(WORD), rng.randrange(WORD), rng.randrange(3), rng.randrange(2**20)]
        for _ in range(count)
    ]


def _wrong(key: Sequence[int], stream: Callable[..., Any]) -> dict[str, Any] | None:
    seed, request, purpose, position = key
    one = stream(seed, request)
    got = one.uniforms(Purpose(purpose), position, (6, 2))
    needed = [x >> 40 for block in (1, 2, 3) for x in philox((block, position, purpose, 0), (seed, request))]
    if got.dtype != np.float32:
        return {"dtype": str(got.dtype), "needed": "float32"}
    # Whatever does not lie on the grid of 2^-24 differs from an integer here.
    scaled = [float(value) * 2**24 for value in got.ravel()]
    if scaled != needed:
        return {"times 2^24": scaled, "needed": needed}
    one.uniforms(Purpose(purpose), position + 1, (3, 1))  # another draw must leave no trace
    again = one.uniforms(Purpose(purpose), position, (3, 4))
    if again.ravel().tolist() != got.ravel().tolist():
        return {"drawn again": again.ravel().tolist(), "needed": got.ravel().tolist()}
    return None


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Return the four words of Philox4x64-10 on one counter block.

    Example:
        >>> philox((1, 0, 0, 0), (0, 0))[0] >> 40
        193722

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 4.
    """
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], WORD)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], WORD)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) % WORD, (k[1] + 0xBB67AE8584CAA73B) % WORD]
    return c
