"""The losses, each on one transition: `vmap` and `mean` are the caller's.

The model that is differentiated comes first; everything else is held constant.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PyTree, Scalar

from ._checks import (
    as_floats,
    as_number,
    as_scalar,
    check_between,
    check_key,
    check_same_shape,
)
from ._fields import ask, timed_value, velocity
from ._fields import critic as value_of
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
    a_t, t, target = noisy_point(action, key, time)
    return jnp.mean(jnp.square(velocity(policy, obs, a_t, t) - target))


def noisy_point(
    action: Action, key: Key, time: Callable[[Key], Scalar] = uniform_time
) -> tuple[Action, Scalar, Action]:
    """A point on the flow to an action: `a_t = (1-t) a_0 + t a_1`, its time, and the velocity
    `a_1 - a_0` that points there.

    **Arguments:**

    - `action`: `a_1`.
    - `key`: for the noise `a_0 ~ N(0, I)` and the time.
    - `time`: how the time is drawn.

    **Returns:** `a_t`, `t` and `a_1 - a_0`.
    """
    check_key(key)
    action = as_floats("action", action)
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    t = jnp.asarray(as_number("time", ask("time", time, key=time_key), action.dtype))
    return (1 - t) * noise + t * action, t, action - noise


def expectile_loss(difference: Scalar, expectile: float | int) -> Scalar:
    """The asymmetric square `|expectile - 1[difference < 0]| difference^2`.

    Its minimiser moves from the mean (`expectile = 0.5`) to the maximum (`expectile -> 1`).

    **Raises:** `ValueError` if `expectile` is not in (0, 1).
    """
    check_between("expectile", expectile, 0, 1, open=True)
    return jnp.where(difference < 0, 1 - expectile, expectile) * jnp.square(difference)


def iql_value(
    value: Value,
    target: Critic,
    obs: Obs,
    action: Action,
    *,
    expectile: float | int = 0.9,
    tau: float | int | None = None,
) -> Scalar:
    """Implicit Q-learning's value loss: `expectile_loss(Q_target(obs, action) - V(obs))`.

    **Arguments:**

    - `value`: the state value to train.
    - `target`: the target critic, reduced over its ensemble.
    - `obs`, `action`: of one transition.
    - `expectile`: in (0, 1), the higher the closer to the best action of the data.
    - `tau`: the old name of `expectile`, for one version.
    """
    if tau is not None:
        _warn("`tau` is now `expectile`")
        expectile = tau
    now = as_scalar("value", ask("value", value, obs=obs))
    return expectile_loss(stop_gradient(value_of(target, obs, action)) - now, expectile)


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
    later = as_scalar("value", ask("value", value, obs=next_obs))
    backup = stop_gradient(
        as_scalar("reward", reward, "is") + as_scalar("discount", discount, "is") * later
    )
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
    later = value_of(target, next_obs, next_action)
    backup = stop_gradient(
        as_scalar("reward", reward, "is") + as_scalar("discount", discount, "is") * later
    )
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
    check_between("temperature", temperature, 0, jnp.inf, open=True)
    a_t, t, _ = noisy_point(action, key, time)
    temperature = as_number("temperature", temperature, a_t.dtype)
    value = timed_value(robust, obs, a_t, t)
    return loss((stop_gradient(value_of(target, obs, action)) - value) / temperature)


def cfgrl(
    policy: Velocity,
    advantage: Scalar,
    obs: Obs,
    action: Action,
    key: Key,
    *,
    time: Callable[[Key], Scalar] = uniform_time,
    share: float | Array = 0.1,
) -> Scalar:
    """CFGRL's loss: flow matching on the condition "better than the state's value", and,
    with weight `share`, on none: `1[advantage > 0] L(policy | 1) + share L(policy | 0)`.

    The policy is called with the observation `(obs, condition)`, the condition being 1 or 0, as
    by `steering.ClassifierFree`, which samples it. Arguments and return as for `flow_matching`, and

    - `advantage`: `Q(obs, action) - V(obs)`; nothing is differentiated through it.
    - `share`: of the unconditioned loss.

    Source: CFGRL, with the constants of arXiv 2606.11087.
    """
    a_t, t, target = noisy_point(action, key, time)

    def error(condition):
        v = velocity(policy, (obs, jnp.full((), condition, a_t.dtype)), a_t, t)
        return jnp.mean(jnp.square(v - target))

    better = (stop_gradient(as_scalar("advantage", advantage, "is")) > 0).astype(a_t.dtype)
    share = as_number("share", share, a_t.dtype)
    return better * error(1) + share * error(0)


def polyak(target: _Model, online: _Model, rate: float | Array) -> _Model:
    """The moving average `(1 - rate) target + rate online`, on every array of a model.

    **Raises:** `ValueError` if the two models differ in structure or in the shape of an array, or
    if `rate` is not one number in [0, 1].
    """
    check_between("rate", rate, 0, 1)
    arrays, static = eqx.partition(target, eqx.is_inexact_array)
    others = eqx.filter(online, eqx.is_inexact_array)
    if jax.tree.structure(arrays) != jax.tree.structure(others):
        raise ValueError("`target` and `online` must be models of the same structure.")

    def mix(path, old, new):
        place = jax.tree_util.keystr(path)
        check_same_shape(f"online{place}", new.shape, f"target{place}", old.shape)
        share = as_number("rate", rate, old.dtype)
        return (1 - share) * old + share * new.astype(old.dtype)

    return eqx.combine(jax.tree_util.tree_map_with_path(mix, arrays, others), static)


def discounted_sum(rewards: Float[Array, " horizon"], discount: float | Array) -> Scalar:
    """`sum_i discount^i rewards[i]`, the reward of a chunk.

    **Raises:** `ValueError` if `rewards` is not a vector of floats.
    """
    rewards = as_floats("rewards", rewards)
    if rewards.ndim != 1:
        raise ValueError(f"`rewards` must be a vector, got an array of shape {rewards.shape}.")
    discount = as_number("discount", discount, rewards.dtype)
    return jnp.sum(rewards * discount ** jnp.arange(len(rewards), dtype=rewards.dtype))


def __getattr__(name: str) -> Any:  # the old name of `expectile_loss`, for one version
    if name != "expectile":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _warn("`objectives.expectile` is now `objectives.expectile_loss`")
    return lambda difference, tau: expectile_loss(difference, tau)


def _warn(change: str) -> None:
    message = f"{change}; the old name goes with the next version."
    warnings.warn(message, DeprecationWarning, stacklevel=3)
