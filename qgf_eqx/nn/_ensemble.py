"""Several critics as one."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .._checks import as_scalar, check_count, check_key
from .._fields import given
from .._norms import spread
from .._types import Action, Key, Obs


class LowerBound(eqx.Module):
    """Reduces an ensemble to `mean - rho std`: a number that few members are below.

    `rho = 0` is the mean; with two members `rho = 1` is the minimum.
    """

    rho: float = 0.5

    def __call__(self, values: Float[Array, " size"]) -> Scalar:
        """The lower bound of the members' values."""
        return jnp.mean(values) - self.rho * spread(values)


class Ensemble(eqx.Module):
    """Several critics that reduce themselves to a scalar.

    Reductions are functions of the vector of values: `jnp.min` (the paper's), `jnp.mean`,
    `LowerBound(rho)`. `members[i]` is one of them alone. (They are not stacked and `vmap`ped: XLA
    would then transpose their first layer in every step, and a batch of QGF takes 1.1 to 1.6 times
    as long on a CPU.)

    ```python
    critic = Ensemble(lambda key: CriticMLP(obs_size, action_shape, key=key), 2, key=key)
    ```
    """

    members: tuple[Callable[[Obs, Action], Scalar], ...]
    reduce: Callable[[Float[Array, " size"]], Scalar] = eqx.field(static=True)

    def __init__(
        self,
        make: Callable[[Key], Callable],
        size: int,
        *,
        reduce: Callable[[Float[Array, " size"]], Scalar] = jnp.min,
        key: Key,
    ):
        """**Arguments:**

        - `make`: a function from a key to one critic.
        - `size`: how many.
        - `reduce`: from the vector of values to a scalar; the minimum in the paper.
        - `key`: split among the members.
        """
        check_key(key)
        size = check_count("size", size, "it counts the members")
        self.members = tuple(make(k) for k in jax.random.split(key, size))
        self.reduce = reduce

    def values(self, obs: Obs, action: Action) -> Float[Array, " size"]:
        """Every member's value at `(obs, action)`."""
        return jnp.stack([as_scalar("critic", member(obs, action)) for member in self.members])

    def given(self, obs: Obs) -> "Ensemble":
        """The ensemble at one observation."""
        return eqx.tree_at(lambda e: e.members, self, tuple(given(m, obs) for m in self.members))

    def __call__(self, obs: Obs, action: Action) -> Scalar:
        """The reduced value at `(obs, action)`."""
        return self.reduce(self.values(obs, action))


class LeastMember(eqx.Module):
    """The minimum of an ensemble, with a gradient that goes back through the least member only.

    The same values and gradients as `Ensemble(..., reduce=jnp.min)`. For one action at a time,
    where reading the weights dominates: it saves a quarter of the critics' reads. Do not use it
    under `jax.vmap`, where both branches run on every row, with a copy of the weights for each.
    `jit_sampler` wraps its critic in it.
    """

    ensemble: Ensemble

    def given(self, obs: Obs) -> "LeastMember":
        """The same at one observation."""
        return LeastMember(self.ensemble.given(obs))

    def values(self, obs: Obs, action: Action) -> Float[Array, " size"]:
        """Every member's value at `(obs, action)`."""
        return self.ensemble.values(obs, action)

    def __call__(self, obs: Obs, action: Action) -> Scalar:
        """The least value at `(obs, action)`."""
        return jnp.min(self.values(obs, action))

    def action_gradient(self, obs: Obs, action: Action) -> Action:
        """The gradient of the least value."""
        ask = lambda m: lambda a: as_scalar("critic", m(obs, a))  # noqa: E731
        each = [jax.vjp(ask(m), action) for m in self.ensemble.members]
        values, carry_back = zip(*each, strict=True)
        one = jnp.ones_like(values[0])
        branches = [lambda backs, i=i: backs[i](one)[0] for i in range(len(each))]
        least = jnp.argmin(jnp.stack(values))  # a NaN, if there is one
        g = jax.lax.switch(least, branches, carry_back)
        return jnp.where(jnp.isnan(jnp.stack(values)[least]), jnp.nan, g)
