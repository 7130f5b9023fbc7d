"""The MLX room's operations: devices and dtypes by name, nothing narrowed or timed by guess."""

import warnings

import numpy as np
import pytest

from dspec.core.stats import Stats, pool
from dspec.errors import ConfigError
from dspec.stopwatch import Stopwatch
from tests.rooms import ROOMS

mx = pytest.importorskip("mlx.core")
ops = ROOMS["mlx"].ops
pytestmark = pytest.mark.mlx


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(ops, "on_metal", lambda: True)
    ops._warn_of_narrow_products.cache_clear()
    yield
    ops._warn_of_narrow_products.cache_clear()


def test_auto_takes_float32_on_the_cpu_and_the_stored_dtype_on_a_gpu(on_gpu, monkeypatch):
    assert ops.resolve_dtype("auto", stored=mx.bfloat16) == mx.bfloat16
    assert ops.resolve_dtype("auto", stored=None) is None
    monkeypatch.setattr(ops, "on_metal", lambda: False)
    assert ops.resolve_dtype("auto", stored=mx.bfloat16) == mx.float32
    assert ops.resolve_dtype("float16", stored=mx.bfloat16) == mx.float16
    for wrong in ("int8", "mlx", mx.int32, mx.float64):
        with pytest.raises(ConfigError, match=r"dtype: got .*needs one of auto, float32"):
            ops.resolve_dtype(wrong, stored=mx.float32)


def test_there_is_one_device():
    assert ops.resolve_device("auto") == ops.resolve_device("mlx") == "mlx"
    with pytest.raises(ConfigError, match="device: got 'cpu'; needs one of auto, mlx"):
        ops.resolve_device("cpu")


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "auto"), ("mlx", "bfloat16"), ("auto", mx.float16)])
def test_settings_that_contradict_what_is_loaded_are_refused(device, dtype):
    ops.check_placed("drafter", mx.float32, device="mlx", dtype_asked="float32")
    ops.check_placed("drafter", mx.float32, device="auto", dtype_asked="auto")
    with pytest.raises(ConfigError, match="the drafter's"):
        ops.check_placed("drafter", mx.float32, device=device, dtype_asked=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"])
def test_arrays_keep_their_dtype(dtype):
    if not (ops.on_metal() and dtype == "float64"):
        assert str(ops.MlxOps().from_host(np.zeros(3, dtype)).dtype).split(".")[-1].startswith(dtype)


def test_float64_is_refused_on_a_gpu_and_not_narrowed(on_gpu):
    for given in ({"x": np.zeros(3)}, {"x": np.float64(1)}, {"x": [1.0], "dtype": mx.float64}):
        with pytest.raises(ConfigError, match="array: got float64; needs float32 or narrower on a GPU"):
            ops.namespace.asarray(given.pop("x"), **given)
    assert ops.namespace.asarray([1.0]).dtype == mx.float32


@pytest.mark.clause("NU-6")
def test_products_in_tf32_are_warned_of_once(on_gpu, monkeypatch):
    with warnings.catch_warnings(), ops.exact_inference():
        warnings.simplefilter("error")
    ops._warn_of_narrow_products.cache_clear()
    monkeypatch.setattr(ops.mx, "eye", lambda n: mx.ones((n, n)) / n * (1 - 2.0**-12))
    with pytest.warns(RuntimeWarning, match="MLX_ENABLE_TF32=0"), ops.exact_inference():
        pass
    with ops.exact_inference():  # a second warning would be an error
        pass


def test_peak_memory_counts_what_is_held():
    before = ops.peak_memory()
    mx.eval(mx.zeros((before // 4 + 2**20,)))
    assert ops.peak_memory() >= before + 2**22


@pytest.mark.parametrize("dtype", [mx.float32, mx.int32])
@pytest.mark.parametrize("shape", [(3,), (2, 0), (2, 128), (2, 129), (3, 300), (16_385,)])
def test_sums_are_those_of_mlx_in_shape_dtype_and_value(shape, dtype):
    x = mx.ones(shape, dtype=dtype)
    for options in ({}, {"axis": -1}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"keepdims": True}):
        found, expected = ops.namespace.sum(x, **options), mx.sum(x, **options)
        assert (found.shape, found.dtype, found.tolist()) == (
            expected.shape,
            expected.dtype,
            expected.tolist(),
        )


class Session:
    def score(self):
        return 1

    propose = score


def test_a_backend_without_marks_has_the_total_only():
    """Host time at a mark would be that of building a graph: parts that are wrong are left out."""
    watches = {name: Stopwatch(room.operations) for name, room in ROOMS.items()}
    for watch in watches.values():
        with watch.total():
            watch.target(Session()).score()
            watch.drafter(Session()).propose()
    seconds = {name: watch.read() for name, watch in watches.items()}
    assert set(seconds["mlx"]) == {"total"}
    assert set(seconds["torch"]) == {"target", "drafter", "loop", "total"}
    both = pool([Stats(seconds=part, n_tokens=1) for part in seconds.values()])
    assert both.seconds == {"total": pytest.approx(sum(part["total"] for part in seconds.values()))}
    assert pool([]).seconds == {}
