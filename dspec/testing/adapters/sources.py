"""Other samplers and engines in the form that the kit checks: `dspec.check_exactness(adapter)`.

A sampler whose uniforms can be given is a `Verify` function: lattice, boundaries and coupling judge it
without chance. An engine that draws for itself serves a table model, and its outputs are judged by
their joint law. Frameworks are imported when their adapter is made.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dspec.errors import ConfigError, explain
from dspec.testing.adapters.adapter import CHAIN, Adapter, checkpoint, load, of_chain, of_pass, versions_of
from dspec.testing.adapters.endpoint import Endpoint
from dspec.testing.models.tabular import LETTERS, checked_table

# Two tables that disagree everywhere, with zeros where the other has mass: every branch is taken often.
TARGET = ((1, 2, 3, 2), (4, 0, 3, 1), (2, 1, 0, 5), (3, 3, 1, 1))
DRAFTER = ((3, 2, 0, 3), (1, 4, 2, 1), (2, 2, 3, 1), (0, 2, 2, 4))
# What a function of the user is called with, in this order.
VERIFIES = ("target_probs", "draft_tokens", "draft_probs", "accept_u", "close_u")
GENERATES = ("n", "seed")


def from_callable(
    function: Callable[..., Any],
    *,
    law: Mapping[Any, Any] | None = None,
    name: str = "",
    xp: Any = None,
    mode: str = "rejection",
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Adapter:
    """Return an adapter for a function of yours: a verifier, or, if `law` is given, a generator.

    Spec: RS-20.

    Args:
        function: without `law`: (target_probs (B, K + 1, V), draft_tokens (B, K), draft_probs (B, K, V)
            or None, accept_u (B, K), close_u (B, K + 1, 2)) -> (tokens (B, K + 1), n_accepted (B,)),
            a malformed row having n_accepted -1. With `law`: (n, seed) -> n outcomes.
        law: outcome -> probability.
        name: for reports; "": the function's own.
        xp: array namespace of a verifier's arguments; None: numpy.
        mode: of a verifier: "rejection", "block", "one_hot" or "match".
        to_numpy: brings a verifier's results to the host.

    Returns:
        The adapter.

    Raises:
        ConfigError: the mode is not known, or the function does not take these arguments.

    Example:
        >>> from random import Random
        >>> fair = from_callable(lambda n, seed: Random(seed).choices("HT", k=n), law={"H": 0.5, "T": 0.5})
        >>> fair.kind
        'generate'
    """
    import array_api_compat.numpy as npx

    if mode not in ("rejection", "block", "one_hot", "match"):
        raise ConfigError(explain("mode", repr(mode), "'rejection', 'block', 'one_hot' or 'match'"))
    _takes(function, VERIFIES if law is None else GENERATES)
    name = name or getattr(function, "__name__", type(function).__name__)
    if law is not None:
        return Adapter(name=name, kind="generate", generate=function, law=law)
    space = npx if xp is None else xp
    return Adapter(name=name, kind="verify", verify=function, xp=space, mode=mode, to_numpy=to_numpy)


def _takes(function: Callable[..., Any], names: Sequence[str]) -> None:
    """Raise if a function cannot be called with these arguments, in their order."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not say
    try:
        signature.bind(*names)
    except TypeError as error:
        wanted = f"a function of ({', '.join(names)})"
        raise ConfigError(explain("function", f"one of {signature}", wanted)) from error


def from_hf_assisted(
    target: Any = TARGET, assistant: Any = DRAFTER, *, start: int = 0, length: int = 3, num_drafts: int = 3
) -> Adapter:
    """Return an adapter for transformers' assisted generation of one table by another.

    Temperature 1, top-k and top-p off (their defaults truncate); everything else as transformers has it.

    Spec: RS-1, RS-3.

    Args:
        target: (V, V) table.
        assistant: (V, V) table.
        start: last token of the prompt.
        length: tokens of an outcome.
        num_drafts: tokens that the assistant proposes a round.

    Returns:
        An adapter of kind "generate".

    Raises:
        BackendUnavailable: transformers or torch is not installed.
        ConfigError: a table is no table.
    """
    torch, transformers = load("torch"), load("transformers")
    models = []
    for table in (target, assistant):
        with checkpoint(table) as folder:
            models.append(transformers.AutoModelForCausalLM.from_pretrained(folder).eval())
    models[1].generation_config.num_assistant_tokens = num_drafts
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": CHAIN}

    def chain(seed: int) -> list[int]:
        # The caller's generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            prompt = torch.tensor([[start]])
            out = models[0].generate(
                prompt, attention_mask=torch.ones_like(prompt), assistant_model=models[1], **settings
            )
        return [int(token) for token in out[0, 1:]]

    name = "transformers: assisted generation"
    return of_chain(chain, target, start, length, name, versions=versions_of(torch, transformers))


