"""How an observation of several arrays becomes what networks are made for: one row of numbers, and
its pictures."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Obs
from ..data import Dataset, DatasetError
from ..data._dataset import is_picture
from ..data.normalise import Normaliser, apply
from ..nn import PictureShape


class Part(NamedTuple):
    """One array of an observation."""

    place: str
    """In its PyTree, as `['camera']`."""
    shape: tuple[int, ...]
    picture: bool = False


def parts_of(found: Iterable) -> tuple[Part, ...]:
    """The parts of what JSON holds."""
    return tuple(
        Part(str(place), tuple(map(int, shape)), *map(bool, is_picture))
        for place, shape, *is_picture in found  # an older version had no pictures
    )


def pictures_of(layout: tuple[Part, ...]) -> tuple[PictureShape, ...]:
    """The shapes of an observation's pictures."""
    return tuple(part.shape for part in layout if part.picture)  # type: ignore[misc]


def example_of(layout: tuple[Part, ...], size: int) -> Obs:
    """Zeros like an observation: of `size` numbers, or of its parts.

    **Raises:** `ValueError` if its containers are neither dicts, lists nor tuples.
    """
    if not layout:
        return np.zeros(size, np.float32)
    tree: dict[Any, Any] = {}
    for part in layout:
        steps = re.findall(r"\['([^']*)'\]|\[(\d+)\]", part.place)
        if "".join(f"['{n}']" if n else f"[{i}]" for n, i in steps) != part.place:
            raise ValueError(f"no example can be made of the observation's part `{part.place}`.")
        at = tree
        for name, number in steps[:-1]:
            at = at.setdefault(name or int(number), {})
        dtype = np.uint8 if part.picture else np.float32
        at[steps[-1][0] or int(steps[-1][1])] = np.zeros(part.shape, dtype)
    return _as_containers(tree)


def _as_containers(tree: Any) -> Any:
    """Dicts of numbers as tuples."""
    if not isinstance(tree, dict):
        return tree
    inner = {key: _as_containers(value) for key, value in tree.items()}
    return (
        tuple(inner[i] for i in sorted(inner)) if all(isinstance(k, int) for k in inner) else inner
    )


def join_obs(dataset: Dataset) -> tuple[Dataset, tuple[Part, ...]]:
    """The dataset with one row of numbers per state, the arrays of its observations end to end in
    JAX's order, a copy in memory; in a tuple with its pictures, as they lie, if it has some. And
    the layout, which is empty of an observation that is one row already.

    **Raises:** `DatasetError` if a picture has its channels first.
    """
    parts, _ = jax.tree_util.tree_flatten_with_path(dataset.obs)
    layout = tuple(
        Part(
            jax.tree_util.keystr(path),
            leaf.shape[1:],
            is_picture(leaf.dtype, leaf.shape[1:]),
        )
        for path, leaf in parts
    )
    if len(layout) == 1 and layout[0].place == "" and len(layout[0].shape) == 1:
        return dataset, ()
    for part in layout:
        first, second, last = part.shape if part.picture else (0, 0, 0)
        if first <= 4 < last or first < second == last:
            raise DatasetError(
                f"field `obs{part.place}` holds pictures of shape {part.shape}: their channels "
                "must come last, `(height, width, channels)`. Move the axis, in the data and by a "
                "wrapper in the task's `make_env`."
            )
    leaves = list(zip([leaf for _, leaf in parts], layout, strict=True))
    rows = [np.asarray(x, np.float32).reshape(len(x), -1) for x, part in leaves if not part.picture]
    row = np.concatenate(rows or [np.zeros((len(dataset.episode_end), 0), np.float32)], axis=1)
    pictures = [leaf for leaf, part in leaves if part.picture]
    return dataset._replace(obs=(row, *pictures) if pictures else row), layout


class RealObs(eqx.Module):
    """The encoder in front of a run's networks: real observations, joined and normalised."""

    obs: Normaliser | None
    layout: tuple[Part, ...] = eqx.field(static=True, default=())
    with_goal: bool = eqx.field(static=True, default=False)
    """Whether an observation is a state and its goal."""

    def __call__(self, obs: Obs) -> Any:
        """What a network was trained on, of a real observation."""
        if not self.with_goal:
            return self._state(obs)
        try:
            state, goal = obs
        except (TypeError, ValueError):
            raise ValueError("`obs` must be `(state, goal)`: this run has goals.") from None
        goal = jnp.ravel(goal if self.obs is None else apply(self.obs, goal))
        return jnp.concatenate([self._state(state), goal])

    def _state(self, obs: Obs) -> Any:
        if self.layout:
            parts, _ = jax.tree_util.tree_flatten_with_path(obs)
            found = [(jax.tree_util.keystr(path), jnp.shape(leaf)) for path, leaf in parts]
            wanted = [(part.place, part.shape) for part in self.layout]
            if found != wanted:
                raise ValueError(
                    f"`obs` has {_text(found)}, and the networks were trained on {_text(wanted)}."
                )
            pairs = [
                (leaf, part.picture) for (_, leaf), part in zip(parts, self.layout, strict=True)
            ]
            row = [jnp.ravel(leaf) for leaf, picture in pairs if not picture]
            pictures = [jnp.asarray(leaf) for leaf, picture in pairs if picture]
            obs = jnp.concatenate(row or [jnp.zeros(0)])
            obs = (obs, *pictures) if pictures else obs
        return obs if self.obs is None else apply(self.obs, obs)


def _text(parts: list) -> str:
    return ", ".join(f"`obs{place}` of shape {shape}" for place, shape in parts) or "no arrays"
