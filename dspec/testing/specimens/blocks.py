"""Block verification in parts (RS-21), each of which a mutant replaces, for `check_exact_law`.

Written once more, from the clause, so that a check is never judged by the code it judges.
"""

from collections.abc import Callable
from typing import Any

from dspec.oracle.rejection import draw, one_hot
from dspec.testing.models.loop import Block, Loop, greedy
from dspec.testing.specimens.specimen import Specimen


def block_verifier(
    *,
    early_exit: bool = False,
    weighted: bool = True,
    bounded: bool = True,
    pick: Callable[..., int] = lambda law, kept, accept, close: draw(law, close[0]),
) -> Callable[..., Block]:
    """Return block verification with the given parts; right with the defaults.

    Spec: RS-21.

    Args:
        early_exit: end at the first prefix that does not hold; a longer one may.
        weighted: whether the closing law is owed to w times the target's, not to all of it.
        bounded: bound the ratio by 1 after every draft, not at the end alone.
        pick: (law, drafts that stand, accept, close) -> closing token.

    Example:
        >>> targets, drafter = [[0.25, 0.75], [0.75, 0.25], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]
        >>> block_verifier()(targets, [0, 0], drafter, [0.6, 0.7], [0.5])
        [0, 0, 1]
    """

    def verify(targets: Any, drafts: Block, rows: Any, accept: Any, close: Any) -> Block:
        rows = rows or [one_hot(token, len(targets[0])) for token in drafts]
        share: Any = 1
        shares = [share]
        for k, token in enumerate(drafts):
            share = share * targets[k][token] / rows[k][token]
            share = min(share, 1) if bounded else share
            shares.append(min(share, 1))
        owed = [
            [max(w * p - q, 0) for p, q in zip(target, row)] for w, target, row in zip(shares, targets, rows)
        ]
        kept = 0
        for k in range(1, len(drafts) + 1):
            left = sum(owed[k]) if k < len(drafts) else shares[k]
            total = left + 1 - shares[k] if k < len(drafts) else 1
            if accept[k - 1] * total < left:
                kept = k
            elif early_exit:
                break
        if kept == len(drafts):
            law = targets[-1]
        else:
            law = owed[kept] if weighted else [max(p - q, 0) for p, q in zip(targets[kept], rows[kept])]
            law = law if sum(law) else targets[kept]
        return [*drafts[:kept], pick(law, kept, accept, close)]

    return verify


def _reused(law: Any, kept: int, accept: Any, close: Any) -> int:
    return draw(law, accept[min(kept, len(accept) - 1)])


def _wrong(name: str, **parts: Any) -> Specimen:
    return Specimen(f"block verification: {name}", Loop(verify=block_verifier(**parts)))


BLOCK_MUTANTS = [
    _wrong("ends at the first prefix that does not hold", early_exit=True),
    _wrong("closes by the residual of the whole target", weighted=False),
    _wrong("the ratio is bounded at the end alone", bounded=False),
    _wrong("accept u reused for the closing token", pick=_reused),
]
BLOCK_CONTROLS = [
    Specimen("block verification in parts", Loop(verify=block_verifier()), False, warps=("plain", "mixed")),
    Specimen(
        "block verification of one-hot drafts",
        Loop(verify=block_verifier(), propose=greedy),
        False,
        warps=("plain", "mixed"),
    ),
]
