"""What `weight` may be besides a number: functions of `(t, v, g)`, the time, velocity and gradient.

Any function will do; these are Modules, so that they can be compared, stored and passed to `jit`
without compiling again.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Action, Time


class LinearDecay(eqx.Module):
    """A weight that falls linearly to zero: `w(t) = start (1 - t)`.

    The last steps, which nothing corrects any more, are hardly guided. Its mean over the flow is
    half of `start`.
    """

    start: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Time:
        """The weight at time `t`."""
        return self.start * (1 - t)

    def __str__(self) -> str:
        return f"{self.start:g} (1-t)"


class Interval(eqx.Module):
    """A weight that holds only for `first <= t < last`: `w(t) = weight` inside, else 0.

    `first` above 0 skips the steps where the leap knows least, `last` below 1 those that nothing
    corrects. The bounds are compared with the start of each step.
    """

    weight: float | Float[Array, ""]
    first: float = 0.0
    last: float = 1.0

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weight at time `t`."""
        return jnp.where((t >= self.first) & (t < self.last), self.weight, 0.0)


class NormMatched(eqx.Module):
    """A weight by which guidance has a share of the velocity's norm: `w = share ||v|| / ||g||`.

    Makes the knob free of the scale of Q. Where the gradient is zero, so is the weight. QPILOTS
    uses shares of .1 to .5.
    """

    share: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weight for this velocity and gradient."""
        norm = jnp.linalg.norm(jnp.ravel(g))
        ratio = jnp.linalg.norm(jnp.ravel(v)) / jnp.where(norm == 0, 1, norm)
        return jnp.where(norm == 0, 0, self.share * ratio)


class ClipNorm(eqx.Module):
    """A trust region: `w = weight min(1, largest / ||weight g||)`, so that `||w g|| <= largest`.

    `weight` may itself be a function of `(t, v, g)`: this is how weights compose.
    """

    weight: float | Float[Array, ""] | Callable[[Time, Action, Action], Any]
    largest: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weight for this gradient."""
        weight = self.weight(t, v, g) if callable(self.weight) else self.weight
        norm = jnp.linalg.norm(jnp.ravel(weight * g))
        return weight * jnp.minimum(1, self.largest / jnp.where(norm == 0, 1, norm))


class GaussianCovariance(eqx.Module):
    """The schedule that is exact for Gaussian data of standard deviation `std` and a linear Q:
    `w(t) = weight std^2 (1 - t) / (std^2 t^2 + (1 - t)^2)`.

    It stands for the covariance of the clean action given the noisy one, over `1 - t` (Feng et
    al., ICML 2025, arXiv 2502.02150); `weight` is then 1 / beta, a calibrated temperature.
    """

    weight: float | Float[Array, ""]
    std: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Time:
        """The weight at time `t`."""
        return self.weight * self.std**2 * (1 - t) / (self.std**2 * t**2 + (1 - t) ** 2)
