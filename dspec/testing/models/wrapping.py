"""Models whose sessions are wrapped: to change what they do, or to note it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

Factory = Callable[[], Any]


class Wrapped:
    """An object with some methods replaced; all others are the inner one's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass(frozen=True)
class WrappedModel:
    """A model whose sessions are wrapped."""

    inner: Any
    wrap: Callable[[Any], Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def session(self, *arguments: Any, **options: Any) -> Any:
        """Return a wrapped session; a drafter's is opened beside the plain target."""
        plain = [part.inner if isinstance(part, WrappedModel) else part for part in arguments]
        return self.wrap(self.inner.session(*plain, **options))


def around(
    *, target: Callable[[Any], Any] | None = None, drafter: Callable[[Any], Any] | None = None
) -> Callable[[Factory], Factory]:
    """Return a change of model factories: their sessions are wrapped.

    Args:
        target: what wraps a target's session; None: nothing.
        drafter: what wraps a drafter's.
    """

    def change(factory: Factory) -> Factory:
        def made() -> Any:
            models = factory()
            parts = {"target": target and WrappedModel(models.target, target)}
            parts["drafter"] = drafter and models.drafter and WrappedModel(models.drafter, drafter)
            return replace(models, **{name: part for name, part in parts.items() if part})

        return made

    return change
