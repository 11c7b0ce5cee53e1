"""What `weight` may be besides a number: functions of `(t, v, g)`, the time, velocity and gradient.

Any function will do; these are Modules, so that they can be compared, stored and passed to `jit`
without compiling again. Those that wrap a weight accept any, so they compose:
`ClipNorm(Mask(LinearDecay(0.2), mask), 1.0)`.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from ._checks import as_weight
from ._fields import ask
from ._norms import norm
from ._types import Action, Time, Weight


def weight_at(weight: Weight, t: Time, v: Action, g: Action) -> Array:
    """A weight's value: `weight(t, v, g)` if it is a function, else the weight itself; checked to
    broadcast to the action."""
    return as_weight(ask("weight", weight, t=t, v=v, g=g) if callable(weight) else weight, g.shape)


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


class LinearGrowth(eqx.Module):
    """A weight that grows linearly from zero: `w(t) = end t`.

    The first steps, where the leap knows least, are hardly guided.
    """

    end: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Time:
        """The weight at time `t`."""
        return self.end * t

    def __str__(self) -> str:
        return f"{self.end:g} t"


class CappedRatio(eqx.Module):
    """The factor of the exactly tilted velocity, capped: `w(t) = weight min((1 - t) / t, largest)`.

    With it, and `weight = 1 / temperature`, `guidance.qgf_jacobian` is DPS. The cap is what keeps
    the first step finite.
    """

    weight: float | Float[Array, ""]
    largest: float | Float[Array, ""] = 10.0

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weight at time `t`."""
        t = jnp.asarray(t)
        return self.weight * jnp.minimum((1 - t) / jnp.where(t > 0, t, 1e-9), self.largest)


class Interval(eqx.Module):
    """A weight that holds only for `first <= t < last`: `w(t) = weight` inside, else 0.

    `first` above 0 skips the steps where the leap knows least, `last` below 1 those that nothing
    corrects. The bounds are compared with the start of each step.
    """

    weight: Weight
    first: float = 0.0
    last: float = 1.0

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weight at time `t`."""
        inside = (t >= self.first) & (t < self.last)
        return jnp.where(inside, weight_at(self.weight, t, v, g), 0.0)


class Mask(eqx.Module):
    """A weight that differs by dimension: `w = weight mask`, elementwise.

    Say 0 for a gripper that guidance must not touch, and 1 for the rest; any factors will do.
    """

    weight: Weight
    mask: Float[Array, "..."]

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weights of all dimensions."""
        # Zero, and not 0 * NaN, where nothing may be guided.
        return jnp.where(self.mask == 0, 0, weight_at(self.weight, t, v, g) * self.mask)


class NormMatched(eqx.Module):
    """A weight that gives guidance a share of the velocity's norm: `w = share ||v|| / ||g||`.

    This does not depend on the scale of Q. Where the gradient is zero, so is the weight. QPILOTS
    uses 0.1 to 0.5.
    """

    share: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weight for this velocity and gradient."""
        size = norm(g)
        weight = self.share * norm(v) / jnp.where(size == 0, 1, size)
        weight = jnp.minimum(weight, float(jnp.finfo(g.dtype).max)).astype(g.dtype)
        return jnp.where((size == 0) | (self.share == 0), 0, weight)

    def __str__(self) -> str:
        return f"{self.share:g} |v|/|g|"


class ClipNorm(eqx.Module):
    """A trust region: `w = weight min(1, largest / ||weight g||)`, so that `||w g|| <= largest`."""

    weight: Weight
    largest: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Array:
        """The weight for this gradient."""
        weight = weight_at(self.weight, t, v, g)
        g = jnp.where(weight == 0, 0, g)  # and not 0 * NaN
        # `weight * g` may overflow where the product with the ratio does not.
        size = stop_gradient(jnp.max(jnp.abs(g)))
        size = jnp.where(size == 0, 1, size)
        unit = norm(weight * (g / size))
        ratio = self.largest / jnp.where(unit == 0, 1, unit) / size.astype(unit.dtype)
        return jnp.where(self.largest == 0, 0, weight * jnp.minimum(1, ratio).astype(g.dtype))


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
        var = self.std**2 * t**2 + (1 - t) ** 2  # zero at the end of a flow to a point
        return self.weight * self.std**2 * (1 - t) / jnp.where(var == 0, 1, var)
