"""Features of flow time."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Time


def low_frequency_time(t: Time) -> Float[Array, " 9"]:
    """Features of flow time: `[t, cos(pi k t), sin(pi k t)]` for k = 1, 2, 3, 4.

    Smooth between grid points, so that `steps` is a free choice at test time.
    """
    # NumPy's `arange`, for `jnp.arange`s of two calls are taken out of a loop one by one: XLA then
    # no longer sees that they are equal, and runs the policy twice in each step.
    t = jnp.asarray(t, jnp.result_type(t, float))
    angles = jnp.asarray(np.pi * np.arange(1, 5), t.dtype) * t
    return jnp.concatenate([jnp.atleast_1d(t), jnp.cos(angles), jnp.sin(angles)])


def paper_time(t: Time) -> Float[Array, " 16"]:
    """The paper's features of flow time, for parity: `[cos(10000 t f_k), sin(10000 t f_k)]`
    with `f_k = 10000^(-k / 8)`, k = 0..7.

    Its highest frequencies turn by more than a thousand radians between two steps of T = 10:
    a flow trained with it on that grid is wrong between the grid's points.
    """
    t = jnp.asarray(t, jnp.result_type(t, float))
    angles = 10000 * t * jnp.asarray(10000 ** (-np.arange(8) / 8), t.dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
