"""The border where foreign callables are called, and their answers checked."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Scalar

from ._checks import (
    as_answer,
    as_floats,
    as_gradient,
    as_number,
    as_reals,
    as_scalar,
    as_shape,
    as_vector,
    check_broadcasts,
    check_same_shape,
    known_shape,
)
from ._types import Action, Critic, Obs, Time, TimedCritic, Velocity


def given(model: Any, obs: Obs) -> Any:
    """The policy or critic at one observation: `model.given(obs)` if it has that, else itself.

    What does not change along the flow, such as an encoder or the observation's share of the first
    layer, is then computed once per action, not in every step. The samplers call `given`; the
    networks of `nn` have it, and yours may too: it returns a callable with the same arguments.
    """
    return model.given(obs) if hasattr(model, "given") else model


class Flow(eqx.Module):
    """Gives any velocity field the shape of its actions, which `sample` needs to
    draw noise.

    ```python
    policy = Flow(lambda obs, a_t, t: -a_t, action_shape=(2,))
    ```
    """

    field: Callable
    action_shape: tuple[int, ...] = eqx.field(static=True, converter=as_shape)

    def given(self, obs: Obs) -> "Flow":
        """The same at one observation."""
        return Flow(given(self.field, obs), self.action_shape)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The velocity of the field at `(obs, a_t, t)`."""
        return self.field(obs, a_t, t)


def straight_through_clip(action: Array, low: Array, high: Array) -> Array:
    """`jnp.clip(action, low, high)` whose derivative in `action` is the identity.

    A gradient through it is the gradient *at* the clipped point; a hard clip would zero it
    wherever the action is outside the bounds. A second derivative is the true one: zero in
    the dimensions that are outside, where moving the action does not move the clipped point.
    """
    return _straight_through_clip(action, low, high)  # which pickle would not find by its name


@jax.custom_jvp
def _straight_through_clip(action: Array, low: Array, high: Array) -> Array:
    return jnp.clip(action, low, high)


@_straight_through_clip.defjvp
def _(primals, tangents):
    # A hard clip, for a derivative around this one differentiates the clipped point itself.
    return jnp.clip(*primals), tangents[0]


class Bounded(eqx.Module):
    """A critic that knows the bounds of its actions; made by `bounded`."""

    critic: Callable
    low: Float[Array, "..."] = eqx.field(converter=jnp.asarray)
    high: Float[Array, "..."] = eqx.field(converter=jnp.asarray)
    clip: Callable = eqx.field(static=True, default=straight_through_clip)

    def __call__(self, obs: Obs, action: Action) -> Scalar:
        """The critic's value at the clipped action."""
        action = _not_whole(action)
        return self.critic(obs, self.clip(action, *self._bounds(action)))

    def given(self, obs: Obs) -> "Bounded":
        """The same at one observation."""
        return Bounded(given(self.critic, obs), self.low, self.high, self.clip)

    def action_gradient(self, obs: Obs, action: Action) -> Action:
        """The gradient at the clipped action, the critic's own if it has one."""
        if self.clip is straight_through_clip:
            return action_gradient(self.critic, obs, self.to_bounds(action))
        return jax.grad(lambda a: critic(self, obs, a))(action)

    def to_bounds(self, action: Action) -> Action:
        """The action, clipped to the bounds; a NaN stays a NaN."""
        action = _not_whole(action)
        return jnp.clip(action, *self._bounds(action))

    def inside(self, action: Action) -> Action:
        """1 where the action is within the bounds, 0 where it is clipped."""
        low, high = self._bounds(action)
        return ((low <= action) & (action <= high)).astype(action.dtype)

    def _bounds(self, action):
        for name in ("low", "high"):
            check_broadcasts(name, getattr(self, name).shape, jnp.shape(action))
        cast = (jax.lax.stop_gradient(b).astype(action.dtype) for b in (self.low, self.high))
        return tuple(jnp.broadcast_to(b, jnp.shape(action)) for b in cast)


def _not_whole(action: Array) -> Array:
    """Whole numbers as floats, for bounds that are not whole."""
    floats = jnp.issubdtype(action.dtype, jnp.floating)
    return action if floats else action.astype(jnp.result_type(float))


def bounded(
    critic: Critic,
    low: ArrayLike = -1.0,
    high: ArrayLike = 1.0,
    *,
    clip: Callable = straight_through_clip,
) -> Bounded:
    """A critic of actions in a box, evaluated at `clip(action, low, high)`.

    Every estimator and the ranking of best-of-N then respect the box, and `sample`
    returns actions inside it. The default clip is straight-through (the gradient is
    taken at the clipped point, the paper's choice for QGF); `clip=jnp.clip` zeroes
    the gradient of the dimensions that are outside (what the authors' code does to
    QGF-Jacobian and BPTT).

    **Arguments:**

    - `critic`: any callable `(obs, action) -> scalar`.
    - `low`, `high`: numbers, or arrays that broadcast to the action. A dimension whose bounds
      are equal is locked: it always has that value.
    - `clip`: a function `(action, low, high) -> action`.

    **Returns:** a critic.

    **Raises:** `ValueError` if `low` is above `high` or NaN; when called, if the bounds do not
    broadcast to the action.
    """
    if not any(isinstance(b, Tracer) for b in (low, high)):
        try:
            ordered = np.all(np.asarray(low, float) <= np.asarray(high, float))
        except (TypeError, ValueError):
            raise ValueError(
                f"`low` and `high` must be numbers, or arrays of one shape, got {low} and {high}."
            ) from None
        if not ordered:
            raise ValueError(f"`low` must not be above `high`, got {low} and {high}.")
    return Bounded(critic, low, high, clip)


