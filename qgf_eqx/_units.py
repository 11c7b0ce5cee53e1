"""The units of a run's networks: what observations and actions are divided by, and how they are
called without knowing it."""

from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._fields import given
from ._train_config import TrainConfig
from ._types import Obs
from .data import Dataset, DatasetError, Rows
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


Layout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Of an observation that is not one row of numbers: where each array stands, and its shape."""


def join_obs(dataset: Dataset) -> tuple[Dataset, Layout]:
    """The dataset with one row of numbers per state: the arrays of its observations end to end, in
    JAX's order, a copy in memory; and their layout, which is empty if they were that before.

    **Raises:** `DatasetError` if there is a picture, which no network here takes.
    """
    parts, _ = jax.tree_util.tree_flatten_with_path(dataset.obs)
    layout = tuple((jax.tree_util.keystr(path), leaf.shape[1:]) for path, leaf in parts)
    if len(layout) == 1 and layout[0][0] == "" and len(layout[0][1]) == 1:
        return dataset, ()
    for (place, _), (_, leaf) in zip(layout, parts, strict=True):
        if leaf.dtype == np.uint8 and leaf.ndim > 3:
            raise DatasetError(
                f"field `obs{place}` holds pictures, and the networks here take numbers. Leave it "
                "out, in the data and by a wrapper in the task's `make_env`."
            )
    rows = [np.asarray(leaf, np.float32).reshape(len(leaf), -1) for _, leaf in parts]
    return dataset._replace(obs=np.concatenate(rows, axis=1)), layout


class OfRealObs(eqx.Module):
    """A network of one row of normalised numbers, to be called with real observations."""

    net: Any
    obs: Normaliser | None
    layout: Layout = eqx.field(static=True, default=())

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of the network."""
        return self.net.action_shape

    def given(self, obs: Obs) -> "_Given":
        """The network at one observation, which is brought to its units once."""
        seen = self._seen(obs)
        return _Given(given(self.net, seen), seen)

    def __call__(self, obs: Obs, *point: Any) -> Any:
        """What the network says of a real observation."""
        return self.net(self._seen(obs), *point)

    def _seen(self, obs: Obs) -> Any:
        if self.layout:
            parts, _ = jax.tree_util.tree_flatten_with_path(obs)
            found = tuple((jax.tree_util.keystr(path), jnp.shape(leaf)) for path, leaf in parts)
            if found != self.layout:
                raise ValueError(
                    f"`obs` has {_text(found)}, and the networks were trained on "
                    f"{_text(self.layout)}."
                )
            obs = jnp.concatenate([jnp.ravel(leaf) for _, leaf in parts])
        return obs if self.obs is None else apply(self.obs, obs)


def _text(layout: Layout) -> str:
    return ", ".join(f"`obs{place}` of shape {shape}" for place, shape in layout) or "no arrays"


class _Given(eqx.Module):
    net: Any
    seen: Any

    def __call__(self, obs: Obs, *point: Any) -> Any:
        return self.net(self.seen, *point)
