"""One sampler of whole generations, and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass

from dspec.testing.models.worlds import World, mixed_worlds


@dataclass(frozen=True)
class Specimen:
    """One sampler with what is known of it.

    Args:
        name: what it does.
        sampler: to give to `check_exact_law`.
        wrong: whether the check must fail.
        number: of the field bug in the survey, "m1" to "m3" for several drafts; 0 for none.
        warps: settings (names in `worlds.WARPS`) in which it is checked.
        lies: of the drafter (names in `worlds.LIES`, "" for honest) in its worlds.
    """

    name: str
    sampler: Callable[..., tuple[int, ...]]
    wrong: bool = True
    number: int | str = 0
    warps: tuple[str, ...] = ("plain",)
    lies: tuple[str, ...] = ("",)

    def worlds(self, *, seed: int = 1, size: int = 1) -> list[World]:
        """Return the worlds in which it is checked: 9 * size."""
        return mixed_worlds(seed=seed, warps=self.warps, size=size, lies=self.lies)
