"""An OpenAI-compatible endpoint under the kit: right ones pass, wrong ones fail, no answer is typed.

Every statistical assertion has a false-fail rate of 1e-9 (seeds are fixed); how far off a wrong engine is
stands beside it.
"""

import pytest

from dspec.errors import BackendUnavailable, ConfigError, DataError
from dspec.testing.adapters.sources import TARGET, from_openai
from dspec.testing.checks.laws import check_distribution
from dspec.testing.models.tabular import checked_table
from tests.table_server import FAULTS, table_server


def judged(adapter, *, n):
    """The report on an endpoint's outputs."""
    return check_distribution(adapter.generate, adapter.law, n=n, seed=1)


@pytest.mark.clause("RS-1", "RS-14")
@pytest.mark.parametrize("eos", [None, 3])
def test_an_endpoint_that_serves_the_table_passes(eos):
    with table_server(TARGET, eos=eos) as server:
        adapter = from_openai(server.url, "table", table=TARGET, eos=eos, chain=64, extra={"top_k": 0})
        report = judged(adapter, n=600)
        path, body = server.seen[-1]
    assert report.passed, report
    assert path == "/v1/completions"
    fixed = {"model": "table", "prompt": "a", "max_tokens": 64, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert fixed.items() <= body.items()
    assert len({body["seed"] for _, body in server.seen}) == len(server.seen)


@pytest.mark.clause("RS-1", "RS-14")
def test_an_endpoint_with_another_law_fails():
    """A colder server is off by 0.4; one that loses a text's last letter shows at once."""
    cold = checked_table(TARGET) ** 3
    for table, loses in ((cold, 0), (TARGET, 1)):
        with table_server(table, loses=loses) as server:
            assert not judged(from_openai(server.url, "table", table=TARGET, chain=64), n=600).passed


@pytest.mark.clause("RS-14")
def test_an_endpoint_that_goes_on_after_the_end_token_fails():
    with table_server(TARGET) as server:
        adapter = from_openai(server.url, "table", table=TARGET, eos=3, chain=64)
        assert not judged(adapter, n=20).passed


@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_is_none_is_a_typed_error(fault):
    needed = (
        (BackendUnavailable, "status 500: out of memory") if fault == "status 500" else (DataError, "needs")
    )
    with table_server(TARGET, fault=fault) as server, pytest.raises(needed[0], match=needed[1]):
        judged(from_openai(server.url, "table", table=TARGET), n=1)


def test_a_server_that_is_slow_or_gone_is_unavailable():
    with table_server(TARGET, delay=0.6) as server:
        with pytest.raises(BackendUnavailable, match=r"within 0\.1 s"):
            judged(from_openai(server.url, "table", table=TARGET, timeout=0.1), n=1)
        url = server.url
    with pytest.raises(BackendUnavailable, match="Is the server running"):
        judged(from_openai(url, "table", table=TARGET, timeout=1), n=1)


@pytest.mark.parametrize("wrong", [{"url": "file:///etc/passwd"}, {"url": "127.0.0.1:80"}, {"timeout": 0}])
def test_addresses_and_limits_that_are_none_are_refused(wrong):
    settings = {"url": "http://127.0.0.1:1/v1", "model": "table", **wrong}
    with pytest.raises(ConfigError):
        from_openai(**settings)
