"""What names mean: `module:name`, for tasks and learners of one's own, and misspelt ones."""

import difflib
import importlib
import sys
import types
from collections.abc import Iterable
from typing import Any


def one_of(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The end of a sentence about an unknown name: a similar one, if there is one, and all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1, cutoff)
    guess = f"did you mean `{close[0]}`? Known" if close else "known"
    return f"{guess} are {', '.join(known)}."


def import_named(text: str) -> Any:
    """The object `name` of a module, or None if the module has none.

    A run's files hold such names, so a name can come from somebody else. Modules of Python's own
    are not imported, and functions of theirs are not returned: `os:abort` would end the program.

    **Raises:** `ValueError` if the name is of Python's own, `ModuleNotFoundError` if there is no
    such module.
    """
    module, _, name = text.partition(":")
    if _is_pythons(module):
        raise ValueError(
            f"`{text}` names a part of Python itself, and no task or learner of yours."
        )
    found = getattr(importlib.import_module(module), name, None)
    known = types.FunctionType | types.BuiltinFunctionType | type
    if isinstance(found, known) and _is_pythons(found.__module__ or "builtins"):
        raise ValueError(
            f"`{text}` names a part of Python itself, and no task or learner of yours."
        )
    return found


def _is_pythons(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"
