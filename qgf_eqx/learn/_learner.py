"""The contract of what is trained: a frozen dataclass of settings with pure methods."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._fields import Bounded
from .._types import Action, Guidance, Key, Obs, Policy, Value
from ..data import Chunk
from ..nn import Encoded, ObsEncoder, PictureShape
from ._settings import check, setting


class Spec(NamedTuple):
    """What networks are made for."""

    obs_size: int
    """How many numbers an observation holds, beside its pictures; its goal's are the last."""
    action_shape: tuple[int, ...]
    """Of a chunk, `(horizon, action_size)`."""
    low: float | tuple[float, ...] = -1.0
    """The least action, in the flow's units: one number, or one of each dimension of a step."""
    high: float | tuple[float, ...] = 1.0
    pictures: tuple[PictureShape, ...] = ()
    """Of an observation that is a tuple of its numbers and these."""
    features: int = 512
    """Numbers that every picture becomes."""
    goal_size: int = 0
    """How many of the observation's numbers are those of a goal."""

    @property
    def state_size(self) -> int:
        """How many numbers a state holds, without a goal."""
        return self.obs_size - self.goal_size

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """The least and the largest action, as arrays."""
        return jnp.asarray(self.low, jnp.float32), jnp.asarray(self.high, jnp.float32)

    def net(self, make: Callable, key: Key, *, more: int = 0, goal: bool = True) -> Any:
        """The network `make(obs_size, key=key)`, with `more` inputs than an observation has, its
        own encoder for each picture, if any, and no goal unless `goal`."""
        if self.goal_size and not goal:
            return Encoded(StateOf(self.state_size), make(self.state_size, key=key))
        if not self.pictures:
            return make(self.obs_size + more, key=key)
        key, encoder_key = jax.random.split(key)
        sizes = self.obs_size + more, self.pictures
        encoder = ObsEncoder(*sizes, features=self.features, key=encoder_key)
        return Encoded(encoder, make(encoder.size, key=key))


class StateOf(eqx.Module):
    """The state of an observation that ends with a goal."""

    size: int = eqx.field(static=True)

    def __call__(self, obs: Obs) -> Obs:
        """Its first numbers."""
        return obs[: self.size]


class Networks(NamedTuple):
    """The networks of a learner."""

    trained: Any
    """Those that its losses differentiate."""
    kept: Any = None
    """Those that follow: moving averages."""


class Judges(NamedTuple):
    """What actors are trained against."""

    critic: Bounded
    """The critic that guides: a scalar, which is asked within the bounds of actions."""
    values: Callable
    """Each member of its ensemble, `(obs, action) -> (members,)`, wherever it is asked."""
    value: Value | None = None
    """The state value, if the critic has one."""
    online: Callable | None = None
    """As `values`, of the networks that are trained, if those that guide are their average."""

    @property
    def newest(self) -> Callable:
        """`online`, or `values` where there is no average."""
        return self.values if self.online is None else self.online


@dataclass(frozen=True)
class Learner:
    """Sizes of networks, and their optimiser. The settings *are* the config: they serialise."""

    width: int = 1024
    """The width of the hidden layers."""
    depth: int = setting(4, most=1000)
    """The number of hidden layers."""
    learning_rate: float = 3e-4
    """The learning rate of Adam."""

    label: ClassVar[str] = ""
    """In tables and figures; by default the name."""
    colour: ClassVar[str] = "#000000"
    """In figures."""
    strength: ClassVar[str] = ""
    """The setting that a number in a name sets, as in `fql-30`: what is tuned of the method."""
    sees_goal: ClassVar[bool] = True
    """Whether its networks see the goal, in a run that has goals."""

    def __post_init__(self):
        check(self)

    @property
    def size(self) -> dict[str, int]:
        """The sizes, as networks take them."""
        return {"width": self.width, "depth": self.depth}

    def optimizer(self) -> optax.GradientTransformation:
        """What makes a step of a gradient."""
        return optax.adam(self.learning_rate)

    def follow(self, nets: Networks) -> Networks:
        """After the step: moving averages, if there are some."""
        return nets


@runtime_checkable
class CriticLearner(Protocol):
    """A learner of values. Its losses are of one chunk; `vmap` and the mean are the loop's."""

    needs_action: ClassVar[bool]
    """Whether its losses need an actor's action at the chunk's end."""

    def init(self, spec: Spec, key: Key) -> Networks: ...
    def losses(
        self, nets: Networks, chunk: Chunk, next_action: Action | None
    ) -> dict[str, Any]: ...
    def follow(self, nets: Networks) -> Networks: ...
    def judges(self, nets: Networks, spec: Spec) -> Judges: ...
    def optimizer(self) -> optax.GradientTransformation: ...


@runtime_checkable
class ActorLearner(Protocol):
    """A learner that is trained against the critic from before the update."""

    def init(self, spec: Spec, key: Key) -> Networks: ...
    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]: ...
    def follow(self, nets: Networks) -> Networks: ...
    def optimizer(self) -> optax.GradientTransformation: ...


@runtime_checkable
class Acts(ActorLearner, Protocol):
    """An actor that draws actions."""

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action: ...


@runtime_checkable
class HasPolicy(ActorLearner, Protocol):
    """An actor that is a flow, which guidance can take."""

    def policy(self, nets: Networks) -> Policy: ...


@runtime_checkable
class Guides(ActorLearner, Protocol):
    """An actor that guides a flow: its networks are an estimator."""

    def estimator(self, nets: Networks, real: Callable) -> Guidance: ...


def copied(model: Any) -> Any:
    """A model with arrays of its own, since those of a state are donated."""
    return jax.tree.map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, model)
