"""The losses, each on one transition: `vmap` and `mean` are the caller's.

The model that is differentiated comes first; everything else is held constant.
"""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree, Scalar

from ._fields import critic as value_of
from ._fields import velocity
from ._types import Action, Critic, Key, Obs, Value, Velocity

_Model = TypeVar("_Model", bound=PyTree)


def uniform_time(key: Key) -> Scalar:
    """A flow time drawn from U[0, 1]: the velocity is then right at every time."""
    return jax.random.uniform(key)


def grid_time(key: Key, *, steps: int = 10) -> Scalar:
    """A flow time drawn from `{0, 1/steps, ..., 1}`: the authors' choice, for parity only."""
    return jax.random.randint(key, (), 0, steps + 1) / steps


def flow_matching(
    policy: Velocity,
    obs: Obs,
    action: Action,
    key: Key,
    *,
    time: Callable[[Key], Scalar] = uniform_time,
) -> Scalar:
    """Behaviour cloning as a flow: `mean || v(obs, (1-t) a_0 + t a_1, t) - (a_1 - a_0) ||^2`.

    **Arguments:**

    - `policy`: the velocity field to train.
    - `obs`, `action`: of one transition; `action` is `a_1`.
    - `key`: for the noise `a_0 ~ N(0, I)` and the time.
    - `time`: how the time is drawn.

    **Returns:** the squared error, averaged over the action's dimensions.
    """
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    t = time(time_key).astype(action.dtype)
    a_t = (1 - t) * noise + t * action
    return jnp.mean(jnp.square(velocity(policy, obs, a_t, t) - (action - noise)))


def expectile(difference: Scalar, tau: float) -> Scalar:
    """The asymmetric square `|tau - 1[difference < 0]| difference^2`.

    Its minimiser moves from the mean (`tau = .5`) to the maximum (`tau -> 1`).
    """
    return jnp.where(difference < 0, 1 - tau, tau) * jnp.square(difference)


def iql_value(
    value: Value, target: Critic, obs: Obs, action: Action, *, tau: float = 0.9
) -> Scalar:
    """Implicit Q-learning's value loss: `expectile(Q_target(obs, action) - V(obs), tau)`.

    **Arguments:**

    - `value`: the state value to train.
    - `target`: the target critic, reduced over its ensemble.
    - `obs`, `action`: of one transition.
    - `tau`: the expectile.
    """
    return expectile(stop_gradient(value_of(target, obs, action)) - value(obs), tau)


def iql_critic(
    critic: Critic,
    value: Value,
    obs: Obs,
    action: Action,
    reward: Scalar,
    discount: Scalar,
    next_obs: Obs,
) -> Scalar:
    """Implicit Q-learning's critic loss: `(Q(obs, action) - (r + discount V(next_obs)))^2`.

    **Arguments:**

    - `critic`: one member of the ensemble, to train.
    - `value`: the state value.
    - `obs`, `action`, `next_obs`: of one transition, or of a chunk of H steps.
    - `reward`: the discounted sum of the chunk's rewards.
    - `discount`: `gamma^H`, or 0 where the task was solved inside the chunk.
    """
    backup = stop_gradient(reward + discount * value(next_obs))
    return jnp.square(value_of(critic, obs, action) - backup)


def td_critic(
    critic: Critic,
    target: Critic,
    obs: Obs,
    action: Action,
    reward: Scalar,
    discount: Scalar,
    next_obs: Obs,
    next_action: Action,
) -> Scalar:
    """The TD loss `(Q(obs, action) - (r + discount Q_target(next_obs, next_action)))^2`.

    Arguments as for `iql_critic`, and `target`, a critic already reduced to a scalar (QAM:
    mean minus rho standard deviations of ten), with `next_action` drawn from the policy.
    """
    backup = stop_gradient(reward + discount * value_of(target, next_obs, next_action))
    return jnp.square(value_of(critic, obs, action) - backup)


def polyak(target: _Model, online: _Model, rate: float) -> _Model:
    """The moving average `(1 - rate) target + rate online`, on every array of a model."""
    arrays, static = eqx.partition(target, eqx.is_inexact_array)
    mixed = jax.tree.map(
        lambda old, new: (1 - rate) * old + rate * new,
        arrays,
        eqx.filter(online, eqx.is_inexact_array),
    )
    return eqx.combine(mixed, static)


def discounted_sum(rewards: Float[Array, " horizon"], discount: float) -> Scalar:
    """`sum_i discount^i rewards[i]`, the reward of a chunk."""
    return jnp.sum(rewards * discount ** jnp.arange(len(rewards), dtype=rewards.dtype))
