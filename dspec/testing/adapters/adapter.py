"""What an adapter is, and how one is made of a chain or of a pass."""

import importlib
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dspec.errors import BackendUnavailable, explain
from dspec.testing.adapters.one_pass import Sampler, from_passes
from dspec.testing.adapters.windows import Chain, from_chains
from dspec.testing.checks.lattice import Verify
from dspec.testing.models.tabular import chain_law, write_table_model

Generate = Callable[[int, int], Iterable[Hashable]]
CHAIN = 256  # tokens a generation


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One foreign sampler, as `dspec.check_exactness` takes it.

    Args:
        name: for reports.
        kind: "verify" (uniforms are given to it) or "generate" (it draws for itself).
        verify: for "verify": see `dspec.testing.checks.lattice.Verify`.
        generate: for "generate": (n, seed) -> n outcomes.
        law: for "generate": outcome -> probability.
        xp: for "verify": array namespace of its arguments.
        mode: for "verify": "rejection", "block", "one_hot" or "match".
        to_numpy: brings results to the host.
        rows: about how many rows of the lattice, and how many coupled ones, are worth its time; None: any.
        draws: most outcomes that are worth its time; None: any number.
        versions: of the packages behind it.
    """

    name: str
    kind: str
    verify: Verify | None = None
    generate: Generate | None = None
    law: Mapping[Any, Any] | None = None
    xp: Any = np
    mode: str = "rejection"
    to_numpy: Callable[[Any], Any] = np.asarray
    rows: int | None = None
    draws: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def of_chain(
    chain: Chain,
    table: Any,
    start: int,
    length: int,
    name: str,
    *,
    asked: int = CHAIN,
    eos: int | None = None,
    versions: Mapping[str, str] | None = None,
) -> Adapter:
    """Return the adapter of an engine that generates long texts of a table."""
    law = chain_law(table, start, length, eos=eos)
    generate = from_chains(chain, start=start, length=length, asked=asked, eos=eos)
    return Adapter(name=name, kind="generate", generate=generate, law=law, versions=versions or {})


def of_pass(
    sampler: Sampler,
    target: Any,
    drafter: Any,
    start: int,
    num_drafts: int,
    name: str,
    versions: Mapping[str, str],
) -> Adapter:
    """Return the adapter of a sampler that runs one pass with its own draws."""
    generate = from_passes(sampler, target=target, drafter=drafter, start=start, num_drafts=num_drafts)
    law = chain_law(target, start, num_drafts + 1)
    return Adapter(name=name, kind="generate", generate=generate, law=law, versions=versions)


@contextmanager
def checkpoint(table: Any) -> Iterator[str]:
    """Give the folder of a table model for as long as it takes to load it."""
    with tempfile.TemporaryDirectory() as folder:
        write_table_model(folder, table)
        yield folder


def load(module: str) -> Any:
    """Return a module, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        message = explain(package, "not installed", "it to check it", remedy=f"Try: pip install {package}.")
        raise BackendUnavailable(message) from error


def versions_of(*modules: Any) -> dict[str, str]:
    """Return the version of each module."""
    return {module.__name__: str(module.__version__) for module in modules}
