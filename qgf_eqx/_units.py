"""The units of a run's networks: what observations and actions are divided by, and how they are
called without knowing it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._fields import given
from ._train_config import TrainConfig
from ._types import Obs
from .data import Dataset, Rows
from .data.normalise import Normaliser, apply, invert, min_max, standardise

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
        fitted, shape = _FITS[name](features), features.shape[1:]
        return jax.tree.map(lambda x: jnp.asarray(np.broadcast_to(x, shape), jnp.float32), fitted)

    used = np.asarray(dataset.episode_end) == 0
    actions = np.asarray(dataset.actions)[used] if config.normalise_actions != "none" else None
    return Units(fit(config.normalise_obs, dataset.obs), fit(config.normalise_actions, actions))


def blank_units(config: TrainConfig, obs_size: int, action_size: int) -> Units:
    """Units of the same structure and shapes, to load a checkpoint into."""

    def blank(name: str, size: int) -> Normaliser | None:
        return None if name == "none" else Normaliser(jnp.zeros(size), jnp.ones(size))

    return Units(
        blank(config.normalise_obs, obs_size), blank(config.normalise_actions, action_size)
    )


class OfRealObs(eqx.Module):
    """A network of normalised observations, to be called with real ones."""

    net: Any
    obs: Normaliser

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of the network."""
        return self.net.action_shape

    def given(self, obs: Obs) -> "_Given":
        """The network at one observation, which is normalised once."""
        seen = apply(self.obs, obs)
        return _Given(given(self.net, seen), seen)

    def __call__(self, obs: Obs, *point: Any) -> Any:
        """What the network says of a real observation."""
        return self.net(apply(self.obs, obs), *point)


class _Given(eqx.Module):
    net: Any
    seen: Any

    def __call__(self, obs: Obs, *point: Any) -> Any:
        return self.net(self.seen, *point)
