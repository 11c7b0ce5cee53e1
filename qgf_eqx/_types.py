"""The shapes of things: one alias or one Protocol for each."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray, Scalar

Obs: TypeAlias = Any
"""A state: any PyTree of arrays, or `None`. Goals live inside it."""

Action: TypeAlias = Float[Array, "*action"]
"""An action, or a chunk of actions, of any rank; also a point on the flow."""

Time: TypeAlias = float | int | Scalar
"""Flow time in [0, 1]: 0 is noise, 1 is an action."""

Key: TypeAlias = PRNGKeyArray
"""One key, as made by `jax.random.key`."""


@runtime_checkable
class Velocity(Protocol):
    """A velocity field on actions: any callable `(obs, a_t, t) -> velocity`."""

    def __call__(self, obs: Obs, a_t: Action, t: Time, /) -> Action: ...


@runtime_checkable
class Policy(Velocity, Protocol):
    """A velocity field that also knows the shape of an action, which `sample` needs."""

    @property
    def action_shape(self) -> tuple[int, ...]: ...


@runtime_checkable
class Critic(Protocol):
    """An action value: any callable `(obs, action) -> scalar`."""

    def __call__(self, obs: Obs, action: Action, /) -> Scalar: ...


@runtime_checkable
class TimedCritic(Protocol):
    """An action value on the flow: any callable `(obs, a_t, t) -> scalar`."""

    def __call__(self, obs: Obs, a_t: Action, t: Time, /) -> Scalar: ...


@runtime_checkable
class Value(Protocol):
    """A state value: any callable `obs -> scalar`."""

    def __call__(self, obs: Obs, /) -> Scalar: ...


@runtime_checkable
class Guidance(Protocol):
    """An estimator of the gradient of the critic with respect to `a_t`."""

    def __call__(
        self, policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time, /
    ) -> Action: ...


Weight: TypeAlias = float | int | Array | Callable[[Time, Action, Action], Any]
"""A number, an array that broadcasts to the action, or a function of `(t, v, g)`."""
