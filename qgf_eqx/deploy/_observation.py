"""The observations of a control loop: like the one that it was made with, or an error."""

from typing import Any

import jax
import numpy as np

from .._checks import check_readable
from .._types import Obs


class Expected:
    """What observations must look like."""

    def __init__(self, example: Obs):
        check_readable(example)
        self.example = example
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(example)
        self.paths = [f"obs{jax.tree_util.keystr(path)}" for path, _ in leaves]
        self.leaves = [np.asarray(leaf) for _, leaf in leaves]

    def __call__(self, obs: Obs) -> Obs:
        """The observation, its leaves in the dtypes of the example's.

        **Raises:** `ValueError` or `TypeError` that names the leaf and what was expected.
        """
        if isinstance(obs, dict) and isinstance(self.example, dict):
            for said, names in (
                ("lacks", self.example.keys() - obs.keys()),
                ("must not have", obs.keys() - self.example.keys()),
            ):
                if names:
                    raise ValueError(f"`obs` {said} {', '.join(sorted(map(repr, names)))}.")
        check_readable(obs)
        leaves, structure = jax.tree.flatten(obs)
        if structure != self.structure:
            raise ValueError(f"`obs` must be {_kind(self.example)}, got {_kind(obs)}.")
        parts = zip(self.paths, self.leaves, leaves, strict=True)
        return jax.tree.unflatten(structure, [_cast(*part) for part in parts])


def _kind(obs: Obs) -> str:
    """What an observation is, for people."""
    if isinstance(obs, dict):
        return f"a dict of {', '.join(map(repr, sorted(obs, key=str)))}"
    if isinstance(obs, list | tuple):
        return f"a {type(obs).__name__} of {len(obs)}"
    return "an array" if hasattr(obs, "shape") else f"a {type(obs).__name__}"


def _cast(path: str, like: np.ndarray, leaf: Any) -> np.ndarray:
    found = np.asarray(leaf)
    if found.shape != like.shape:
        raise ValueError(f"`{path}` must have shape {like.shape}, got {found.shape}.")
    if like.dtype.kind in "iub":
        if found.dtype.kind not in "iub":
            raise TypeError(f"`{path}` must be {like.dtype}, got {found.dtype}.")
        with np.errstate(all="ignore"):
            cast = found.astype(like.dtype)
        wrong = np.argwhere(cast != found)
        if len(wrong):
            index = tuple(wrong[0].tolist())
            raise ValueError(
                f"`{path}{list(index) if index else ''}` is {found[index]}, beyond {like.dtype}."
            )
        return cast
    return found.astype(like.dtype)
