"""The units of a run's networks: what observations and actions are divided by."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data import Dataset, Rows
from ..data._dataset import is_picture
from ..data.normalise import Normaliser, apply, invert, min_max, standardise
from ._config import TrainConfig
from ._learner import Spec

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


def fit_units(config: TrainConfig, dataset: Dataset) -> Units:
    """The units of a run, from the data that it is trained on: of every state, and of every action
    that led to one."""

    def fit(name: str, features: Any) -> Normaliser | None:
        if name == "none":
            return None

        def whole(x: Any, rows: Any) -> jax.Array:  # a picture's are two numbers
            shape = () if is_picture(rows.dtype, rows.shape[1:]) else rows.shape[1:]
            return jnp.asarray(np.broadcast_to(x, shape), jnp.float32)

        return Normaliser(*(jax.tree.map(whole, x, features) for x in _FITS[name](features)))

    used = np.asarray(dataset.episode_end) == 0
    actions = np.asarray(dataset.actions)[used] if config.normalise_actions != "none" else None
    return Units(fit(config.normalise_obs, dataset.obs), fit(config.normalise_actions, actions))


def blank_units(config: TrainConfig, spec: Spec) -> Units:
    """Units of the same structure and shapes, to load a checkpoint into."""

    def blank(name: str, zeros: Any) -> Normaliser | None:
        return None if name == "none" else Normaliser(zeros, zeros)

    row, pictures = jnp.zeros(spec.state_size), tuple(jnp.zeros(()) for _ in spec.pictures)
    obs = (row, *pictures) if pictures else row
    actions = jnp.zeros(spec.action_shape[-1])
    return Units(blank(config.normalise_obs, obs), blank(config.normalise_actions, actions))


def action_range(dataset: Dataset, units: Units) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The least and the largest action of the data in each dimension, in the flow's units."""
    used = np.flatnonzero(np.asarray(dataset.episode_end) == 0)
    ranges = []
    for rows in np.array_split(used, max(1, len(used) // 2**16)):  # they may be in files
        actions = np.asarray(dataset.actions[rows], np.float32)
        ranges.append((actions.min(axis=0), actions.max(axis=0)))
    low, high = np.min([r[0] for r in ranges], axis=0), np.max([r[1] for r in ranges], axis=0)
    edges = (np.asarray(units.from_action(edge), np.float32) for edge in (low, high))
    low, high = (tuple(map(float, edge)) for edge in edges)
    return low, high
