"""What the study `off_data` plays and trains beside the library's own: importable by workers."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from qgf_eqx import guidance
from qgf_eqx._denoise import one_step
from qgf_eqx._fields import action_gradient
from qgf_eqx._norms import norm
from qgf_eqx.learn.critics import IQL
from qgf_eqx.nn import CriticMLP, Ensemble


def late(policy: Any, critic: Any, obs: Any, a_t: Any, t: Any) -> Any:
    """OOD from t = 0.5 on, nothing before."""
    return jnp.where(t >= 0.5, guidance.ood(policy, critic, obs, a_t, t), 0)


def early(policy: Any, critic: Any, obs: Any, a_t: Any, t: Any) -> Any:
    """OOD before t = 0.5, QGF from then on."""
    both = [g(policy, critic, obs, a_t, t) for g in (guidance.ood, guidance.qgf)]
    return jnp.where(t < 0.5, *both)


def turned(policy: Any, critic: Any, obs: Any, a_t: Any, t: Any) -> Any:
    """OOD's direction with QGF's length."""
    own, g = (f(policy, critic, obs, a_t, t) for f in (guidance.ood, guidance.qgf))
    return own / norm(own) * norm(g)


def stretched(policy: Any, critic: Any, obs: Any, a_t: Any, t: Any) -> Any:
    """QGF's direction with OOD's length."""
    own, g = (f(policy, critic, obs, a_t, t) for f in (guidance.ood, guidance.qgf))
    return g / norm(g) * norm(own)


def at_mean(policy: Any, critic: Any, obs: Any, a_t: Any, t: Any) -> Any:
    """The critic's gradient at the leap from zero noise: near the mean of the flow's actions."""
    return action_gradient(critic, obs, one_step(policy, obs, jnp.zeros_like(a_t), 0.0))


OWN = {"late": late, "early": early, "turned": turned, "stretched": stretched, "at-mean": at_mean}


class PlainCritic(CriticMLP):
    """`CriticMLP` without layer norm."""

    def __init__(self, obs_size: int, action_shape: tuple[int, ...], **size: Any):
        """Arguments as for `CriticMLP`."""
        super().__init__(obs_size, action_shape, **size)
        without = tuple(None for _ in self.mlp.norms)
        self.mlp = eqx.tree_at(lambda mlp: mlp.norms, self.mlp, without)


@dataclass(frozen=True)
class PlainIQL(IQL):
    """`IQL` with critics without layer norm."""

    def init(self, spec: Any, key: Any) -> Any:
        """As `IQL`."""
        nets = super().init(spec, key)
        make = partial(PlainCritic, action_shape=spec.action_shape, **self.size)
        critic = Ensemble(lambda k: spec.net(make, k), self.critics, key=jax.random.split(key)[0])
        return nets._replace(trained=(critic, nets.trained[1]), kept=jax.tree.map(_copy, critic))


def _copy(leaf: Any) -> Any:
    return jnp.copy(leaf) if eqx.is_array(leaf) else leaf
