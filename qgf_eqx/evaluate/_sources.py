"""What is evaluated: a run's folder, a policy with its critic, or an act function."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Scalar

from .._fields import Bounded, bounded
from .._types import Action, Critic, Obs, Policy
from ._actors import of_run
from ._outcomes import FILE, Outcomes
from ._rollout import Act
from .sampler import Reduced, Sampler, compile_act


@dataclass(frozen=True)
class Run:
    """The networks of a training run, known by the hash of its checkpoint."""

    folder: str
    sha256: str
    critic: "Run | None" = None
    """Another run, whose critic guides and ranks in place of its own."""

    def load(self) -> "InMemory":
        """**Raises:** `CheckpointError` if the checkpoint is not intact, or has another hash."""
        from ..learn import load_run

        trained = load_run(self.folder)
        self._check(trained.sha256)
        values = Values(trained.values)
        if self.critic is not None:
            other = load_run(self.critic.folder)
            self.critic._check(other.sha256)
            check_chunks(trained, other)
            values = Values(other.values, trained.units, other.units)
        return InMemory(trained.policy, values, units=trained.units, trained=trained)

    def _check(self, found: str) -> None:
        from ..checkpoint import CheckpointError

        if found != self.sha256:
            raise CheckpointError(
                f"the checkpoint of {self.folder} changed while it was evaluated. Wait until its "
                "training has ended, or evaluate a copy of the folder."
            )

    def outcomes(self, task: str, seed: int, record: bool) -> Outcomes:
        """What of it was played before.

        **Raises:** `CheckpointError` as `load`.
        """
        self._check(checkpoint_sha256(self.folder))
        hashes = self.sha256 if self.critic is None else f"{self.sha256} {self.critic.sha256}"
        return Outcomes(Path(self.folder) / FILE, hashes, task, seed, record)

    def task(self) -> str:
        """The name of the task that its critic was trained on."""
        from ..learn import load_config

        return load_config((self.critic or self).folder)[0].env


@dataclass(frozen=True)
class InMemory:
    """A policy and a critic of the caller, or an act function. Two of these are equal only if one
    is the other's copy, in another process say."""

    policy: Policy | None = field(default=None, compare=False)
    critic: Critic | None = field(default=None, compare=False)
    act: Act | None = field(default=None, compare=False)
    units: Any = field(default=None, compare=False)
    """`learn.Units`, if the policy's actions are not the environment's."""
    trained: Any = field(default=None, compare=False)
    """A `learn.Trained`, if there is one: its actors can be named."""
    to_action: Callable[[Action], Action] | None = field(default=None, compare=False)
    """From the policy's actions to the environment's, where there are no `units`."""
    token: str = field(default_factory=lambda: uuid4().hex)

    def load(self) -> "InMemory":
        """Itself."""
        return self

    def outcomes(self, task: str, seed: int, record: bool) -> Outcomes:
        """Nothing is kept: what is in memory has no name by which it could be known again."""
        return Outcomes(None)

    def task(self) -> str:
        """**Raises:** `ValueError`: what is in memory knows of no task."""
        raise ValueError("`task` is missing: give a `Task`, or the name of one.")

    def bounds(self, low: Any, high: Any) -> tuple[Any, Any]:
        """The bounds of the environment's actions, in the policy's units."""
        if self.units is None:
            return low, high
        return self.units.from_action(low), self.units.from_action(high)

    def one_critic(self, reduce: Callable, low: Any, high: Any) -> Bounded:
        """The critic that guides, within bounds, which are its own if it has some."""
        critic = self._reduced(reduce)
        if isinstance(critic, Bounded):
            return critic
        return bounded(critic, jnp.asarray(low), jnp.asarray(high))  # type: ignore[arg-type]

    def _reduced(self, reduce: Callable) -> Any:
        """One critic: of a run its members' values reduced; one's own as it is.

        **Raises:** `ValueError` if one's own is to be reduced.
        """
        if isinstance(self.critic, Values):
            return Reduced(self.critic.values, reduce)
        if reduce is not jnp.min:
            raise ValueError(
                "`reduce` is for training runs. Your own critic is called as it is: reduce an "
                "ensemble's values in its `__call__`."
            )
        return self.critic

    def act_of(self, sampler: Sampler, seed: int, low: Any, high: Any) -> Act:
        """The compiled sampler of a method, or the act function: in the environment's units."""
        return partial(self.compiled(sampler, seed, low, high), sampler.weight)

    def compiled(self, sampler: Sampler, seed: int, low: Any, high: Any) -> Callable:
        """`act_of`, as a function of the weight too: of all weights of the sampler's kind."""
        if self.act is not None:
            own = self.act
            return lambda weight, obs, numbers, count: own(obs, numbers, count)
        if self.policy is None or self.critic is None:
            raise ValueError("`source` needs a policy and a critic.")
        policy = self.policy
        if self.trained is not None:
            policy, sampler = of_run(self.trained, sampler)
        elif sampler.actor:
            raise ValueError(f"`{sampler.actor}` is an actor of a training run: name its folder.")
        critic = self._reduced(sampler.reduce)
        size = np.shape(low)[-1:]  # in the environment
        low, high = self.bounds(low, high)
        act = compile_act(policy, critic, sampler, seed=seed, low=low, high=high)
        if sampler.best_of > 1 and self.trained is None:
            act = _warning_of_nan(act, critic, sampler.name)
        to_action = self.to_action
        if getattr(self.units, "actions", None) is not None:
            to_action = self.units.to_action
        if to_action is None:
            _warn_of_other_bounds(critic, low, high)
            return act
        if not isinstance(critic, Bounded) and self.units is None:
            raise ValueError(
                "`to_action` needs a critic that is `bounded` in the policy's own units, "
                "`bounded(critic, low, high)`: the environment's bounds are in other units."
            )

        def converted(actions: Action) -> Action:
            found = to_action(actions)
            if not isinstance(found, jax.Array) or found.dtype.kind != "f":
                raise TypeError(f"`to_action` must return one array of floats, got {found!r}.")
            if found.shape != (wanted := (*np.shape(actions)[:-1], *size)):
                raise ValueError(
                    f"`to_action` makes {found.shape} of actions of shape "
                    f"{np.shape(actions)}; it must make {wanted}: all axes stay, and the last one "
                    "is as long as the environment's action."
                )
            return found

        compiled = jax.jit(converted)
        return lambda *arguments: compiled(act(*arguments))


