"""Fixtures that every test shares: the array namespaces that core must run on."""

import array_api_compat.numpy
import array_api_compat.torch
import array_api_strict
import pytest

NAMESPACES = {
    "numpy": array_api_compat.numpy,
    "strict": array_api_strict,
    "torch": array_api_compat.torch,
}
# The limits of MLX and of compiled code: no reads by mask, no shape that depends on values.
array_api_strict.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)


@pytest.fixture(params=NAMESPACES)
def xp(request):
    """One array namespace after another."""
    return NAMESPACES[request.param]
