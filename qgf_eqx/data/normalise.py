"""Scales features to size one, and back, with statistics of the data.

A normaliser is a value. It is fitted once, to the data that are trained on, and belongs to the
networks from then on: whoever calls them applies the same one.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._dataset import is_picture

_ROWS = 2**14  # read at a time: the data may be larger than memory


class Normaliser(NamedTuple):
    """`(x - shift) / scale`, for every array of a PyTree. It can be jitted, vmapped and saved."""

    shift: Any
    """Of the data's structure; per array one number for every feature, or one for all of them."""
    scale: Any
    """As `shift`, and never 0."""


def apply(normaliser: Normaliser, x: Any) -> Any:
    """What the networks see of `x`: `(x - shift) / scale`.

    **Arguments:**

    - `normaliser`: the fitted one.
    - `x`: of the structure of the data that it was fitted to. An array may have any leading axes,
      or none.

    **Returns:** the same structure, in floats of the same precision; NumPy's for NumPy's.

    **Raises:** `ValueError` if `x` has another structure, or an array that has other features.
    """
    return _moved(normaliser, x, lambda x, shift, scale: (x - shift) / scale)


def invert(normaliser: Normaliser, x: Any) -> Any:
    """The inverse of `apply`, but for rounding: `x scale + shift`. Pictures stay floats.

    **Arguments**, **Returns** and **Raises** as for `apply`.
    """
    return _moved(normaliser, x, lambda x, shift, scale: x * scale + shift)


def standardise(tree: Any) -> Normaliser:
    """The normaliser that gives every feature mean 0 and standard deviation 1.

    **Arguments:**

    - `tree`: any PyTree of arrays with the rows as first axis, in memory or memory-mapped. Leave
      out what should not count, such as the last action of an episode.

    **Returns:** a normaliser of NumPy arrays, which is computed in float64. A feature that is
    constant up to rounding is shifted and has scale 1. Pictures (bytes of height, width and
    channels) are only divided by 255.

    **Raises:** `ValueError` or `TypeError` naming the array that has no rows, numbers that are not
    finite, or no real numbers.
    """
    return _fitted(tree, _mean_and_deviation)


def min_max(tree: Any) -> Normaliser:
    """The normaliser that gives every feature the range [-1, 1].

    **Arguments**, **Returns** and **Raises** as for `standardise`.
    """
    return _fitted(tree, lambda leaf, low, half: (low + half, half))


def identity(tree: Any) -> Normaliser:
    """The normaliser that changes no value; pictures and whole numbers become floats.

    **Arguments:**

    - `tree`: any PyTree of arrays.
    """
    one = jax.tree.map(lambda leaf: np.ones((), _precision(leaf.dtype)), tree)
    return Normaliser(jax.tree.map(np.zeros_like, one), one)


def _fitted(tree: Any, fit: Callable) -> Normaliser:
    def one(path, leaf):
        place = f"`tree{jax.tree_util.keystr(path)}`"
        kind = _precision(leaf.dtype, place)
        if is_picture(leaf.dtype, leaf.shape[1:]):
            return np.zeros((), kind), np.full((), 255, kind)
        low, high = _range(leaf, place)
        half = high / 2 - low / 2
        constant = half <= jnp.finfo(kind).eps * np.maximum(np.abs(low), np.abs(high))
        shift, scale = (np.asarray(x, kind) for x in fit(leaf, low, half))
        # What is below the least normal number counts as 0 on many devices.
        constant |= scale < jnp.finfo(kind).tiny
        return shift, np.where(constant, kind.type(1), scale)

    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    pairs = [one(path, leaf) for path, leaf in paths]
    return Normaliser(*(treedef.unflatten([pair[i] for pair in pairs]) for i in range(2)))


def _mean_and_deviation(leaf: Any, low: Any, half: Any) -> tuple:
    """In units of `half` and from `low`, so that no offset or size costs digits."""
    unit = np.where(half > 0, half, 1)
    mean = sum(((rows - low) / unit).sum(axis=0) for rows in _blocks(leaf)) / len(leaf)
    squares = sum(np.square((rows - low) / unit - mean).sum(axis=0) for rows in _blocks(leaf))
    return low + mean * unit, np.sqrt(squares / len(leaf)) * unit


def _range(leaf: Any, place: str) -> tuple[Any, Any]:
    if np.ndim(leaf) == 0 or len(leaf) == 0:
        raise ValueError(f"{place} has shape {np.shape(leaf)}: no rows to fit a normaliser to.")
    ranges = [(rows.min(axis=0), rows.max(axis=0)) for rows in _blocks(leaf)]
    low, high = np.min([r[0] for r in ranges], axis=0), np.max([r[1] for r in ranges], axis=0)
    if not np.isfinite([low, high]).all():  # NaN is the least and the largest of its column
        raise ValueError(f"{place} has numbers that are not finite. Leave out these rows.")
    return low, high


def _blocks(leaf: Any) -> Iterator[np.ndarray]:
    for first in range(0, len(leaf), _ROWS):
        yield np.asarray(leaf[first : first + _ROWS], np.float64)


def _precision(dtype: Any, place: str = "`tree`") -> np.dtype:
    """That of the normaliser of an array: float64 for its own, else float32."""
    if not (jnp.issubdtype(dtype, jnp.floating) or np.dtype(dtype).kind in "biu"):
        raise TypeError(f"{place} has the dtype {dtype}: a normaliser takes only real numbers.")
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _moved(normaliser: Normaliser, x: Any, move: Callable) -> Any:
    wanted, found = jax.tree.structure(normaliser.shift), jax.tree.structure(x)
    if wanted != found:
        raise ValueError(f"`x` has the structure {found}, but the normaliser is of {wanted}.")

    def one(path, x, shift, scale):
        given = any(isinstance(array, jax.Array) for array in (x, shift, scale))
        xp: Any = jnp if given else np
        x = xp.asarray(x)
        # A device without float64 computes in float32.
        precision = jax.dtypes.canonicalize_dtype(shift.dtype) if given else shift.dtype
        kind = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else precision
        wide = max(kind, precision, key=lambda dtype: dtype.itemsize)
        if shift.shape != x.shape[x.ndim - shift.ndim :]:
            raise ValueError(
                f"`x{jax.tree_util.keystr(path)}` has shape {x.shape}, but the normaliser is of "
                f"features of shape {shift.shape}."
            )
        shift, scale = (xp.broadcast_to(xp.asarray(a, wide), x.shape) for a in (shift, scale))
        return move(x.astype(wide), shift, scale).astype(kind)

    return jax.tree_util.tree_map_with_path(one, x, normaliser.shift, normaliser.scale)
