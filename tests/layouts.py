"""What the slots of a layout see, by core, on one array namespace."""

import numpy as np

from dspec.core.layouts import visible
from tests.namespaces import NAMESPACES, to_numpy


def sees(layout, namespace):
    """Return (P, P): what `visible` makes of a layout, in a batch of two of it."""
    xp = NAMESPACES[namespace]
    parts = [np.array([x, x], np.int32) for x in (layout.ranks, layout.reads, layout.groups, layout.skips)]
    found = to_numpy(visible(*(xp.asarray(part) for part in parts), xp=xp))
    assert found.shape == (2, layout.size, layout.size) and (found[0] == found[1]).all()
    return found[0]
