"""The border where foreign callables are called, and their answers checked."""

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Scalar

from ._types import Action, Critic, Obs, Time, Velocity

_Field = TypeVar("_Field", bound=Callable)


def given(model: Any, obs: Obs) -> Any:
    """The policy or critic at one observation: `model.given(obs)` if it has that, else itself.

    What does not change along the flow, an encoder or the observation's share of the first layer,
    is then computed once per action and not in every step. The samplers call it; the
    networks of `nn` have it, and yours may: a method `given(obs)` that returns a callable of the
    same arguments.
    """
    return model.given(obs) if hasattr(model, "given") else model


def _as_shape(shape) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, shape))
    except TypeError:
        raise TypeError(
            f"`action_shape` must be a tuple of integers, got {shape!r}: `(2,)` for an action of "
            "two dimensions, `(5, 2)` for a chunk of five, `()` for a number."
        ) from None


class Flow(eqx.Module):
    """Gives any velocity field the shape of its actions, which `sample` needs to
    draw noise.

    ```python
    policy = Flow(lambda obs, a_t, t: -a_t, action_shape=(2,))
    ```
    """

    field: Callable
    action_shape: tuple[int, ...] = eqx.field(static=True, converter=_as_shape)

    def given(self, obs: Obs) -> "Flow":
        """The same at one observation."""
        return Flow(given(self.field, obs), self.action_shape)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The velocity of the field at `(obs, a_t, t)`."""
        return self.field(obs, a_t, t)


@jax.custom_jvp
def straight_through_clip(action: Array, low: Array, high: Array) -> Array:
    """`jnp.clip(action, low, high)` whose derivative in `action` is the identity.

    A gradient asked through it is the gradient *at* the clipped point; a hard clip
    would zero it wherever the action is outside the bounds.
    """
    return jnp.clip(action, low, high)


@straight_through_clip.defjvp
def _(primals, tangents):
    return straight_through_clip(*primals), tangents[0]


class Bounded(eqx.Module):
    """A critic that knows the bounds of its actions; made by `bounded`."""

    critic: Callable
    low: Float[Array, "..."] = eqx.field(converter=jnp.asarray)
    high: Float[Array, "..."] = eqx.field(converter=jnp.asarray)
    clip: Callable = eqx.field(static=True, default=straight_through_clip)

    def __call__(self, obs: Obs, action: Action) -> Scalar:
        """The critic's value at the clipped action."""
        return self.critic(obs, self.clip(action, *self._bounds(action)))

    def given(self, obs: Obs) -> "Bounded":
        """The same at one observation."""
        return Bounded(given(self.critic, obs), self.low, self.high, self.clip)

    def action_gradient(self, obs: Obs, action: Action) -> Action:
        """The gradient at the clipped action, the critic's own if it has one."""
        if self.clip is straight_through_clip:
            return action_gradient(self.critic, obs, self.clip(action, *self._bounds(action)))
        return jax.grad(lambda a: critic(self, obs, a))(action)

    def to_bounds(self, action: Action) -> Action:
        """The action, clipped to the bounds; a NaN stays a NaN."""
        return jnp.clip(action, *self._bounds(action))

    def _bounds(self, action):
        cast = (jax.lax.stop_gradient(b).astype(action.dtype) for b in (self.low, self.high))
        return tuple(jnp.broadcast_to(b, jnp.shape(action)) for b in cast)


def bounded(
    critic: Critic,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
    *,
    clip: Callable = straight_through_clip,
) -> Bounded:
    """The critic of actions in a box: it is asked at `clip(action, low, high)`.

    Every estimator and the ranking of best-of-N then respect the box, and `sample`
    returns actions inside it. The default clip is straight-through (the gradient is
    taken at the clipped point, the paper's choice for QGF); `clip=jnp.clip` zeroes
    the gradient of the dimensions that are outside (what the authors' code does to
    QGF-Jacobian and BPTT).

    **Arguments:**

    - `critic`: any callable `(obs, action) -> scalar`.
    - `low`, `high`: numbers, or arrays that broadcast to the action.
    - `clip`: a function `(action, low, high) -> action`.

    **Returns:** a critic.

    **Raises:** `ValueError` if `low` is not below `high`.
    """
    known = not any(isinstance(b, Tracer) for b in (low, high))
    if known and not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(f"`low` must be below `high`, got {low} and {high}.")
    return Bounded(critic, low, high, clip)


def _ask(name: str, model: Callable, **arguments: Any) -> Any:
    """A foreign callable's answer; what it raises is told of the shapes it was called with."""
    if not callable(model):
        raise TypeError(f"`{name}` must be callable, got {model!r}.")
    try:
        return model(*arguments.values())
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not any("raised this when it was asked" in note for note in notes):  # further in
            shapes = ", ".join(f"{k}: {jax.tree.map(np.shape, x)}" for k, x in arguments.items())
            error.add_note(
                f"`{name}` raised this when it was asked at one example, of shapes {shapes}. "
                "Is there a batch's axis too many? Wrap the call in `jax.vmap`. Is one missing? "
                "Then a batch was wanted where one example was given."
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

    **Raises:** `ValueError` if the answer has another shape. What the policy itself raises passes
    through, with a note of the shapes it was called with.
    """
    v = jnp.asarray(_ask("policy", policy, obs=obs, a_t=a_t, t=t))
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
    - `action`: an action fit for a critic: a clean one, not a point on the flow.

    **Returns:** a scalar of the dtype of `action`, where that is a float.

    **Raises:** `ValueError` if the answer is not a scalar, or no float.
    """
    value = jnp.asarray(_ask("critic", q, obs=obs, action=action))
    if value.shape != ():
        raise ValueError(
            f"`critic` returned an array of shape {value.shape}; it must return a scalar. "
            "Squeeze a trailing axis of size 1, reduce an ensemble (say with `jnp.min`), "
            "and if `obs` is a batch, wrap the call in `jax.vmap`."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"`critic` returned {value.dtype}; it must return a float, or it has no gradient."
        )
    floating = jnp.issubdtype(jnp.result_type(action), jnp.floating)
    return value.astype(jnp.result_type(action)) if floating else value


def action_gradient(q: Critic, obs: Obs, action: Action) -> Action:
    """The gradient of `Q(obs, action)` with respect to the action.

    Arguments and errors as for `critic`; a critic that has a method `action_gradient(obs, action)`
    is asked for it. Costs the critic's forward and backward pass.
    """
    own = getattr(q, "action_gradient", None)
    if own is not None:
        return own(obs, action)
    return jax.grad(lambda a: critic(q, obs, a))(action)
