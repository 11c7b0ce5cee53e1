"""Checkpoints that are whole or refused: safetensors with leaf names and a checksum.

The arrays of a PyTree are stored under their paths in it, next to the tree's structure, the
caller's metadata and a sha256 over all of these. Saving is atomic; loading never executes
anything, and never fills a tree with arrays saved from a different one.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._files import write_atomically
from ._static import is_array, structure_of
from .nn._old import with_dense, with_linear

try:
    import safetensors
    import safetensors.numpy
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.checkpoint needs safetensors ({error}): pip install 'qgf_eqx[train]'"
    ) from error

FORMAT = "qgf_eqx 3"
_FIRST_FORMAT = "qgf_eqx 1"  # its structure is one text, in which functions have no module
_OLD_FORMATS = (_FIRST_FORMAT, "qgf_eqx 2")  # the networks' layers are `eqx.nn.Linear`
_STORED = re.compile(r"float(16|32|64)|u?int(8|16|32|64)|bool")

_Tree = TypeVar("_Tree")


class CheckpointError(ValueError):
    """A checkpoint cannot be used: the sentence says what differs, and the next step."""


@dataclass(frozen=True)
class Held:
    """What a checkpoint holds, read and checked once."""

    path: Path
    arrays: dict[str, np.ndarray]
    """By their names in the tree."""
    header: dict[str, Any]
    sha256: str
    """Of the file, as `sha256sum` prints it."""

    @property
    def metadata(self) -> dict:
        """The caller's."""
        return self.header["metadata"]

    def into(self, like: _Tree) -> _Tree:
        """The saved arrays in a tree just like the one that was saved; see `load`."""
        if self.header["format"] in _OLD_FORMATS:
            return with_dense(like, self._into(with_linear(like)))
        return self._into(like)

    def _into(self, like: _Tree) -> _Tree:
        arrays, path = self.arrays, self.path
        expected = _named_arrays(like)
        for name in [*expected, *arrays]:
            found = _describe(arrays.get(name))
            wanted = _describe(expected.get(name))
            if found != wanted:
                raise CheckpointError(
                    f"{path} does not fit: `{name}` is {found} in the file, but {wanted} in the "
                    "model. Build the model with the settings it was trained with."
                )
        change = _first_change(self.header, like)
        if change:
            raise CheckpointError(
                f"{path} was saved from a model that differs in its static parts: {change}. Build "
                "the model with the settings it was trained with."
            )
        leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
        filled = [
            _like(leaf, arrays[jax.tree_util.keystr(place)]) if is_array(leaf) else leaf
            for place, leaf in leaves
        ]
        return jax.tree_util.tree_unflatten(treedef, filled)


def save(path: str | Path, tree: Any, metadata: dict) -> None:
    """Writes the arrays of a PyTree, and JSON metadata, to one file, atomically.

    **Arguments:**

    - `path`: the file; an old one is replaced only once the new one is on disk.
    - `tree`: any PyTree. Only its arrays are stored. `load` checks that everything else is the
      same in its tree: functions and classes by module and name, partials, methods and dataclasses
      by their parts, static arrays by their values.
    - `metadata`: anything JSON can hold.

    **Raises:** `CheckpointError` for an unsupported dtype (bfloat16, a typed key), and for
    anything that cannot be compared: a lambda, a nested function, any other object.
    """
    with write_atomically(Path(path)) as file:
        file.write(as_bytes(tree, metadata))


def check_savable(tree: Any) -> dict[str, str | None]:
    """The structure that `save` writes, of a tree that it can.

    **Raises:** `CheckpointError` if a part has no name, or an array another dtype.
    """
    structure = structure_of(tree)
    for where, text in structure.items():
        if text is None:
            raise CheckpointError(
                f"`{where or 'the tree'}` cannot be saved: Python does not find it by a name, so "
                "`load` could not compare it. Use a function or class at the top of a module, or "
                "`functools.partial` of one."
            )
    for name, leaf in _named_arrays(tree).items():
        if not _STORED.fullmatch(str(leaf.dtype)):
            raise CheckpointError(
                f"`{name}` is {leaf.dtype}, which is not stored. Cast it to float32 before, or "
                "take `jax.random.key_data` of a key."
            )
    return structure


