"""Methods whose options are fixed by their name: functions of a module, so that they have a name
of their own, can be sent to workers, and do not recompile.

Their keys are constants: the noises of `monte_carlo` and `jacobian_smooth` are the same in every
step, and `random_direction` hashes the point on the flow.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .. import guidance
from .._fields import Bounded, asked_at
from .._sample import sample
from .._types import Action, Critic, Guidance, Key, Obs, Policy, Time, Velocity
from ..analysis import starting_weight
from ..steering import fk_steering, grad_step
from ..weights import LinearDecay, NormMatched


def look_ahead_2(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`guidance.look_ahead` of two steps."""
    return guidance.look_ahead(policy, critic, obs, a_t, t, steps=2)


def look_ahead_4(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`guidance.look_ahead` of four steps."""
    return guidance.look_ahead(policy, critic, obs, a_t, t, steps=4)


def curvature(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`guidance.curvature` at a temperature of 1."""
    return guidance.curvature(policy, critic, obs, a_t, t)


def monte_carlo(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`guidance.monte_carlo` of 16 noises at a temperature of 1."""
    return guidance.monte_carlo(policy, critic, obs, a_t, t, key=jax.random.key(0))


def jacobian_smooth(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`guidance.jacobian_smooth` of 16 noises."""
    return guidance.jacobian_smooth(policy, critic, obs, a_t, t, key=jax.random.key(0))


def random_direction(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`guidance.random_direction` as strong as `qgf`."""
    return guidance.random_direction(policy, critic, obs, a_t, t, key=jax.random.key(0))


def gated(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`guidance.gated` by the members of the ensemble that the critic is made of.

    **Raises:** `TypeError` if the critic is not made of an ensemble.
    """
    inner = critic.critic if isinstance(critic, Bounded) else critic
    values = getattr(inner, "values", None)
    if values is None:
        raise TypeError("`gated` needs a critic with `values(obs, action)`, of an ensemble.")
    return guidance.gated(policy, critic, obs, a_t, t, values=values)


def grad_steps(
    policy: Policy,
    critic: Critic,
    obs: Obs,
    key: Key,
    *,
    guidance: Guidance,
    weight: float | LinearDecay,
    steps: int,
    best_of: int,
) -> Action:
    """`sample` of the plain flow, then `steering.grad_step` of size `weight`."""
    action = sample(policy, critic, obs, key, weight=0, steps=steps, best_of=best_of)
    return grad_step(critic, obs, action, size=_number("grad-step", weight))


def norm_matched(
    policy: Policy, critic: Critic, obs: Obs, key: Key, *, weight: Any, **options: Any
) -> Action:
    """`sample` with guidance of 0.3 of the velocity's norm, the middle of what QPILOTS uses."""
    return sample(policy, critic, obs, key, weight=NormMatched(0.3), **options)


def spread_matched(
    policy: Policy, critic: Critic, obs: Obs, key: Key, *, weight: Any, **options: Any
) -> Action:
    """`sample` with `analysis.starting_weight` of this observation alone, from four plain
    actions."""
    one, more = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], obs), jax.random.fold_in(key, 1)
    start = starting_weight(policy, critic, one, more, noises=4)
    start = jnp.where(start == jnp.inf, 0, start)  # where the critic has no slope
    return sample(policy, critic, obs, key, weight=start, **options)


def fk(
    policy: Policy,
    critic: Critic,
    obs: Obs,
    key: Key,
    *,
    guidance: Guidance,
    weight: float | LinearDecay,
    steps: int,
    best_of: int,
) -> Action:
    """`steering.fk_steering` at the temperature `1 / weight`."""
    weight = _number("fk-steering", weight)
    if weight == 0:
        return sample(policy, critic, obs, key, weight=0, steps=steps)
    action = fk_steering(policy, critic, obs, key, temperature=1 / weight, steps=steps)
    return asked_at(critic, jnp.asarray(action))


def _number(name: str, weight: float | LinearDecay) -> float:
    if isinstance(weight, LinearDecay):
        raise ValueError(f"`{name}` takes a number as its weight, not a decay.")
    return weight
