"""Efficient diffusion policies: a flow whose Euler leap is pushed up the critic in training."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp

from ... import objectives
from ..._fields import critic, velocity
from ..._types import Key
from ...data import Chunk
from .._learner import Judges, Networks
from .flow import BC


@dataclass(frozen=True)
class EDP(BC):
    """`-Q(s, clip(a_t + (1 - t) v)) + c || v - (a_1 - a_0) ||^2`, at one random time.

    What QGF does at test time, done in training. The gradient goes through `v`, and is zero in the
    dimensions that are clipped.

    Source: Kang et al., *Efficient Diffusion Policies for Offline Reinforcement Learning*, 2023.
    """

    c: float = 300.0
    """The coefficient of the behaviour-cloning loss, in units of Q."""

    label: ClassVar[str] = "EDP"
    colour: ClassVar[str] = "#08306b"
    strength: ClassVar[str] = "c"
    sees_goal: ClassVar[bool] = True

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`flow_loss`, times c, and `q_loss`."""
        grid = partial(objectives.grid_time, steps=10)
        time = grid if self.paper_time else objectives.uniform_time
        a_t, t, target = objectives.noisy_point(chunk.action, key, time=time)
        v = velocity(nets.trained, chunk.obs, a_t, t)
        action = judges.critic.to_bounds(a_t + (1 - t) * v)
        return {
            "flow_loss": self.c * jnp.mean(jnp.square(v - target)),
            "q_loss": -critic(judges.critic, chunk.obs, action),
        }
