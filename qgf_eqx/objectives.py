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
from ._types import Action, Critic, Key, Obs, TimedCritic, Value, Velocity

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
    a_t, t, target = _point_on_the_flow(action, key, time)
    return jnp.mean(jnp.square(velocity(policy, obs, a_t, t) - target))


def _point_on_the_flow(action, key, time):
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    t = time(time_key).astype(action.dtype)
    return (1 - t) * noise + t * action, t, action - noise


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


def linex(difference: Scalar) -> Scalar:
    """The LinEx loss `exp(difference) - difference - 1`.

    With `difference = target - prediction` its minimiser is the soft value
    `log E[exp target]`, where a square's is the mean. For targets in units of their temperature:
    its gradient explodes with differences far above 1.
    """
    return jnp.expm1(difference) - difference


def robust_critic(
    robust: TimedCritic,
    target: Critic,
    obs: Obs,
    action: Action,
    key: Key,
    *,
    time: Callable[[Key], Scalar] = uniform_time,
    loss: Callable[[Scalar], Scalar] = jnp.square,
    temperature: float | Array = 1.0,
) -> Scalar:
    """The loss of a critic of noisy actions:
    `loss((Q_target(obs, a_1) - Q_r(obs, (1-t) a_0 + t a_1, t)) / temperature)`.

    With squares the minimiser is `E[Q | a_t]`, with `linex` it is the soft value
    `temperature log E[exp(Q / temperature) | a_t]`; its gradient guides as `guidance.robust`.

    **Arguments:**

    - `robust`: the critic `(obs, a_t, t) -> scalar` to train.
    - `target`: the critic of clean actions, reduced to a scalar.
    - `obs`, `action`: of one transition; `action` is `a_1`, from the data.
    - `key`: for the noise `a_0 ~ N(0, I)` and the time.
    - `time`: how the time is drawn.
    - `loss`: `jnp.square` or `linex`.
    - `temperature`: in units of Q.

    **Raises:** `ValueError` if `robust` returns no scalar.

    Source: RobustQ, a baseline of arXiv 2606.11087.
    """
    a_t, t, _ = _point_on_the_flow(action, key, time)
    value = value_of(lambda obs, a: robust(obs, a, t), obs, a_t)
    return loss((stop_gradient(value_of(target, obs, action)) - value) / temperature)


def cfgrl(
    policy: Velocity,
    advantage: Scalar,
    obs: Obs,
    action: Action,
    key: Key,
    *,
    time: Callable[[Key], Scalar] = uniform_time,
    share: float = 0.1,
) -> Scalar:
    """CFGRL's loss: flow matching on the condition "better than the state's value", and,
    with weight `share`, on none: `1[advantage > 0] L(policy | 1) + share L(policy | 0)`.

    The policy is called with the observation `(obs, condition)`, the condition being 1 or 0, as
    by `steering.ClassifierFree`, which samples it. Arguments and return as for `flow_matching`, and

    - `advantage`: `Q(obs, action) - V(obs)`; nothing is differentiated through it.
    - `share`: of the unconditioned loss.

    Source: CFGRL, with the constants of arXiv 2606.11087.
    """
    a_t, t, target = _point_on_the_flow(action, key, time)

    def error(condition):
        v = velocity(policy, (obs, jnp.full((), condition, action.dtype)), a_t, t)
        return jnp.mean(jnp.square(v - target))

    better = (stop_gradient(advantage) > 0).astype(action.dtype)
    return better * error(1) + share * error(0)


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
