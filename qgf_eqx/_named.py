"""What names mean: `module:name`, for tasks and learners of one's own, and misspelt ones."""

import difflib
import importlib
import sys
import types
from collections.abc import Iterable
from typing import Any


def similar(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The question whether a similar name was meant; empty if there is none."""
    close = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f"did you mean `{close[0]}`?" if close else ""


def one_of(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The end of a sentence about an unknown name: a similar one, if there is one, and all."""
    known = list(known)
    guess = similar(name, known, cutoff)
    return f"{guess + ' Known' if guess else 'known'} are {', '.join(known)}."


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
