"""Scenes in which whatever would wait for a device is seen, without a device."""

import contextlib

from torch.utils._python_dispatch import TorchDispatchMode

HEAVY = 8 << 20  # bytes that evaluating a `lazy` array takes for a moment


class NoWaiting(TorchDispatchMode):
    """Fails on every operation that reads a value to the host or shapes an array by one."""

    WAITING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket._qualified_op_name.split("::")[1]
        assert name not in self.WAITING, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def nothing_evaluated():
    """Fails if anything made of a `lazy` array was evaluated inside: MLX has no events to see that by."""
    import mlx.core as mx

    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    yield
    assert mx.get_peak_memory() - before < HEAVY, "something read a value: it was evaluated"


def lazy(room, ids):
    """Ids as the room's array; on MLX one that takes HEAVY bytes to evaluate."""
    array = room.array(ids, "int32")
    if room.name == "torch":
        return array
    weight = room.xp.zeros((*array.shape, HEAVY // 4), dtype=room.xp.int32)
    return array + room.xp.astype(room.xp.max(weight + array[..., None], axis=-1) - array, room.xp.int32)


def no_waiting(room):
    """The room's own scene."""
    return NoWaiting() if room.name == "torch" else nothing_evaluated()
