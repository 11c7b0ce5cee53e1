"""The units of a run's networks: what observations and actions are divided by, and how they are
called without knowing it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._train_config import TrainConfig
from ._types import Obs
from .data import Dataset, DatasetError, Rows
from .data._dataset import is_picture
from .data.normalise import Normaliser, apply, invert, min_max, standardise
from .nn import PictureShape

_FITS = {"standardise": standardise, "min-max": min_max}


class Units(NamedTuple):
    """The normalisers of a run. None is for what is taken as it is."""

    obs: Normaliser | None
    actions: Normaliser | None

    def to_action(self, flow_action: Any) -> Any:
        """The environment's actions, from actions in the flow's units, with any leading axes."""
        return flow_action if self.actions is None else invert(self.actions, flow_action)

    def from_action(self, action: Any) -> Any:
        """Actions in the flow's units, from the environment's, with any leading axes."""
        return action if self.actions is None else apply(self.actions, action)

    def rows(self, rows: Rows) -> Rows:
        """What the networks are trained on, of rows as they lie in the dataset."""
        if self.obs is not None:
            obs, next_obs = (apply(self.obs, field) for field in (rows.obs, rows.next_obs))
            rows = rows._replace(obs=obs, next_obs=next_obs)
        return rows._replace(actions=self.from_action(rows.actions))


def has_units(config: TrainConfig) -> bool:
    """Whether a run has a normaliser at all."""
    return {config.normalise_obs, config.normalise_actions} != {"none"}


def fit_units(config: TrainConfig, dataset: Dataset) -> Units:
    """The units of a run, from the data that it is trained on: of every state, and of every action
    that led to one."""

    def fit(name: str, features: Any) -> Normaliser | None:
        if name == "none":
            return None

        def whole(x: Any, rows: Any) -> jax.Array:  # a picture's are two numbers
            shape = () if _is_picture(rows) else rows.shape[1:]
            return jnp.asarray(np.broadcast_to(x, shape), jnp.float32)

        return Normaliser(*(jax.tree.map(whole, x, features) for x in _FITS[name](features)))

    used = np.asarray(dataset.episode_end) == 0
    actions = np.asarray(dataset.actions)[used] if config.normalise_actions != "none" else None
    return Units(fit(config.normalise_obs, dataset.obs), fit(config.normalise_actions, actions))


def blank_units(config: TrainConfig, spec: "Spec") -> Units:
    """Units of the same structure and shapes, to load a checkpoint into."""

    def blank(name: str, zeros: Any) -> Normaliser | None:
        return None if name == "none" else Normaliser(zeros, zeros)

    row, pictures = jnp.zeros(spec.obs_size), tuple(jnp.zeros(()) for _ in spec.pictures)
    obs = (row, *pictures) if pictures else row
    actions = jnp.zeros(spec.action_size)
    return Units(blank(config.normalise_obs, obs), blank(config.normalise_actions, actions))


class Part(NamedTuple):
    """One array of an observation."""

    place: str
    """In its PyTree, as `['camera']`."""
    shape: tuple[int, ...]
    picture: bool = False


class Spec(NamedTuple):
    """What networks are made for."""

    obs_size: int
    """How many numbers an observation holds, beside its pictures."""
    action_size: int
    """Of one step."""
    layout: tuple[Part, ...] = ()
    """Of an observation that is not one row of numbers."""

    @property
    def pictures(self) -> tuple[PictureShape, ...]:
        """The shapes of its pictures."""
        return tuple(part.shape for part in self.layout if part.picture)  # type: ignore[misc]

    @property
    def sizes(self) -> tuple[int, int, tuple[PictureShape, ...]]:
        """What `train.init` takes."""
        return self.obs_size, self.action_size, self.pictures


def _is_picture(rows: Any) -> bool:
    return is_picture(rows.dtype, rows.shape[1:])


def join_obs(dataset: Dataset) -> tuple[Dataset, Spec]:
    """The dataset with one row of numbers per state, the arrays of its observations end to end in
    JAX's order, a copy in memory; in a tuple with its pictures, as they lie, if it has some. And
    what networks must be made for.

    **Raises:** `DatasetError` if a picture has its channels first.
    """
    parts, _ = jax.tree_util.tree_flatten_with_path(dataset.obs)
    layout = tuple(
        Part(jax.tree_util.keystr(path), leaf.shape[1:], _is_picture(leaf)) for path, leaf in parts
    )
    action_size = dataset.actions.shape[1]
    if len(layout) == 1 and layout[0].place == "" and len(layout[0].shape) == 1:
        return dataset, Spec(dataset.obs.shape[1], action_size)
    for part in layout:
        if part.picture and part.shape[0] <= 4 < part.shape[2]:
            raise DatasetError(
                f"field `obs{part.place}` holds pictures of shape {part.shape}: their channels "
                "must come last, `(height, width, channels)`. Move the axis, in the data and by a "
                "wrapper in the task's `make_env`."
            )
    leaves = [leaf for _, leaf in parts]
    rows = [np.asarray(x, np.float32).reshape(len(x), -1) for x in leaves if not _is_picture(x)]
    row = np.concatenate(rows or [np.zeros((len(dataset.episode_end), 0), np.float32)], axis=1)
    pictures = [leaf for leaf in leaves if _is_picture(leaf)]
    joined = dataset._replace(obs=(row, *pictures) if pictures else row)
    return joined, Spec(row.shape[1], action_size, layout)


class RealObs(eqx.Module):
    """The encoder in front of a run's networks: real observations, joined and normalised."""

    obs: Normaliser | None
    layout: tuple[Part, ...] = eqx.field(static=True, default=())

    def __call__(self, obs: Obs) -> Any:
        """What a network was trained on, of a real observation."""
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
