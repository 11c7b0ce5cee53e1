"""What `module:name` names: tasks and learners of one's own."""

import importlib
import sys
import types
from typing import Any


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
