"""The methods as one would write them first: plain JAX over the same networks.

What the library is compared with, in cost and in its numbers (`tests/test_plain.py`).
A critic is a stacked ensemble (`stack`), of which the minimum is taken.
Every sampler draws its noise from the same key as `qgf_eqx.sample`, and returns the same action.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from qgf_eqx._types import Action, Key, Obs, Time


def mlp(net: Any, x: Array) -> Array:
    for linear, norm in zip(net.layers, net.norms, strict=True):
        x = linear(x)
        x = jax.nn.gelu(x if norm is None else norm(x))
    return net.head(x)


def velocity(policy: Any, obs: Obs, a_t: Action, t: Time) -> Action:
    inputs = jnp.concatenate([obs, a_t.ravel(), policy.embed(t)])
    return mlp(policy.mlp, inputs).reshape(a_t.shape)


def stack(ensemble: Any) -> Any:
    """The members of an ensemble as one critic whose arrays have a leading axis."""
    stacked = lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0]  # noqa: E731
    return jax.tree.map(stacked, *ensemble.members)


def values(critic: Any, obs: Obs, action: Action) -> Array:
    inputs = jnp.concatenate([obs, action.ravel()])
    return eqx.filter_vmap(lambda member: mlp(member.mlp, inputs)[0])(critic)


def value(critic: Any, obs: Obs, action: Action) -> Array:
    return jnp.min(values(critic, obs, action))


def gradient(critic: Any, obs: Obs, action: Action) -> Action:
    return jax.grad(lambda a: value(critic, obs, a))(action)


def draw_noise(policy: Any, key: Key, i: int | Array = 0) -> Action:
    return jax.random.normal(jax.random.fold_in(key, i), policy.action_shape)


def grid(steps: int) -> Array:
    return jnp.arange(steps) / steps


def walk(field: Callable, a_t: Action, times: Array, steps: int) -> Action:
    return jax.lax.scan(lambda a, t: (a + field(a, t) / steps, None), a_t, times)[0]


def guided(guidance, policy, critic, obs, noise, *, weight=0.1, steps=10):
    def field(a_t, t):
        g = guidance(policy, critic, obs, a_t, t)
        return velocity(policy, obs, a_t, t) + weight * g

    return walk(field, noise, grid(steps), steps)


def ood_gradient(policy, critic, obs, a_t, t):
    return gradient(critic, obs, a_t)


def qgf_gradient(policy, critic, obs, a_t, t):
    return gradient(critic, obs, a_t + (1 - t) * velocity(policy, obs, a_t, t))


def jacobian_gradient(policy, critic, obs, a_t, t):
    def leap(a):
        return a + (1 - t) * velocity(policy, obs, a, t)

    jacobian = jax.jacrev(leap)(a_t)
    return jnp.tensordot(gradient(critic, obs, leap(a_t)), jacobian, a_t.ndim)


def flow(policy, critic, obs, key, *, i=0, steps=10):
    noise = draw_noise(policy, key, i)
    return walk(lambda a, t: velocity(policy, obs, a, t), noise, grid(steps), steps)


def ood(policy, critic, obs, key, **options):
    return guided(ood_gradient, policy, critic, obs, draw_noise(policy, key), **options)


def qgf(policy, critic, obs, key, *, i=0, **options):
    return guided(qgf_gradient, policy, critic, obs, draw_noise(policy, key, i), **options)


def qgf_jacobian(policy, critic, obs, key, **options):
    return guided(jacobian_gradient, policy, critic, obs, draw_noise(policy, key), **options)


def bptt(policy, critic, obs, key, *, weight=0.1, steps=10):
    a_t, times = draw_noise(policy, key), grid(steps)

    def field(a, t):
        return velocity(policy, obs, a, t)

    for k in range(steps):

        def outcome(a, rest=times[k:]):
            return value(critic, obs, walk(field, a, rest, steps))

        a_t = a_t + (field(a_t, times[k]) + weight * jax.grad(outcome)(a_t)) / steps
    return a_t


def best_of(sampler, count, policy, critic, obs, key, **options):
    actions = jax.vmap(lambda i: sampler(policy, critic, obs, key, i=i, **options))(
        jnp.arange(count)
    )
    return actions[jnp.argmax(jax.vmap(lambda a: value(critic, obs, a))(actions))]


SAMPLERS = {
    "flow": flow,
    "ood": ood,
    "qgf": qgf,
    "qgf-jacobian": qgf_jacobian,
    "bptt": bptt,
    **{f"best-of-{n}": partial(best_of, flow, n) for n in (4, 16, 32)},
    **{f"qgf-best-of-{n}": partial(best_of, qgf, n) for n in (4, 16)},
}


def chunks(dataset, starts, horizon, gamma):
    """Transitions of `horizon` steps, cut by NumPy on the host."""
    last, end = starts + horizon, len(dataset.episode_end) - 1
    rows = np.minimum(starts[:, None] + np.arange(horizon), end)
    whole = (dataset.episode_end[rows] == 0).all(axis=1) & (last <= end)
    return (
        dataset.obs[starts],
        dataset.actions[rows],
        (dataset.rewards[rows] * gamma ** np.arange(horizon)).sum(axis=1),
        gamma**horizon * (1 - dataset.terminated[rows].max(axis=1)),
        dataset.obs[np.minimum(last, end)],
        whole.astype(dataset.rewards.dtype),
    )


def losses(trained, target, chunk, key, expectile):
    policy, critic, net = trained
    obs, action, reward, discount, next_obs, weight = chunk
    noise_key, time_key = jax.random.split(key)
    noise, t = jax.random.normal(noise_key, action.shape), jax.random.uniform(time_key)
    v = velocity(policy, obs, (1 - t) * noise + t * action, t)
    backup = jax.lax.stop_gradient(reward + discount * mlp(net.mlp, next_obs)[0])
    difference = jax.lax.stop_gradient(value(target, obs, action)) - mlp(net.mlp, obs)[0]
    return weight * (
        jnp.mean((v - (action - noise)) ** 2)
        + jnp.mean((values(critic, obs, action) - backup) ** 2)
        + jnp.abs(expectile - (difference < 0)) * difference**2
    )


@eqx.filter_jit
def update(nets, optimizer_state, chunk, key, config):
    """One gradient step on `nets`: the policy, the critic, the value and the target critic."""
    *trained, target = nets
    keys = jax.random.split(key, config.batch)

    def loss(trained):
        one = lambda chunk, key: losses(trained, target, chunk, key, config.critic.expectile)  # noqa: E731
        return jnp.mean(jax.vmap(one)(chunk, keys))

    gradients = eqx.filter_grad(loss)(trained)
    adam = optax.adam(config.critic.learning_rate)
    changes, optimizer_state = adam.update(gradients, optimizer_state)
    policy, critic, net = eqx.apply_updates(trained, changes)
    average = lambda old, new: (  # noqa: E731
        old + config.critic.ema_rate * (new - old) if eqx.is_inexact_array(old) else old
    )
    return (policy, critic, net, jax.tree.map(average, target, critic)), optimizer_state


def stacked(state):
    """The library's networks, of a flow and IQL, as these functions take them."""
    (critic, net), target = state.nets["critic"]
    return state.nets["flow"].trained, stack(critic), net, stack(target)


def init_optimizer(nets, config):
    *trained, _ = nets
    return optax.adam(config.critic.learning_rate).init(eqx.filter(trained, eqx.is_inexact_array))


def train(
    nets: tuple, optimizer_state: Any, dataset: Any, rng: Any, count: int, config: Any
) -> tuple:
    """`count` updates: a batch is drawn on the host and sent to the device for each."""
    for _ in range(count):
        starts = rng.integers(len(dataset.episode_end), size=config.batch)
        chunk = chunks(dataset, starts, config.horizon, config.gamma)
        key = jax.random.key(rng.integers(2**31))
        nets, optimizer_state = update(nets, optimizer_state, chunk, key, config)
    return nets, optimizer_state
