"""Flows that are known exactly: the oracles of the tests, and examples that need no training.

For data `a_1` and noise `a_0 ~ N(0, I)`, the flow `a_t = (1 - t) a_0 + t a_1` has the velocity
`E[a_1 - a_0 | a_t]`. For Gaussian data and mixtures of Gaussians it is a closed form. The
observation is ignored.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import as_factor, as_rows, check_same_shape
from ._types import Action, Key, Obs, Time


class GaussianFlow(eqx.Module):
    """The flow from N(0, I) to N(mean, std^2), each dimension on its own.

    With `var = (1-t)^2 + t^2 std^2` and `d = a_t - t mean`, all elementwise:

    - velocity `mean + (t std^2 - (1 - t)) / var d`;
    - `one_step` `mean + t std^2 / var d`, Jacobian `t std^2 / var`: zero at `t = 0`;
    - `ode` `mean + std / sqrt(var) d`, Jacobian `std / sqrt(var)`.
    """

    mean: Float[Array, "..."] = eqx.field(converter=jnp.asarray)
    std: Float[Array, "..."] = eqx.field(converter=jnp.asarray)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """The shape of `mean` and `std`, broadcast together."""
        return jnp.broadcast_shapes(self.mean.shape, self.std.shape)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The exact velocity."""
        gain = (t * self.std**2 - (1 - t)) / self._var(t)
        return self.mean + gain * (a_t - t * self.mean)

    def one_step(self, a_t: Action, t: Time) -> Action:
        """The posterior mean `E[a_1 | a_t]`, which one Euler leap reaches."""
        return self.mean + self.one_step_jacobian(t) * (a_t - t * self.mean)

    def one_step_jacobian(self, t: Time) -> Action:
        """The diagonal of the Jacobian of `one_step`."""
        return t * self.std**2 / self._var(t)

    def ode(self, a_t: Action, t: Time) -> Action:
        """The end of the exact ODE from `(a_t, t)`."""
        return self.mean + self.ode_jacobian(t) * (a_t - t * self.mean)

    def ode_jacobian(self, t: Time) -> Action:
        """The diagonal of the Jacobian of `ode`."""
        return self.std / jnp.sqrt(self._var(t))

    def tilted(self, linear: Action, curvature: float | Array = 0.0) -> "GaussianFlow":
        """The flow to the law `p(a) exp(linear a - curvature a^2 / 2)`, which is Gaussian.

        Guidance with weight 1 / beta aims at this flow if `linear` and `curvature` are those
        of Q / beta.
        """
        var = 1 / (1 / self.std**2 + curvature)
        return GaussianFlow(var * (self.mean / self.std**2 + linear), jnp.sqrt(var))

    def _var(self, t):
        return (1 - t) ** 2 + t**2 * self.std**2


class MixtureFlow(eqx.Module):
    """The flow from N(0, I) to a mixture of isotropic Gaussians.

    The velocity is that of each mode's `GaussianFlow`, averaged with the posterior
    probability of the mode given `a_t`.
    """

    means: Float[Array, "modes ..."] = eqx.field(converter=jnp.asarray)
    stds: Float[Array, " modes"]
    weights: Float[Array, " modes"]

    def __init__(
        self,
        means: Float[Array, "modes ..."],
        stds: float | Float[Array, ""] | Float[Array, " modes"],
        weights: Float[Array, " modes"] | None = None,
    ):
        """**Arguments:**

        - `means`: one per mode, along the first axis.
        - `stds`: one number, or one per mode.
        - `weights`: the modes' probabilities, normalised here; equal by default.
        """
        self.means = as_rows("means", means).astype(float)
        count = self.means.shape[0]
        self.stds = jnp.broadcast_to(as_factor("stds", stds, (count,), float), (count,))
        weights = jnp.ones(count) if weights is None else as_rows("weights", weights).astype(float)
        check_same_shape("weights", weights.shape, "means[:, 0]", (count,))
        self.weights = weights / jnp.sum(weights)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """The shape of one mean."""
        return self.means.shape[1:]

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The exact velocity."""
        var = (1 - t) ** 2 + t**2 * self.stds**2
        offsets = a_t[None] - t * self.means
        gains = self._per_mode((t * self.stds**2 - (1 - t)) / var)
        posterior = jax.nn.softmax(self._log_joint(offsets, var))
        return jnp.sum(self._per_mode(posterior) * (self.means + gains * offsets), axis=0)

    def log_prob(self, a_t: Action, t: Time = 1.0) -> Array:
        """The log density of `a_t` at time `t`; at time 1, of the data."""
        var = (1 - t) ** 2 + t**2 * self.stds**2
        return jax.nn.logsumexp(self._log_joint(a_t[None] - t * self.means, var))

    def draw(self, key: Key, count: int) -> Float[Array, "count ..."]:
        """`count` exact draws of the data, with no flow."""
        mode_key, noise_key = jax.random.split(key)
        modes = jax.random.categorical(mode_key, jnp.log(self.weights), shape=(count,))
        noise = jax.random.normal(noise_key, (count, *self.action_shape), self.means.dtype)
        return self.means[modes] + self._per_mode(self.stds[modes]) * noise

    def tilted(self, linear: Action, curvature: float | Array = 0.0) -> "MixtureFlow":
        """The flow to the law `p(a) exp(linear . a - curvature |a|^2 / 2)`, again a mixture.

        `curvature` is a number. A mode's weight changes by its tilted mass.
        """
        precision = 1 / self.stds**2
        var = 1 / (precision + curvature)
        means = self._per_mode(var) * (self._per_mode(precision) * self.means + linear[None])

        def norm2(x, scale):
            return jnp.sum(x**2, axis=tuple(range(1, x.ndim))) * scale

        size = self.means[0].size
        gain = (
            norm2(means, 1 / var) - norm2(self.means, precision) + size * jnp.log(var * precision)
        )
        log_weights = jnp.log(self.weights) + gain / 2
        return MixtureFlow(means, jnp.sqrt(var), jax.nn.softmax(log_weights))

    def _log_joint(self, offsets, var):
        size = offsets[0].size
        squares = jnp.sum(offsets**2, axis=tuple(range(1, offsets.ndim)))
        return jnp.log(self.weights) - squares / (2 * var) - size / 2 * jnp.log(2 * jnp.pi * var)

    def _per_mode(self, x):
        return x.reshape(x.shape + (1,) * (self.means.ndim - 1))
