"""Which room a backend's name opens, on machines of every kind, and what it says where there is none."""

import pytest

from dspec.backends import registry
from dspec.errors import BackendUnavailable, ConfigError
from tests.rooms import ROOMS


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine: its system, its processor, the packages that are installed."""

    def pretend(system, processor, *packages):
        monkeypatch.setattr(registry.sys, "platform", system)
        monkeypatch.setattr(registry.platform, "machine", lambda: processor)
        monkeypatch.setattr(registry, "find_spec", lambda name: "found" if name in packages else None)
        monkeypatch.setattr(registry, "import_module", lambda name: name)

    return pretend


APPLE, INTEL, LINUX = ("darwin", "arm64"), ("darwin", "x86_64"), ("linux", "aarch64")


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize(
    ("kind", "packages", "room"),
    [
        (APPLE, ("torch", "mlx_lm"), "mlx"),
        (APPLE, ("torch",), "torch"),
        (APPLE, ("mlx_lm",), "mlx"),
        (INTEL, ("torch", "mlx_lm"), "torch"),
        (LINUX, ("torch", "mlx_lm"), "torch"),
        (LINUX, ("mlx_lm",), "mlx"),
    ],
)
def test_auto_takes_the_faster_device_of_what_is_installed(machine, kind, packages, room):
    machine(*kind, *packages)
    assert registry.open_room("auto") == (f"dspec.backends.{room}.front", "auto")


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize("kind", [APPLE, LINUX])
@pytest.mark.parametrize("place", [0, 1])
def test_auto_takes_the_room_of_what_is_lent(machine, room, kind, place):
    lent = [None, "a/path"]
    lent[place] = room.operations  # any object whose class a room made
    machine(*kind, "torch", "mlx_lm")
    assert registry.open_room("auto", lent=lent)[0] == f"dspec.backends.{room.name}.front"
    other = next(other for other in ROOMS.values() if other is not room)
    assert registry.open_room(other.device, lent=lent) == (f"dspec.backends.{other.name}.front", other.device)


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize(
    ("name", "packages", "message"),
    [
        ("auto", (), r"no package 'torch' and no 'mlx_lm'.*dspec\[torch\].*dspec\[mlx\]"),
        ("mlx", ("torch",), r"backend='mlx': got no package 'mlx_lm'.*pip install 'dspec\[mlx\]'"),
        ("cpu", ("mlx_lm",), r"backend='cpu': got no package 'torch'.*pip install 'dspec\[torch\]'"),
    ],
)
@pytest.mark.parametrize("opens", [registry.open_room, registry.open_ops])
def test_a_missing_framework_is_named_with_what_to_install(machine, opens, name, packages, message):
    machine(*LINUX, *packages)
    with pytest.raises(BackendUnavailable, match=message):
        opens(name)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="backend: got 'tpu'; needs one of auto, cuda, cpu, mps, mlx"):
        registry.open_room("tpu")


def test_each_name_gives_the_operations_of_its_room(room):
    assert type(registry.open_ops(room.device)) is type(room.operations)
