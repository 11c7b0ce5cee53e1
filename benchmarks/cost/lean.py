"""The methods as someone writes them who knows how: the opponent that a ratio should be against.

Kernels as (in, out), an ensemble of two stacked and `vmap`ped, one velocity for the step and for
the leap, a vector-Jacobian product in place of the Jacobian, no gradient that nobody needs, and
one compiled call. Normalisation by the mean of squares, as Flax has it. Where `plain` is lean
already, its functions serve here too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qgf_eqx._types import Action, Key, Obs, Time

from . import plain


def normalise(norm: Any, x: Array) -> Array:
    mean = jnp.mean(x)
    variance = jnp.maximum(jnp.mean(x * x) - mean * mean, 0)
    return (x - mean) * (jax.lax.rsqrt(variance + norm.eps) * norm.weight) + norm.bias


def mlp(net: Any, x: Array) -> Array:
    for dense, norm in zip(net.layers, net.norms, strict=True):
        x = dense(x)
        x = jax.nn.gelu(x if norm is None else normalise(norm, x))
    return net.head(x)


def velocity(policy: Any, obs: Obs, a_t: Action, t: Time) -> Action:
    inputs = jnp.concatenate([obs, a_t.ravel(), policy.embed(t)])
    return mlp(policy.mlp, inputs).reshape(a_t.shape)


def value(critic: Any, obs: Obs, action: Action) -> Array:
    inputs = jnp.concatenate([obs, action.ravel()])
    return jnp.min(eqx.filter_vmap(lambda member: mlp(member.mlp, inputs)[0])(critic))


def walk(field: Callable, policy: Any, key: Key, i: int | Array, steps: int) -> Action:
    return plain.walk(field, plain.draw_noise(policy, key, i), plain.grid(steps), steps)


def flow(policy, critic, obs, key, *, i=0, steps=10):
    return walk(lambda a, t: velocity(policy, obs, a, t), policy, key, i, steps)


def guided(push, policy, critic, obs, key, *, i=0, weight=0.1, steps=10):
    def field(a_t, t):
        v, gradient = push(partial(velocity, policy, obs), partial(value, critic, obs), a_t, t)
        return v + weight * gradient

    return walk(field, policy, key, i, steps)


def at_the_point(v, q, a_t, t):
    return v(a_t, t), jax.grad(q)(a_t)


def at_the_leap(v, q, a_t, t):
    now = v(a_t, t)
    return now, jax.grad(q)(a_t + (1 - t) * now)


def through_the_leap(v, q, a_t, t):
    now, back = jax.vjp(lambda a: v(a, t), a_t)
    gradient = jax.grad(q)(a_t + (1 - t) * now)
    return now, gradient + (1 - t) * back(gradient)[0]


def best_of(sampler, count, policy, critic, obs, key, **options):
    draw = lambda i: sampler(policy, critic, obs, key, i=i, **options)  # noqa: E731
    actions = jax.vmap(draw)(jnp.arange(count))
    return actions[jnp.argmax(jax.vmap(partial(value, critic, obs))(actions))]


qgf = partial(guided, at_the_leap)

SAMPLERS = {
    "flow": flow,
    "ood": partial(guided, at_the_point),
    "qgf": qgf,
    "qgf-jacobian": partial(guided, through_the_leap),
    **{f"best-of-{n}": partial(best_of, flow, n) for n in (4, 16)},
    "qgf-best-of-4": partial(best_of, qgf, 4),
}
