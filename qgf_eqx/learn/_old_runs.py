"""Checkpoints as older versions saved them: one flow, one critic and one value, side by side."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ..checkpoint import CheckpointError, Held
from ..nn import Encoded, Ensemble, ValueMLP, VelocityMLP
from ._config import TrainConfig
from ._layout import Part, pictures_of
from ._learner import Networks, Spec
from ._units import Units, blank_units
from .loop import TeamState, init_team

# The names of classes and fields are in the files.


class Nets(eqx.Module):
    """The four networks."""

    policy: VelocityMLP | Encoded
    critic: Ensemble
    value: ValueMLP | Encoded
    target: Ensemble


class State(NamedTuple):
    """All that an update changed."""

    nets: Nets
    optimizer: Any
    step: jax.Array


class _NormalisedState(NamedTuple):
    nets: Nets
    optimizer: Any
    step: jax.Array
    units: Units


def read(
    held: Held, config: TrainConfig, layout: tuple[Part, ...]
) -> tuple[Spec, TeamState, Units]:
    """What networks were made for, the state of a team, and the units."""
    spec = _spec(held, config, layout)
    new = eqx.filter_eval_shape(lambda: init_team(config.team, spec, jax.random.key(0)))
    (critic, value), target = new.nets["critic"]
    flow = new.nets["flow"].trained
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    nets = Nets(flow, critic, value, target)
    trained = eqx.filter((flow, critic, value), lambda leaf: hasattr(leaf, "dtype"))
    adam = optax.adam(config.critic.learning_rate)  # type: ignore[attr]
    like = State(nets, jax.eval_shape(adam.init, trained), step)
    units = Units(None, None)
    if {config.normalise_obs, config.normalise_actions} == {"none"}:
        nets, optimizer, step = held.into(like)
    else:
        blank = blank_units(config, spec)
        nets, optimizer, step, units = held.into(_NormalisedState(*like[:3], units=blank))
    moments, *rest = optimizer
    flows = moments._replace(mu=moments.mu[0], nu=moments.nu[0])
    critics = moments._replace(mu=moments.mu[1:], nu=moments.nu[1:])
    flows, critics = jax.tree.map(jnp.array, (flows, critics))  # both have the count: no sharing
    return (
        spec,
        TeamState(
            {
                "critic": Networks((nets.critic, nets.value), nets.target),
                "flow": Networks(nets.policy),
            },
            {"critic": (critics, *rest), "flow": (flows, *rest)},
            step,
        ),
        units,
    )


def _spec(held: Held, config: TrainConfig, layout: tuple[Part, ...]) -> Spec:
    pictures = pictures_of(layout)
    net = ".net" if pictures else ""  # behind its encoder
    try:
        rows = held.arrays[f".nets.value{net}.mlp.layers[0].weight"].shape[-1]
        actions = held.arrays[f".nets.policy{net}.mlp.head.weight"].shape[0]
    except LookupError:
        raise CheckpointError(
            f"{held.path} does not hold the networks of a training run."
        ) from None
    shape = config.horizon, actions // config.horizon
    size = rows - len(pictures) * config.features
    return Spec(size, shape, pictures=pictures, features=config.features)
