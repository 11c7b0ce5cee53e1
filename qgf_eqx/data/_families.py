"""Where a family of tasks is found: the file of its name in this folder."""

import importlib
import importlib.util
from typing import Any


def family_of(text: str) -> tuple[Any, str]:
    """The module of a name, and the name inside it: `metaworld:push-v3` is `push-v3` of the
    module `metaworld` next to this one; a name without a colon is OGBench's.

    A family may have `task(name)`, the arguments of a `qgf_eqx.evaluate.Task` in a dict, and
    `source(name)`, the `Source` of its episodes. None if there is no such module.

    **Raises:** `ImportError` naming the extra, if the family needs a library.
    """
    family, _, name = text.rpartition(":") if ":" in text else ("ogbench", "", text)
    module = f"{__package__}.{family}"
    known = family.isidentifier() and importlib.util.find_spec(module) is not None
    return importlib.import_module(module) if known else None, name