def as_bytes(tree: Any, metadata: dict) -> bytes:
    """What `save` writes; arguments and errors as there."""
    structure = check_savable(tree)
    arrays = {name: np.asarray(leaf) for name, leaf in _named_arrays(tree).items()}
    try:
        kept = json.loads(json.dumps(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"`metadata` holds what JSON cannot: {error}.") from None
    header = {"format": FORMAT, "structure": structure, "metadata": kept}
    header["sha256"] = _digest(arrays, header)
    # One key: safetensors does not keep the order of several, and equal trees make equal files.
    text = {"qgf_eqx": json.dumps(header, sort_keys=True)}
    return safetensors.numpy.save(arrays, text)


def load(path: str | Path, like: _Tree) -> tuple[_Tree, dict]:
    """Reads a checkpoint into a tree just like the one that was saved.

    **Arguments:**

    - `path`: the file.
    - `like`: a PyTree of the same structure; `jax.ShapeDtypeStruct` may stand for arrays.

    **Returns:** `like` with the saved arrays, and the metadata.

    **Raises:** `CheckpointError` if the file is missing, damaged, of another format, or if any
    name, shape, dtype or static part differs: it names the first that does.
    """
    held = read_checkpoint(path)
    return held.into(like), held.metadata


def read_checkpoint(path: str | Path) -> Held:
    """What a checkpoint holds.

    **Raises:** `CheckpointError` if the file is missing, damaged or of another format.
    """
    arrays, header, sha256 = _read(Path(path))
    return Held(Path(path), arrays, header, sha256)


def read_metadata(path: str | Path) -> dict:
    """The metadata of a checkpoint, checked like the rest of it.

    **Raises:** `CheckpointError` if the file is missing, damaged or of another format.
    """
    return read_checkpoint(path).metadata


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a checkpoint, by its name.

    **Raises:** `CheckpointError` as `read_metadata`.
    """
    return {name: array.shape for name, array in read_checkpoint(path).arrays.items()}


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    with _refusing(path):
        data = path.read_bytes()
        text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        found = json.loads(text["__metadata__"]["qgf_eqx"])
        header = {name: found[name] for name in ("format", "structure", "metadata", "sha256")}
        arrays = safetensors.numpy.load(data)
        claimed = header.pop("sha256")
        intact = claimed == _digest(arrays, header)
        known = header["format"] in (FORMAT, *_OLD_FORMATS)
        kind = str if header["format"] == _FIRST_FORMAT else dict
        if known and not isinstance(header["structure"], kind):
            raise TypeError("structure")
        if not isinstance(header["metadata"], dict):
            raise TypeError("metadata")
    if not intact:
        raise CheckpointError(
            f"{path} is damaged: its checksum does not match. Restore it from a copy, or train "
            "again."
        )
    if not known:
        raise CheckpointError(
            f"{path} has the format `{header['format']}`; this version reads `{FORMAT}`. Use the "
            "version of qgf_eqx that wrote it."
        )
    return arrays, header, hashlib.sha256(data).hexdigest()


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns whatever reading a foreign file raises into a sentence."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this package, or is damaged "
            f"({type(error).__name__}). Restore it from a copy, or train again."
        ) from None


def _digest(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _like(leaf: Any, array: np.ndarray) -> Any:
    return array if isinstance(leaf, np.ndarray | np.generic) else jnp.asarray(array)


def _named_arrays(tree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if is_array(leaf)}


def _describe(array) -> str:
    return "missing" if array is None else f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _first_change(header: dict[str, Any], like: Any) -> str | None:
    """What differs first between the static parts of a file and of a model, in words."""
    saved = header["structure"]
    if header["format"] == _FIRST_FORMAT:
        return _first_change_of_text(saved, like)
    wanted = structure_of(like)
    for where in [*wanted, *saved]:
        here, there = wanted.get(where, "missing"), saved.get(where, "missing")
        if here is None or here != there:
            here = here or "something that Python does not find by a name"
            return f"`{where or 'the tree'}` is `{there}` in the file, but `{here}` in the model"
    return None


def _first_change_of_text(saved: str, like: Any) -> str | None:
    """As `_first_change`, of a file of the first format."""
    if None in structure_of(like).values():
        return "an older version saved it, with a lambda or an object that cannot be compared"
    text = eqx.tree_pformat(like, width=80, short_arrays=True, struct_as_array=True)
    text = text.replace("<wrapped function", "<function")  # a decorated function is itself
    changes = unified_diff(saved.splitlines(), text.splitlines(), n=0)
    changes = [x for x in changes if not x.startswith(("---", "+++"))]
    return " ".join(" ".join(changes[1:3]).split()) or None
