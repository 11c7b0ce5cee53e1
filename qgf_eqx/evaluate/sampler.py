"""A way to draw an action from a flow and a critic at test time, as one value."""

import dataclasses
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Scalar

from .. import guidance
from .._fields import Bounded, bounded
from .._sample import sample
from .._types import Action, Critic, Guidance, Key, Obs, Policy
from ..weights import LinearDecay
from ._rollout import Act


@runtime_checkable
class Draw(Protocol):
    """How an action is drawn: `sample`, or a function of the same arguments."""

    def __call__(
        self,
        policy: Policy,
        critic: Critic,
        obs: Obs,
        key: Key,
        *,
        guidance: Guidance,
        weight: Any,
        steps: int,
        best_of: int,
    ) -> Action:
        """One action for one observation."""
        ...


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A test-time method, with all that it needs besides a policy and a critic."""

    estimator: Guidance = guidance.qgf
    """Without the flow's steps, which the sampler binds; see `guidance`."""
    weight: float | LinearDecay = 0.0
    """0 is the plain flow."""
    best_of: int = 1
    steps: int = 10
    """Euler steps of the flow."""
    reduce: Callable = jnp.min
    """Of an ensemble's values, for guidance and for ranking; the paper's is the minimum."""
    name: str = ""
    """As it appears in tables; see `names.method`."""
    draw: Draw = sample
    """`sample`, or what takes its place, such as `steering.keep_best`."""
    weighted: bool = True
    """Whether a comparison chooses its weight."""
    actor: str = ""
    """Of a run's actors, the one whose flow is guided, or that draws its action itself; by default
    the flow."""
    choices: tuple[float, ...] = ()
    """Weights to choose from, in place of those of the comparison."""
    untuned: bool = False
    """Whether a comparison gives it 0.3 of the starting weight, and plays no episodes to choose."""

    def __post_init__(self):
        object.__setattr__(self, "weight", plain_weight(self.weight))

    @property
    def has_guidance_weight(self) -> bool:
        """Whether its weight is one of guidance, and none of an actor's own."""
        return self.weighted and not self.choices

    @property
    def guidance(self) -> Guidance:
        """The estimator with the sampler's own `steps`, where it walks to the end of the flow
        (`qgf_chain`, `bptt`)."""
        return _on_the_grid(self.estimator, self.steps)

    def critic(self, values: Callable) -> "Reduced":
        """The critic that an ensemble's values make by `reduce`."""
        return Reduced(values, self.reduce)

    def __call__(
        self, policy: Any, critic: Critic, obs: Obs, key: Key, *, weight: Any = None
    ) -> Action:
        """One action of the method for one observation; with its own weight, or another."""
        return self.draw(
            policy,
            critic,
            obs,
            key,
            guidance=self.guidance,
            weight=self.weight if weight is None else weight,
            steps=self.steps,
            best_of=self.best_of,
        )


def plain_weight(weight: Any, name: str = "weight") -> Any:
    """A weight whose number is Python's, so that it can be hashed, compared and written to a file:
    of an array with one number, and of a `LinearDecay` of one. Schedules are left as they are.

    **Raises:** `TypeError` if it is neither a number nor a function, `ValueError` if it is not
    finite in float32.
    """
    number = weight.start if isinstance(weight, LinearDecay) else weight
    if isinstance(number, Tracer) or (callable(number) and not isinstance(number, type)):
        return weight
    if isinstance(number, np.generic | np.ndarray | jax.Array) and np.ndim(number) == 0:
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(
            f"`{name}` must be a number, a `LinearDecay` or another schedule of `qgf_eqx.weights`, "
            f"got {weight!r}."
        )
    if not abs(float(number)) <= float(np.finfo(np.float32).max):
        raise ValueError(f"`{name}` must be a finite number in float32, got {number}.")
    return LinearDecay(float(number)) if isinstance(weight, LinearDecay) else float(number)


def _on_the_grid(estimator: Guidance, steps: int) -> Guidance:
    """The estimator, and what it is made `like`, with the flow's steps where that is missing."""
    bare = getattr(estimator, "func", estimator)  # of a `Partial`
    bound = getattr(estimator, "keywords", {})
    if hasattr(bare, "func"):  # of a `Partial` of a `Partial`
        inner = _on_the_grid(bare, steps)
        return estimator if inner is bare else eqx.Partial(inner, *estimator.args, **bound)  # type: ignore[attr]
    if "like" in bound:
        like = _on_the_grid(bound["like"], steps)
        return eqx.Partial(bare, *estimator.args, **{**bound, "like": like})  # type: ignore[attr]
    if bare in (guidance.qgf_chain, guidance.bptt) and "steps" not in bound:
        return eqx.Partial(estimator, steps=steps)
    return estimator


class Reduced(eqx.Module):
    """An ensemble as one critic: `reduce(values(obs, action))`."""

    values: Callable
    """Every member's value, `(obs, action) -> (members,)`."""
    reduce: Callable = jnp.min

    def __call__(self, obs: Obs, action: Action) -> Scalar:
        """The value of the members together."""
        return self.reduce(self.values(obs, action))


def make_act(
    policy: Any,
    critic: Critic,
    sampler: Sampler,
    *,
    seed: int,
    low: float | np.ndarray | Array = -1.0,
    high: float | np.ndarray | Array = 1.0,
) -> Act:
    """The compiled, batched sampler of a method, with bounded actions.

    The noise of an episode's chunk is a pure function of `seed`, the episode's number and the
    chunk's.

    **Arguments:**

    - `policy`, `critic`: as for `sample`, or what `sampler.draw` takes for a policy. A critic that
      is `bounded` keeps its own bounds.
    - `sampler`: the method. Its `reduce` is not used here: `critic` is one critic.
    - `seed`: of the noise.
    - `low`, `high`: of the actions; they broadcast to the policy's `action_shape`.
    """
    act = compile_act(policy, critic, sampler, seed=seed, low=low, high=high)
    return partial(act, sampler.weight)


def takes_weights(sampler: Sampler) -> bool:
    """Whether one compiled program takes every weight of the sampler's kind as an argument. A
    weight of 0 has its own program, which calls no critic."""
    weight = sampler.weight
    constant = isinstance(weight, float | int) and weight != 0
    return sampler.draw is sample and (constant or isinstance(weight, LinearDecay))


def compile_act(
    policy: Any,
    critic: Critic,
    sampler: Sampler,
    *,
    seed: int,
    low: Any = -1.0,
    high: Any = 1.0,
) -> Callable[[Any, Any, Any, Any], Any]:
    """`make_act`, as a function of the weight too: `(weight, obs, numbers, count)`. Arguments as
    for `make_act`; a weight that is not an argument of the program (`takes_weights`) is ignored."""
    if not isinstance(critic, Bounded):
        critic = bounded(critic, jnp.asarray(low), jnp.asarray(high))

    @jax.jit
    def act(given, obs, numbers, count):
        weight = given if takes_weights(sampler) else sampler.weight

        def one(obs, number):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), count)
            return sampler(policy, critic, obs, key, weight=weight)

        return jax.vmap(one)(obs, numbers)

    if takes_weights(sampler):
        return act
    return lambda weight, obs, numbers, count: act(0.0, obs, numbers, count)