def from_hf_sampler(
    *,
    given: bool = True,
    rows: int | None = 200_000,
    target: Any = TARGET,
    drafter: Any = DRAFTER,
    start: int = 0,
    num_drafts: int = 2,
) -> Adapter:
    """Return an adapter for transformers' `_speculative_sampling` alone, at tensor level.

    Spec: RS-1, RS-4, RS-5, RS-7.

    Args:
        given: answer its draws with given uniforms (kind "verify"); else torch draws (kind "generate").
        rows: for `given=True`, which goes row by row, some 5,000 a second: see `Adapter`. None: any number.
        target: (V, V) table; for `given=False`.
        drafter: (V, V) table; for `given=False`.
        start: token before the pass; for `given=False`.
        num_drafts: drafted tokens a pass; for `given=False`.

    Returns:
        The adapter.

    Raises:
        BackendUnavailable: transformers or torch is not installed.
    """
    from dspec.testing.adapters.hf_sampler import hf_pass, hf_verify

    versions, name = versions_of(load("torch"), load("transformers")), "transformers: _speculative_sampling"
    if given:
        return replace(from_callable(hf_verify, name=name), versions=versions, rows=rows)
    return of_pass(hf_pass, target, drafter, start, num_drafts, name, versions)


def from_vllm_sampler(
    *,
    device: str = "cuda",
    target: Any = TARGET,
    drafter: Any = DRAFTER,
    start: int = 0,
    num_drafts: int = 2,
) -> Adapter:
    """Return an adapter for vLLM's `rejection_sample` alone, at tensor level, with its own draws.

    Spec: RS-1.

    Args:
        device: of torch; vLLM's kernels are Triton's and need a GPU.
        target: (V, V) table.
        drafter: (V, V) table.
        start: token before the pass.
        num_drafts: drafted tokens a pass.

    Returns:
        An adapter of kind "generate".

    Raises:
        BackendUnavailable: vLLM is not installed, or this version asks for unknown arguments.
    """
    from dspec.testing.adapters.vllm_sampler import vllm_pass

    sampler = vllm_pass(device)
    versions = versions_of(load("vllm"), load("torch"))
    return of_pass(sampler, target, drafter, start, num_drafts, "vLLM: rejection_sample", versions)


def from_mlx_lm(
    target: Any = TARGET, drafter: Any = DRAFTER, *, start: int = 0, length: int = 3, num_drafts: int = 3
) -> Adapter:
    """Return an adapter for mlx-lm's speculative loop with one table as draft model of another.

    Spec: RS-1, RS-3.

    Args:
        target: (V, V) table.
        drafter: (V, V) table.
        start: last token of the prompt.
        length: tokens of an outcome.
        num_drafts: tokens that the draft model proposes a round.

    Returns:
        An adapter of kind "generate". Its draws come from MLX's global generator, which it seeds.

    Raises:
        BackendUnavailable: mlx-lm is not installed.
        ConfigError: a table is no table.
    """
    mlx_lm, mx = load("mlx_lm"), load("mlx.core")
    from mlx_lm.generate import speculative_generate_step
    from mlx_lm.sample_utils import make_sampler

    models = []
    for table in (target, drafter):
        with checkpoint(table) as folder:
            models.append(mlx_lm.load(folder)[0])
    sampler = make_sampler(temp=1.0)

    def chain(seed: int) -> list[int]:
        mx.random.seed(seed)
        steps = speculative_generate_step(
            mx.array([start]), *models, num_draft_tokens=num_drafts, max_tokens=CHAIN, sampler=sampler
        )
        return [int(token) for token, *_ in steps]

    versions = versions_of(mlx_lm) | {"mlx": mx.__version__}
    return of_chain(chain, target, start, length, "mlx-lm: speculative loop", versions=versions)


def from_openai(
    url: str,
    model: str,
    *,
    table: Any = TARGET,
    start: int = 0,
    length: int = 3,
    eos: int | None = None,
    chain: int = CHAIN,
    timeout: float = 30.0,
    extra: Mapping[str, Any] | None = None,
) -> Adapter:
    """Return an adapter for an OpenAI-compatible completions endpoint that serves a table model.

    The table is what `write_table_model` wrote and the server loaded. Requests ask for temperature 1
    and top_p 1; give what else your server truncates by default in `extra`, such as {"top_k": 0}.

    Spec: RS-1.

    Args:
        url: base, such as "http://127.0.0.1:8080/v1".
        model: name the server knows it by.
        table: (V, V): `TableModel.table`.
        start: token that the prompt is made of.
        length: tokens of an outcome.
        eos: `TableModel.eos`.
        chain: tokens a request.
        timeout: seconds a request.
        extra: further fields of the request.

    Returns:
        An adapter of kind "generate". It asks when it is checked, not before.

    Raises:
        ConfigError: the URL is not of http or https, or the table is no table.
    """
    vocabulary = LETTERS[: len(checked_table(table))]
    endpoint = Endpoint(url, model, vocabulary, eos=eos, timeout=timeout, extra=dict(extra or {}))

    def ask(seed: int) -> Sequence[int]:
        return endpoint.complete(vocabulary[start], max_tokens=chain, seed=seed)

    return of_chain(ask, table, start, length, f"{url}: {model}", asked=chain, eos=eos)
