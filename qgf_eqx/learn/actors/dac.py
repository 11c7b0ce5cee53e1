"""Diffusion actor-critic: a diffusion policy whose predicted noise is shifted against the critic's
gradient."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..._fields import action_gradient
from ..._types import Action, Key, Obs
from ...data import Chunk
from ...nn import VelocityMLP
from .._ddpm import diffused, draw, eps_at, signal_and_noise
from .._learner import Judges, Learner, Networks, Spec


@dataclass(frozen=True)
class DAC(Learner):
    """`alpha || eps - eps_th ||^2 + sqrt(1 - abar_k) grad Q(s, a_k) . eps_th`.

    Its minimiser is `E[eps | a_k] - sqrt(1 - abar_k) grad Q / (2 alpha)`.

    Source: Fang et al., *Diffusion Actor-Critic*, 2024, from the formula.
    """

    alpha: float = 100.0
    """The coefficient of the behaviour-cloning loss, in units of Q."""

    label: ClassVar[str] = "DAC"
    colour: ClassVar[str] = "#fbb4b9"
    strength: ClassVar[str] = "alpha"

    def init(self, spec: Spec, key: Key) -> Networks:
        """The network of the noise."""
        make = partial(VelocityMLP, action_shape=spec.action_shape, **self.size)
        return Networks(spec.net(make, key))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`eps_loss`, times alpha, and `q_loss`."""
        a_k, k, eps = diffused(chunk.action, key)
        found = eps_at(nets.trained, chunk.obs, a_k, k)
        g = jax.lax.stop_gradient(action_gradient(judges.critic, chunk.obs, a_k))
        return {
            "eps_loss": self.alpha * jnp.sum(jnp.square(eps - found)),
            "q_loss": signal_and_noise(k)[1] * jnp.sum(g * found),
        }

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """An action by ancestral sampling, in ten steps, clipped."""
        noise_key, key = jax.random.split(key)
        noise = jax.random.normal(noise_key, nets.trained.action_shape)
        return judges.critic.to_bounds(draw(nets.trained, obs, noise, key))
