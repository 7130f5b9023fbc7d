"""A mode in which torch refuses whatever would wait for a device, seen without a device."""

from torch.utils._python_dispatch import TorchDispatchMode


class NoWaiting(TorchDispatchMode):
    """Fails on every operation that reads a value to the host or shapes an array by one."""

    WAITING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket._qualified_op_name.split("::")[1]
        assert name not in self.WAITING, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))
