"""Old names of functions: they still work, for one version, and say the new ones."""

import sys
import warnings
from collections.abc import Callable
from typing import Any


def moved(module: str, new: str) -> None:
    """Warns that a module has another name now."""
    warnings.warn(
        f"`{module}` is now `qgf_eqx.{new}`; the next version removes the old name.",
        DeprecationWarning,
        stacklevel=3,
    )


def old_names(module: str, **new: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose functions were renamed, `old="new"`."""

    def find(name: str) -> Any:
        if name not in new:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        short = module.removeprefix("qgf_eqx.")
        warnings.warn(
            f"`{short}.{name}` is now `{short}.{new[name]}`; the next version removes "
            "the old name.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], new[name])

    return find
