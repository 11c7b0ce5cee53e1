"""Q-learning with adjoint matching: a flow that is fine-tuned towards the tilted law."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from ... import objectives
from ..._fields import action_gradient, bounded, given, velocity
from ..._sample import sample
from ..._types import Action, Key, Obs, Policy, Time, Velocity
from ...data import Chunk
from ...nn import VelocityMLP
from .._learner import Judges, Learner, Networks, Spec


@dataclass(frozen=True)
class QAM(Learner):
    """A base flow by flow matching, and a fine one by adjoint matching:
    `sum_t || 2 (v_f - v_b) / sigma_t + sigma_t g_t ||^2` along actions of the fine flow's
    memoryless SDE, with the lean adjoint `g_t` of the base flow. As the steps grow its fixed point
    is the law `p(a) exp(Q(a) / temperature)`, and no gradient goes through the chain.

    Source: Li and Levine, *Q-learning with Adjoint Matching*, 2026; Domingo-Enrich et al., *Adjoint
    Matching*, 2024.
    """

    inverse_temperature: float = 0.1
    """Per unit of Q."""
    steps: int = 10
    """Euler steps of the SDE."""

    label: ClassVar[str] = "QAM"
    colour: ClassVar[str] = "#4daf4a"
    strength: ClassVar[str] = "inverse_temperature"

    def init(self, spec: Spec, key: Key) -> Networks:
        """The base flow, and the fine one, which begins as its copy."""
        make = partial(VelocityMLP, action_shape=spec.action_shape, **self.size)
        return Networks((spec.net(make, key), spec.net(make, key)))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`flow_loss`, of the base flow, and `adjoint_loss`, of the fine one."""
        (base, fine), obs = nets.trained, chunk.obs
        flow_key, noise_key, path_key = jax.random.split(key, 3)
        flow_loss = objectives.flow_matching(base, obs, chunk.action, flow_key)
        noise = jax.random.normal(noise_key, chunk.action.shape, chunk.action.dtype)
        base = given(_frozen(base), obs)
        path = memoryless_path(base, given(_frozen(fine), obs), obs, noise, path_key, self.steps)

        def mean(obs, action):
            return jnp.mean(judges.newest(obs, action))

        within = bounded(mean, judges.critic.low, judges.critic.high)
        g = -self.inverse_temperature * action_gradient(within, obs, path[-1])
        adjoints = stop_gradient(lean_adjoint(base, obs, path, g))
        loss = adjoint_matching(base, given(fine, obs), obs, path[:-1], adjoints)
        return {"flow_loss": flow_loss, "adjoint_loss": loss}

    def policy(self, nets: Networks) -> Policy:
        """The fine flow."""
        return nets.trained[1]

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """The fine flow's action, in as many steps as the SDE has."""
        return sample(self.policy(nets), judges.critic, obs, key, weight=0, steps=self.steps)


def _spread(t: Time, h: float) -> Any:
    """`sigma_t = sqrt(2 (1 - t + h) / (t + h))`, of the SDE whose end does not remember its noise;
    `h` keeps it finite at t = 0."""
    return jnp.sqrt(2 * (1 - t + h) / (t + h))


def memoryless_path(
    base: Velocity, fine: Velocity, obs: Obs, noise: Action, key: Key, steps: int
) -> Float[Array, "..."]:
    """The states `x_0, x_h, ..., x_1` of one path, `h = 1 / steps`, from the noise `x_0`:
    `x + h (2 v_f(x, t) - x / (t + h)) + sqrt(h) sigma_t eps`, and last `x + h v_b(x, t)`.

    Nothing is differentiated through it.
    """
    h = 1 / steps

    def step(x, k):
        t = k.astype(x.dtype) * h
        eps = jax.random.normal(jax.random.fold_in(key, k), x.shape, x.dtype)
        drift = 2 * velocity(fine, obs, x, t) - x / (t + h)
        walked = x + h * drift + jnp.sqrt(h) * _spread(t, h) * eps
        return walked.astype(x.dtype), walked.astype(x.dtype)

    last, path = jax.lax.scan(step, noise, jnp.arange(steps - 1))
    end = last + h * velocity(base, obs, last, 1 - h)
    return stop_gradient(jnp.concatenate([noise[None], path, end[None]]))


def lean_adjoint(
    base: Velocity, obs: Obs, path: Float[Array, "..."], gradient: Action
) -> Float[Array, "..."]:
    """The adjoints `g_0, g_h, ..., g_{1-h}` of a path, from the gradient `g_1` of the cost at its
    end: `g_t = g_{t+h} + h (d/dx [2 v_b(x, t+h) - x / (t+h)])^T g_{t+h}` at `x = x_{t+h}`.

    Costs a forward and a backward pass of the base flow for every step.
    """
    steps = len(path) - 1
    h = 1 / steps

    def step(g, k):
        t = (k + 1).astype(g.dtype) * h
        drift = lambda x: 2 * velocity(base, obs, x, t) - x / t  # noqa: E731
        _, carry_back = jax.vjp(drift, path[k + 1])
        g = g + h * carry_back(g)[0]
        return g, g

    return jax.lax.scan(step, gradient, jnp.arange(steps), reverse=True)[1]


def adjoint_matching(
    base: Velocity,
    fine: Velocity,
    obs: Obs,
    path: Float[Array, "..."],
    adjoints: Float[Array, "..."],
) -> Array:
    """`sum_t || 2 (v_f - v_b) / sigma_t + sigma_t g_t ||^2`, at all states but the last."""
    h = 1 / len(path)

    def one(x, g, k):
        t = k.astype(x.dtype) * h
        change = velocity(fine, obs, x, t) - velocity(base, obs, x, t)
        return jnp.sum(jnp.square(2 * change / _spread(t, h) + _spread(t, h) * g))

    return jnp.sum(jax.vmap(one)(path, adjoints, jnp.arange(len(path))))


def _frozen(model: Any) -> Any:
    arrays, static = eqx.partition(model, eqx.is_array)
    return eqx.combine(stop_gradient(arrays), static)
