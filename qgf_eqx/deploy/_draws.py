"""The compiled draws of a control loop, with what it has to know about each."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._fields import Bounded
from .._jit_sampler import compiled, for_one, sound_sample
from .._types import Action, Critic, Key, Obs, Policy
from ..steering import Inpainted
from ..weights import Mask


class Drawn(NamedTuple):
    """A chunk, and how it came about."""

    chunk: np.ndarray
    """In the robot's units."""
    own: np.ndarray
    """The same in the policy's."""
    guided: bool
    """Whether it is the guided one: not, where guidance gave NaN or infinity."""
    finite: bool
    clipped: float
    """The share of its numbers that lie on a bound of the critic, locked dimensions left out."""
    seconds: float


class Draws(NamedTuple):
    """From an observation and a key a chunk. All are compiled when they are first called."""

    guided: Callable[[Obs, Key], Drawn]
    plain: Callable[[Obs, Key], Drawn]
    """Without guidance."""
    following: Callable[[Obs, Key, np.ndarray, np.ndarray], Drawn]
    """One that begins as an old chunk goes on, where a mask says so."""


def make_draws(
    policy: Policy, critic: Critic, options: dict, to_action: Callable[[Action], Action]
) -> Draws:
    """The draws of one policy and critic.

    **Arguments:**

    - `options`: of `sample`.
    - `to_action`: from an action of the policy to one of the robot.
    """
    nets = policy, for_one(critic, options), options

    def end(critic: Critic, drawn: tuple) -> tuple:
        action, sound, finite = drawn
        return to_action(action), action, sound, finite, _clipped(critic, action)

    def guided(nets, obs, key):
        policy, critic, options = nets
        return end(critic, sound_sample(policy, critic, options, obs, key, to_action))

    def plain(nets, obs, key):
        policy, critic, options = nets
        alone = options | {"weight": 0, "best_of": 1}  # the critic is not asked
        return end(critic, sound_sample(policy, critic, alone, obs, key, to_action))

    def following(nets, obs, key, old, mask):
        policy, critic, options = nets
        held = Inpainted(policy, old, mask)
        free = options | {"weight": Mask(options.get("weight", 0.1), 1 - mask)}
        return end(critic, sound_sample(held, critic, free, obs, key, to_action))

    return Draws(*(_timed(compiled(run, nets)) for run in (guided, plain, following)))


def _timed(run: Callable) -> Callable[..., Drawn]:
    def draw(*inputs: Any) -> Drawn:
        began = time.perf_counter()
        chunk, own, sound, finite, clipped = jax.device_get(run(*inputs))
        seconds = time.perf_counter() - began
        return Drawn(chunk, own, bool(sound), bool(finite), float(clipped), seconds)

    return draw


def _clipped(critic: Critic, action: Action) -> jax.Array:
    if not isinstance(critic, Bounded):
        return jnp.zeros(())
    bounds = (b.astype(action.dtype) for b in (critic.low, critic.high))
    low, high = (jnp.broadcast_to(b, action.shape) for b in bounds)
    free = low < high
    on_bound = free & ((action <= low) | (action >= high))
    return jnp.sum(on_bound) / jnp.maximum(jnp.sum(free), 1)
