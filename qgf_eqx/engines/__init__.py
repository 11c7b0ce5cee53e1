"""Where many things run: an engine maps a function over cells. Imports none of the other parts."""

from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol, runtime_checkable

from ._local import EngineError as EngineError
from ._local import Local as Local


@runtime_checkable
class Engine(Protocol):
    """Anything with this method: what takes an `engine` can run there."""

    def map(
        self, function: Callable[[Any], Any], cells: Iterable[Any]
    ) -> Generator[tuple[Any, Any], None, None]:
        """Each cell with its result, as they complete. An exception of a cell ends all of them and
        reaches the caller; closing the generator ends them too."""
        ...
