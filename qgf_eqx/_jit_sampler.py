"""The sampler of a control loop: compiled once, called thousands of times."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._fields import Bounded, bounded
from ._sample import check_key, sample
from ._types import Action, Critic, Key, Obs, Policy
from .nn import Ensemble, LeastMember


def jit_sampler(
    policy: Policy, critic: Critic, **options: Any
) -> Callable[[Obs, Key], tuple[Action, Key]]:
    """A compiled `act(obs, key) -> (action, key)` for a control loop: one action at a time.

    The same actions as `sample` with the half of the split key. The networks are constants of the
    compiled program, so that a call flattens nothing but the observation; the key is split
    inside, and the other half comes back for the next call. The minimum of an `nn.Ensemble`
    becomes `nn.LeastMember`, which is faster for one action. For new parameters make a new
    sampler; for batches `jax.vmap` `sample`.

    ```python
    act = qgf_eqx.jit_sampler(policy, critic, weight=0.1)
    for _ in range(3):
        action, key = act(obs, key)
    ```

    **Arguments:** as for `sample`, but for `obs` and `key`, which the returned function takes.

    **Raises:** `ValueError` if the weight is not finite, and, when called, if the observation is
    not: a robot should stop then, and not act on it. The error names the place.
    """
    weight = options.get("weight", 0.0)
    if not callable(weight) and not np.isfinite(weight).all():
        raise ValueError(f"`weight` must be finite, got {weight}.")
    if options.get("best_of", 1) == 1:
        critic = _for_one(critic)

    @jax.jit
    def run(obs, key):
        check_key(key)  # while it is traced, so that a call does not pay for it
        key, draw = jax.random.split(key)
        return sample(policy, critic, obs, draw, **options), key

    def act(obs: Obs, key: Key) -> tuple[Action, Key]:
        for leaf in jax.tree.leaves(obs):
            if not np.isfinite(leaf).all():
                raise ValueError(_where_not_finite(obs))
        return run(obs, key)

    return act


def _for_one(critic: Critic) -> Critic:
    if isinstance(critic, Bounded):
        return bounded(_for_one(critic.critic), critic.low, critic.high, clip=critic.clip)
    if isinstance(critic, Ensemble) and critic.reduce is jnp.min:
        return LeastMember(critic)
    return critic


def _where_not_finite(obs: Obs) -> str:
    for path, leaf in jax.tree_util.tree_leaves_with_path(obs):
        bad = np.argwhere(~np.isfinite(leaf))
        if len(bad):
            index = tuple(bad[0].tolist())
            place = f"obs{jax.tree_util.keystr(path)}{list(index) if index else ''}"
            return f"`{place}` is {np.asarray(leaf)[index]}: refusing to act on it."
    return ""