def has_own_gradient(q: Critic) -> bool:
    """Whether a critic, bounded or not, has a method `action_gradient` of its own."""
    return hasattr(q.critic if isinstance(q, Bounded) else q, "action_gradient")


def asked_at(q: Critic, action: Action) -> Action:
    """Where a critic is asked about an action: at the action, clipped if the critic is bounded."""
    return q.to_bounds(action) if isinstance(q, Bounded) else action


def ask(name: str, model: Callable, **arguments: Any) -> Any:
    """A foreign callable's answer; what it raises is told of the shapes it was called with."""
    if not callable(model):
        raise TypeError(f"`{name}` must be callable, got {model!r}.")
    try:
        return model(*arguments.values())
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not any("raised this when it was asked" in note for note in notes):  # further in
            shapes = ", ".join(f"{k}: {jax.tree.map(np.shape, x)}" for k, x in arguments.items())
            if "callbacks do not support JVP" in str(error):
                error.add_note(
                    f"`{name}` raised this when it was asked for its derivative: a callback has "
                    "none. Of a policy `qgf` and `ood` need none; `qgf_jacobian`, `bptt`, "
                    "`curvature` and `steering.Inpainted` (a loop's `ahead`) do. A critic by "
                    "callback gives its gradient by a method `action_gradient(obs, action)`."
                )
                raise
            error.add_note(
                f"`{name}` raised this when it was asked at one example, of shapes {shapes}. "
                "A policy is called as `(obs, a_t, t)`, a critic as `(obs, action)`: are the two "
                "swapped? If these are a batch, wrap the call in `jax.vmap`. If an axis is "
                "missing, the argument must be a batch, and one example was given."
            )
        raise


def velocity(policy: Velocity, obs: Obs, a_t: Action, t: Time) -> Action:
    """The velocity `v(obs, a_t, t)` of a policy, checked to have the shape of `a_t`.

    **Arguments:**

    - `policy`: any callable `(obs, a_t, t) -> velocity`.
    - `obs`: one observation (a PyTree), not a batch.
    - `a_t`: a point on the flow.
    - `t`: its time; 0 is noise, 1 is an action.

    **Returns:** an array of the shape and dtype of `a_t`.

    **Raises:** `TypeError` if the result is not one array; `ValueError` if it has another shape or
    is complex, if `a_t` is not a float array, or if its shape differs from the policy's
    `action_shape`. Errors from the policy itself pass through, with a note of the input shapes.
    """
    a_t = as_floats("a_t", a_t)
    wanted = known_shape(policy)
    if wanted is not None:
        check_same_shape("a_t", a_t.shape, "policy.action_shape", wanted)
    t = as_number("t", t, a_t.dtype)
    v = as_answer("policy", ask("policy", policy, obs=obs, a_t=a_t, t=t))
    if v.shape != jnp.shape(a_t):
        raise ValueError(
            f"`policy` returned a velocity of shape {v.shape} for an `a_t` of shape "
            f"{jnp.shape(a_t)}; the two must be equal. If `obs` is a batch, wrap the "
            "call in `jax.vmap`."
        )
    return v.astype(a_t.dtype)


def critic(q: Critic, obs: Obs, action: Action) -> Scalar:
    """The value `Q(obs, action)` of a critic, checked to be a scalar.

    **Arguments:**

    - `q`: any callable `(obs, action) -> scalar`.
    - `obs`: one observation (a PyTree), not a batch.
    - `action`: a clean action, not a point on the flow.

    **Returns:** a scalar of the dtype of `action`, if that is a float.

    **Raises:** `TypeError` if the result is not one array, `ValueError` if it is not a scalar or
    not a float.
    """
    action = as_reals("action", action)
    value = as_scalar("critic", ask("critic", q, obs=obs, action=action))
    return value.astype(action.dtype) if jnp.issubdtype(action.dtype, jnp.floating) else value


def timed_value(robust_critic: TimedCritic, obs: Obs, a_t: Action, t: Time) -> Scalar:
    """The value `Q_r(obs, a_t, t)` of a critic of noisy actions, checked to be a scalar."""
    answer = ask("robust_critic", robust_critic, obs=obs, a_t=a_t, t=t)
    return as_scalar("robust_critic", answer).astype(a_t.dtype)


def values_of(values: Callable, obs: Obs, action: Action) -> Float[Array, " members"]:
    """Every member's value `Q_e(obs, action)`, checked to be a vector."""
    return as_vector("values", ask("values", values, obs=obs, action=action))


def action_gradient(q: Critic, obs: Obs, action: Action) -> Action:
    """The gradient of `Q(obs, action)` with respect to the action.

    Arguments and errors as for `critic`. If a critic has a method `action_gradient(obs, action)`,
    that is called. Costs the critic's forward and backward pass.
    """
    action = as_floats("action", action)
    own = getattr(q, "action_gradient", None)
    if own is not None:
        g = ask("critic.action_gradient", own, obs=obs, action=action)
        return as_gradient("critic.action_gradient", g, action)
    return jax.grad(lambda a: critic(q, obs, a))(action)
