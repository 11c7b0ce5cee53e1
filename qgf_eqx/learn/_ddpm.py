"""Denoising diffusion in ten steps: what DAC and QSM train.

Here, unlike on the flow, step `k` = 1 is nearly clean and `k` = STEPS is noise:
`a_k = sqrt(abar_k) action + sqrt(1 - abar_k) eps`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._types import Action, Key, Obs, Velocity

STEPS = 10
_LEAST, _MOST = 0.1, 10.0
_BETAS = 1 - np.exp(
    -_LEAST / STEPS - (_MOST - _LEAST) * (2 * np.arange(1, STEPS + 1) - 1) / (2 * STEPS**2)
)
_ALPHAS_BAR = np.cumprod(1 - _BETAS)


def signal_and_noise(k: int | Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`sqrt(abar_k)` and `sqrt(1 - abar_k)` of step k, of the variance-preserving schedule."""
    abar = jnp.asarray(_ALPHAS_BAR, jnp.result_type(float))[k - 1]
    return jnp.sqrt(abar), jnp.sqrt(1 - abar)


def diffused(action: Action, key: Key) -> tuple[Action, Int[Array, ""], Action]:
    """A random step k, the action at that step, and its noise: `(a_k, k, eps)`."""
    noise_key, step_key = jax.random.split(key)
    eps = jax.random.normal(noise_key, action.shape, action.dtype)
    k = jax.random.randint(step_key, (), 1, STEPS + 1)
    signal, noise = signal_and_noise(k)
    return (signal * action + noise * eps).astype(action.dtype), k, eps


def eps_at(net: Velocity, obs: Obs, a_k: Action, k: int | Int[Array, ""]) -> Action:
    """The network's noise; it is told the step as the time `k / STEPS`."""
    return net(obs, a_k, jnp.asarray(k, a_k.dtype) / STEPS)


def draw(net: Velocity, obs: Obs, noise: Action, key: Key) -> Action:
    """An action, by ancestral sampling from `noise`, the state at step STEPS.

    `a_{k-1} = (a_k - beta_k / sqrt(1 - abar_k) eps) / sqrt(1 - beta_k) + sqrt(beta_k) z`, without
    the last z.
    """
    betas = jnp.asarray(_BETAS, noise.dtype)

    def step(a_k, k):
        beta, (_, spread) = betas[k - 1], signal_and_noise(k)
        z = jax.random.normal(jax.random.fold_in(key, k), a_k.shape, a_k.dtype)
        mean = (a_k - beta / spread * eps_at(net, obs, a_k, k)) / jnp.sqrt(1 - beta)
        return (mean + jnp.where(k > 1, jnp.sqrt(beta), 0) * z).astype(a_k.dtype), None

    return jax.lax.scan(step, noise, jnp.arange(STEPS, 0, -1))[0]