def _warning_of_nan(act: Callable, critic: Critic, name: str) -> Callable:
    """The same function, which looks at the values of its actions until one is NaN: best-of-N of
    candidates that all are NaN is the first one, and nobody would see it."""
    values, said = jax.jit(jax.vmap(critic)), []

    def looked_at(weight: Any, obs: Any, numbers: Any, count: int) -> Any:
        actions = act(weight, obs, numbers, count)
        if not said and np.isnan(values(obs, actions)).any():
            said.append(count)
            warnings.warn(
                f"`critic` is NaN at actions that `{name}` has chosen, so the choice was not by "
                "value: check the critic on your data.",
                RuntimeWarning,
                stacklevel=2,
            )
        return actions

    return looked_at


def _warn_of_other_bounds(critic: Any, low: Any, high: Any) -> None:
    """Where a critic has bounds of its own, which are not the environment's."""
    if not isinstance(critic, Bounded):
        return
    for own, here in ((critic.low, low), (critic.high, high)):
        if np.ndim(own) and np.shape(own)[-1:] != np.shape(here)[-1:]:
            return  # another shape raises its own error
        if not np.allclose(own, here):
            warnings.warn(
                f"`critic` is bounded by {np.ravel(own)[:4]}, and the environment's actions by "
                f"{np.ravel(here)[:4]}. If the policy's actions are normalised, give `to_action`.",
                RuntimeWarning,
                stacklevel=2,
            )
            return


def as_source(
    source: Any,
    sha256: str | None = None,
    critic: str | Path | None = None,
    to_action: Callable[[Action], Action] | None = None,
) -> Run | InMemory:
    """What `evaluate` is given; and of a run another one, whose critic takes its own's place.

    **Raises:** `TypeError` if it is none of the three; `CheckpointError` for a damaged run.
    """
    is_pair = isinstance(source, tuple) and len(source) == 2 and all(map(callable, source))
    if to_action is not None and not is_pair:
        raise ValueError("`to_action` is for a policy and a critic, given as a tuple.")
    if to_action is not None and not callable(to_action):
        raise TypeError(f"`to_action` must be a function, got {to_action!r}.")
    if isinstance(source, str | Path):
        other = None if critic is None else Run(str(critic), checkpoint_sha256(critic))
        known = checkpoint_sha256(source) if sha256 is None else sha256
        return Run(str(source), known, other)
    if critic is not None:
        raise ValueError("`critic` is for training runs: give your own critic with the policy.")
    if isinstance(source, Run | InMemory):
        return source
    if is_pair:
        return InMemory(*source, to_action=to_action)
    if callable(source):
        return InMemory(act=source)
    if isinstance(source, tuple) and len(source) == 2:
        named = {"policy": source[0], "critic": source[1]}
        wrong = " and ".join(name for name, part in named.items() if not callable(part))
        raise TypeError(f"`source` is a tuple whose {wrong} cannot be called as a function.")
    raise TypeError(
        "`source` must be the folder of a training run, a tuple (policy, critic) or an act "
        f"function, got {type(source).__name__}."
    )


def checkpoint_sha256(run_dir: str | Path) -> str:
    """Which networks a run holds now: the sha256 of its checkpoint, as `sha256sum` prints it.

    **Raises:** `CheckpointError` if there is none, or it is damaged.
    """
    from .. import checkpoint

    return checkpoint.read_checkpoint(Path(run_dir) / "checkpoint.safetensors").sha256


def check_chunks(flow: Any, critic: Any) -> None:
    """**Raises:** `ValueError` if the critic of one run cannot take the actions of another."""
    shapes = [run.saved.spec.action_shape for run in (flow, critic)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`critic` takes chunks of shape {shapes[1]}, but the run makes {shapes[0]}: train "
            "both with the same `horizon`, on tasks with the same actions."
        )


class Values(eqx.Module):
    """A critic whose members' values are known, to be reduced by a sampler's `reduce`."""

    of: Callable
    """Every member's value of an action in the critic's units."""
    flow_units: Any = None
    """`learn.Units` of the actions that are asked for, if they are of another run."""
    units: Any = None
    """Those of the critic."""

    def values(self, obs: Obs, action: Action) -> Any:
        """Every member's value."""
        if self.units is not None:
            action = self.units.from_action(self.flow_units.to_action(action))
        return self.of(obs, action)

    def __call__(self, obs: Obs, action: Action) -> Scalar:
        """The least of the values."""
        return jnp.min(self.values(obs, action))
