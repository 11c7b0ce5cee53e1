"""Checkpoints that are whole or refused: safetensors with leaf names and a checksum.

The arrays of a PyTree are stored under their paths in it, next to the tree's structure, the
caller's metadata and a sha256 over all of these. Saving is atomic; loading never executes
anything, and never fills a tree with numbers that were not saved from one just like it.
"""

import hashlib
import json
import re
from difflib import unified_diff
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._files import write_atomically

try:
    import safetensors
    import safetensors.numpy
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.checkpoint needs safetensors ({error}): pip install 'qgf_eqx[train]'"
    ) from error

FORMAT = "qgf_eqx 1"
_STORED = re.compile(r"float(16|32|64)|u?int(8|16|32|64)|bool")

_Tree = TypeVar("_Tree")


class CheckpointError(ValueError):
    """A checkpoint cannot be used: the sentence says what differs, and the next step."""


def save(path: str | Path, tree: Any, metadata: dict) -> None:
    """Writes the arrays of a PyTree, and JSON metadata, to one file, atomically.

    **Arguments:**

    - `path`: the file; an old one is replaced only once the new one is on disk.
    - `tree`: any PyTree of NumPy's types. What is no array is not stored: it must be the same in
      the tree that `load` gets, where functions are compared by their names.
    - `metadata`: anything JSON can hold.

    **Raises:** `CheckpointError` for an array of another type (bfloat16, a typed key).
    """
    arrays = {}
    for name, leaf in _named_arrays(tree).items():
        if not _STORED.fullmatch(str(leaf.dtype)):
            raise CheckpointError(
                f"`{name}` is {leaf.dtype}, which is not stored. Cast it to float32 before, or "
                "take `jax.random.key_data` of a key."
            )
        arrays[name] = np.asarray(leaf)
    header = {
        "format": FORMAT,
        "structure": _structure(tree),
        "metadata": json.loads(json.dumps(metadata)),
    }
    header["sha256"] = _digest(arrays, header)
    # One key: safetensors does not keep the order of several, and equal trees make equal files.
    text = {"qgf_eqx": json.dumps(header, sort_keys=True)}
    with write_atomically(Path(path)) as file:
        file.write(safetensors.numpy.save(arrays, text))


def load(path: str | Path, like: _Tree) -> tuple[_Tree, dict]:
    """Reads a checkpoint into a tree just like the one that was saved.

    **Arguments:**

    - `path`: the file.
    - `like`: a PyTree of the same structure; `jax.ShapeDtypeStruct` may stand for arrays.

    **Returns:** `like` with the saved arrays, and the metadata.

    **Raises:** `CheckpointError` if the file is missing, damaged, of another format, or if any
    name, shape, dtype or static part differs: it names the first that does.
    """
    arrays, header = _read(Path(path))
    expected = _named_arrays(like)
    for name in [*expected, *arrays]:
        found = _describe(arrays.get(name))
        wanted = _describe(expected.get(name))
        if found != wanted:
            raise CheckpointError(
                f"{path} does not fit: `{name}` is {found} in the file, but {wanted} in the model. "
                "Build the model with the settings it was trained with."
            )
    if header["structure"] != _structure(like):
        saved, wanted = header["structure"].splitlines(), _structure(like).splitlines()
        changes = [x for x in unified_diff(saved, wanted, n=0) if not x.startswith(("---", "+++"))]
        raise CheckpointError(
            f"{path} was saved from a model that differs in its static parts: "
            f"{' '.join(' '.join(changes[1:3]).split())}. Build the model with the settings it was "
            "trained with."
        )
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    filled = [
        jnp.asarray(arrays[jax.tree_util.keystr(path)]) if _is_array(leaf) else leaf
        for path, leaf in leaves
    ]
    return jax.tree_util.tree_unflatten(treedef, filled), header["metadata"]


def read_metadata(path: str | Path) -> dict:
    """The metadata of a checkpoint, checked like the rest of it.

    **Raises:** `CheckpointError` if the file is missing, damaged or of another format.
    """
    return _read(Path(path))[1]["metadata"]


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a checkpoint, by its name.

    **Raises:** `CheckpointError` as `read_metadata`.
    """
    return {name: array.shape for name, array in _read(Path(path))[0].items()}


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["qgf_eqx"])
        arrays = safetensors.numpy.load(data)
        claimed = header.pop("sha256")
        intact = claimed == _digest(arrays, header)
    except Exception as error:
        raise CheckpointError(
            f"{path} is no checkpoint of this package, or is damaged "
            f"({type(error).__name__}). Restore it from a copy, or train again."
        ) from None
    if not intact:
        raise CheckpointError(
            f"{path} is damaged: its checksum does not match. Restore it from a copy, or train "
            "again."
        )
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has the format `{header['format']}`; this version reads `{FORMAT}`. Use the "
            "version of qgf_eqx that wrote it."
        )
    return arrays, header


def _digest(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _named_arrays(tree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if _is_array(leaf)}


def _describe(array) -> str:
    return "missing" if array is None else f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _structure(tree) -> str:
    text = eqx.tree_pformat(tree, width=80, short_arrays=True, struct_as_array=True)
    return text.replace("<wrapped function", "<function")  # a decorated function is itself
