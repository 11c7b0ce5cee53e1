"""Norms and spreads that neither overflow nor lose their derivative at zero."""

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Scalar


def norm(x: Float[Array, "..."]) -> Scalar:
    """The Euclidean norm over all axes, in float32 at least.

    Squares of numbers beyond 1e19 overflow in float32, so the largest is divided out. The
    derivative at zero is zero.
    """
    x = jnp.ravel(x)
    x = x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
    largest = stop_gradient(jnp.max(jnp.abs(x), initial=0))
    zero = largest == 0
    scaled = x / jnp.where(zero, 1, largest)
    squares = jnp.sum(scaled**2)
    return jnp.where(zero, 0, largest * jnp.sqrt(jnp.where(zero, 1, squares)))


def spread(values: Float[Array, " members"]) -> Scalar:
    """The standard deviation of an ensemble's values, with derivative zero where all agree."""
    squares = jnp.mean(jnp.square(values - jnp.mean(values)))
    apart = squares > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
