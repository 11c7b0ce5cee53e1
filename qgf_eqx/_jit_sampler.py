"""The sampler of a control loop: compiled once, called thousands of times."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ._checks import check_finite_weight, check_key, check_readable
from ._fields import Bounded, bounded
from ._sample import sample
from ._types import Action, Critic, Key, Obs, Policy
from .nn import Ensemble, LeastMember

CONSTANT = 4_000_000
"""Bytes of networks that are constants of the program, at most."""


def jit_sampler(
    policy: Policy, critic: Critic, **options: Any
) -> Callable[[Obs, Key], tuple[Action, Key]]:
    """A compiled `act(obs, key) -> (action, key)` for a control loop: one action at a time.

    `act` splits the key, draws the action of `sample` with one half and returns the other for the
    next call. The minimum of an `nn.Ensemble` becomes `nn.LeastMember`, which is faster for one
    action. For new parameters, make a new sampler; for batches, `jax.vmap` `sample`.

    Small networks are constants of the compiled program, so a call flattens only the observation.
    Networks above 4 MB (three of 4 x 512 have 10 MB) are its arguments: the program is then the
    same for every checkpoint, and is found in JAX's compilation cache.

    ```python
    act = qgf_eqx.jit_sampler(policy, critic, weight=0.1)
    for _ in range(3):
        action, key = act(obs, key)
    ```

    **Arguments:** as for `sample`, except `obs` and `key`, which the returned function takes.

    The action is always finite. If guidance gives NaN or infinity (a critic or a schedule that
    is not finite somewhere), the plain flow's action from the same noise replaces it, with a
    `RuntimeWarning`. The call waits for the action, to check it.

    **Raises:** `TypeError` or `ValueError` if the weight is not a finite number, and, when called,
    `TypeError` if the observation holds anything but numbers, and `ValueError` if it is not finite
    in the dtype that JAX computes in, or if the plain flow's action is not finite: then stop the
    robot. The errors name the place.
    """
    check_finite_weight(options.get("weight", 0.0))

    def run(nets, obs, key):
        check_key(key)  # while it is traced, so that a call does not pay for it
        policy, critic, options = nets
        key, draw = jax.random.split(key)
        return sound_sample(policy, critic, options, obs, draw), key

    draw = compiled(run, (policy, for_one(critic, options), options))

    def act(obs: Obs, key: Key) -> tuple[Action, Key]:
        check_readable(obs)
        (action, sound, finite), key = draw(obs, key)
        if not sound:
            if not finite:
                raise ValueError("`policy` gave an action that is not finite: refusing to act.")
            warnings.warn(
                "guidance gave an action that is not finite: the plain flow's is used. Look for "
                "NaN in `critic` or `weight`.",
                RuntimeWarning,
                stacklevel=2,
            )
        return action, key

    return act


def sound_sample(
    policy: Policy,
    critic: Critic,
    options: dict,
    obs: Obs,
    key: Key,
    to_action: Callable[[Action], Action] = lambda action: action,
) -> tuple[Action, Bool[Array, ""], Bool[Array, ""]]:
    """`sample`, or where that is not finite the plain flow's action from the same noise; whether
    the first was finite, and whether what comes back is: itself, and as the robot's `to_action`."""

    def is_finite(action):
        both = jnp.all(jnp.isfinite(action)), jnp.all(jnp.isfinite(to_action(action)))
        return both[0] & both[1]

    guided = sample(policy, critic, obs, key, **options)
    sound = is_finite(guided)
    plain = partial(sample, policy, critic, obs, key, **options | {"weight": 0})
    action = jax.lax.cond(sound, lambda: guided, plain)
    return action, sound, is_finite(action)


def compiled(run: Callable, nets: Any) -> Callable:
    """`run(nets, ...)`, compiled: small networks are constants of the program, and large ones its
    arguments, so that one program serves all that differ in their numbers alone."""
    arrays, static = eqx.partition(nets, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def flat(leaves, *others):
        arrays = jax.tree.unflatten(structure, leaves)
        return run(eqx.combine(arrays, static), *others)

    if sum(leaf.nbytes for leaf in leaves) > CONSTANT:
        return partial(jax.jit(flat), leaves)
    return jax.jit(partial(flat, leaves))


def for_one(critic: Critic, options: dict) -> Critic:
    """The critic that is faster where `options` ask it for one action at a time."""
    one = 1 in (options.get("best_of", 1), options.get("batch_size"))
    return _least(critic) if one else critic


def _least(critic: Critic) -> Critic:
    if isinstance(critic, Bounded):
        return bounded(_least(critic.critic), critic.low, critic.high, clip=critic.clip)
    if isinstance(critic, Ensemble) and critic.reduce is jnp.min:
        return LeastMember(critic)
    return critic
