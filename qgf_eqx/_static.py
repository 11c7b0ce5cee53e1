"""What a tree is apart from its arrays, in texts that can be compared with those of another one."""

import dataclasses
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np

_LEAF = jax.tree_util.tree_structure(0)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
# Packages that may move a function between their modules, and never have two of one name.
_FLAT = ("jax", "qgf_eqx")


def structure_of(tree: Any) -> dict[str, str | None]:
    """Every static part of a tree by its path: its type, or its value, or the name by which Python
    finds it. None is what cannot be compared: a lambda, a closure, an object of a foreign class.
    """
    return dict(_walk("", tree, True))


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _walk(path: str, part: Any, stored: bool) -> Iterator[tuple[str, str | None]]:
    if stored and is_array(part):
        return
    inner, treedef = jax.tree_util.tree_flatten_with_path(part, is_leaf=lambda x: x is not part)
    leaf = treedef == _LEAF
    if isinstance(part, _PLAIN) or eqx.is_array_like(part) or isinstance(part, np.dtype):
        yield path, _value(part)
    elif isinstance(part, eqx.Module) or (leaf and _is_dataclass(part)):
        yield path, name_of(type(part))
        for field in dataclasses.fields(part):
            if hasattr(part, field.name):
                static = leaf or field.metadata.get("static", False)
                value = getattr(part, field.name)
                yield from _walk(f"{path}.{field.name}", value, stored and not static)
    elif not leaf:
        kind, auxiliary = treedef.node_data()  # type: ignore[misc]
        yield path, name_of(kind)
        yield from _walk(f"{path}<static>", auxiliary, False)
        for key, value in inner:
            yield from _walk(path + jax.tree_util.keystr(key), value, stored)
    elif isinstance(part, functools.partial):
        yield path, name_of(type(part))
        for name in ("func", "args", "keywords"):
            yield from _walk(f"{path}.{name}", getattr(part, name), False)
    elif isinstance(part, types.MethodType) and part == getattr(part.__self__, part.__name__, 0):
        yield path, f"method {part.__name__}"
        yield from _walk(f"{path}.__self__", part.__self__, False)
    elif isinstance(part, enum.Enum):
        yield path, f"{name_of(type(part))}.{part.name}"
    else:
        yield path, name_of(part)


def _is_dataclass(part: Any) -> bool:
    return dataclasses.is_dataclass(part) and not isinstance(part, type)


def _value(part: Any) -> str | None:
    if type(part) in _PLAIN:
        return repr(part)
    if isinstance(part, np.dtype):
        return f"dtype {part.name}"
    if isinstance(part, _PLAIN) or part.dtype.kind not in "biufcV":
        return None  # a subclass, or an array of objects
    numbers = np.ascontiguousarray(part)
    digest = hashlib.sha256(numbers.tobytes()).hexdigest()[:16]
    return f"{numbers.dtype.name}{list(numbers.shape)} of sha256 {digest}"


def name_of(thing: Any) -> str | None:
    """The name by which Python finds a function or a class again; None if there is none."""
    of_numpy = "numpy" if isinstance(thing, np.ufunc) else None  # NumPy 2.0 gives them no module
    module = getattr(thing, "__module__", of_numpy)
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", None))
    if not isinstance(module, str) or not isinstance(name, str) or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not thing:  # a lambda that its module gave a name to, as Equinox's identity
        name = next((n for n, x in vars(sys.modules[module]).items() if x is thing), None)
    package = module.split(".")[0]
    return name and f"{package if package in _FLAT or '._' in module else module}.{name}"
