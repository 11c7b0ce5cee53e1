"""Roll-outs: environments in lock-step with one batched call of the policy.

Every episode is numbered; its number seeds its environment and its noise, so that methods are
compared on the same episodes, and tuning and reporting use different ones.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_count
from ..data._dataset import is_picture
from ..data._environment import seed_everything
from .task import MissingOutcome, Outcome, Success

Act: TypeAlias = Callable[[Any, jax.Array, int], Any]
"""From observations and episode numbers, an environment a row, and the count of chunks so far, to
chunks of actions `(envs, horizon, *action)`, or to single actions `(envs, *action)`."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """The result of one roll-out."""

    number: int
    success: bool
    """Always false for a task that is judged by its return."""
    length: int
    """Environment steps."""
    total_reward: float
    """Of an episode with an `error` that of its steps until then, which says little: without the
    rest, rewards of -1 a step look better than a success."""
    error: str = ""
    """Why it counts as a failure, if the environment raised or returned NaN."""
    path: list[list[float]] = dataclasses.field(default_factory=list)
    """The first two numbers of every observation, if asked for: the path through a maze."""


def rollout(
    envs: Sequence,
    act: Act,
    numbers: Sequence[int],
    *,
    seed: int,
    outcome: Outcome = Success(),  # noqa: B008 (frozen)
    record: bool = False,
    goals: int = 0,
) -> list[Episode]:
    """One episode per environment, in lock-step, executing chunks of actions open-loop.

    **Arguments:**

    - `envs`: at least as many Gymnasium environments as `numbers`. Observations may be arrays,
      dicts or tuples of them; actions are arrays within the bounds of the environment's `Box`.
    - `act`: the batched policy. Its actions are clipped to those bounds.
    - `numbers`: of the episodes.
    - `seed`: with an episode's number it seeds its environment.
    - `outcome`: how an episode is judged, from `evaluate.task`.
    - `record`: keep the paths.
    - `goals`: how many the task has; episode numbers select one.

    **Returns:** the episodes, in order. An environment that raises or returns NaN ends its
    episode as a failure, with the error.

    **Raises:** `ValueError` if there are too few environments, if actions do not fit, or if one
    does not say what the outcome needs: without it no episode can be judged.
    """
    check_numbers(seed, numbers)
    if len(envs) < len(numbers):
        raise ValueError(f"`envs` holds {len(envs)} environments for {len(numbers)} `numbers`.")
    runs = [
        _Run(env, seed, number, outcome, record, goals)
        for env, number in zip(envs, numbers, strict=False)
    ]
    _warn_of_one_start(runs)
    if record:
        _check_places(runs)
    count = 0
    while alive := [run for run in runs if run.alive]:
        shown = [run.obs if run.obs is not None else alive[0].obs for run in runs]
        chunks = np.asarray(act(as_inputs(shown), jnp.asarray(numbers, jnp.uint32), count))
        for run, chunk in zip(runs, chunks, strict=True):
            run.execute(chunk)
        count += 1
    return [run.episode() for run in runs]


def _warn_of_one_start(runs: Sequence["_Run"]) -> None:
    """Many episodes that begin in one state are one sample; MetaWorld's once made a method look 35
    points better than another."""
    starts = [jax.tree.leaves(run.obs) for run in runs if run.obs is not None]
    same = max((sum(_equal(a, b) for b in starts) for a in starts), default=0)
    if same > 1 and same > len(starts) / 2:
        warnings.warn(
            f"{same} of {len(starts)} episodes of {runs[0].env} start in one state, whatever the "
            "seed of their reset, so they count as one episode. If the environment draws its start "
            "when it is made, set `new_env_each_episode=True` of the `Task`.",
            RuntimeWarning,
            stacklevel=3,
        )


def _check_places(runs: Sequence["_Run"]) -> None:
    for run in runs:
        if run.obs is not None and _place_of(run.obs) is None:
            raise ValueError(
                "`record` keeps the first two numbers of an observation, and those of "
                f"{run.env} are not a row of two numbers or more. Leave `record` out."
            )


def _place_of(obs: Any) -> Any:
    """The row of numbers in which a place is the first two; None if there is none."""
    state = obs[0] if isinstance(obs, tuple) else obs
    return state if hasattr(state, "shape") and len(state.shape) == 1 and len(state) > 1 else None


def _equal(ours: Sequence, theirs: Sequence) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def check_numbers(seed: int, numbers: Sequence[int]) -> None:
    """Refuses what cannot seed an episode."""
    counts = [("seed", seed), *(("numbers", number) for number in numbers)]
    for name, count in counts:
        if check_count(name, count, "it seeds an episode", least=0) >= 2**32:
            raise ValueError(f"`{name}` must be below 2^32, got {count}.")


def goal_option(goals: int, number: int) -> dict[str, dict]:
    """Of `reset`: which of the task's goals an episode has; nothing, if it has none."""
    return {"options": {"task_id": 1 + number % goals}} if goals else {}


def check_outcome(env: Any, outcome: Outcome, goals: int = 0) -> None:
    """Plays one step, so that a missing outcome is an error before the first episode.

    **Raises:** `MissingOutcome`, a `ValueError`, that names the environment.
    """
    reset_seed = seed_everything(env, 0, 0)
    try:
        env.reset(seed=reset_seed, **goal_option(goals, 0))
        obs, _, _, _, info = env.step(env.action_space.sample())
    except Exception:  # an environment that breaks is a failure of the episode that meets it
        return
    _reached(env, outcome, obs, info)


def _reached(env: Any, outcome: Outcome, obs: Any, info: dict) -> Any:
    try:
        return outcome.reached(obs, info)
    except MissingOutcome as error:
        raise MissingOutcome(f"{env}: {error}") from None


def as_inputs(observations: Sequence) -> Any:
    """Observations as one batch of arrays."""
    return jax.tree.map(lambda *leaves: jnp.asarray(_as_input(np.stack(leaves))), *observations)


def _as_input(obs: np.ndarray) -> np.ndarray:
    """float32, but pictures stay bytes: the network scales them."""
    return obs if is_picture(obs.dtype, obs.shape[1:]) else obs.astype(np.float32)


class _Run:
    """One environment during one episode."""

    def __init__(self, env, seed: int, number: int, outcome: Outcome, record: bool, goals: int):
        self.env, self.number, self.outcome, self.record = env, number, outcome, record
        self.success, self.length, self.total, self.error = False, 0, 0.0, ""
        self.alive, self.obs, self.path = True, None, []
        reset_seed = seed_everything(env, seed, number)
        try:
            obs, _ = env.reset(seed=reset_seed, **goal_option(goals, number))
            self._see(obs)
        except Exception as error:
            self._fail(error)

    def execute(self, chunk: np.ndarray) -> None:
        for action in self._actions(chunk) if self.alive else ():
            if not np.isfinite(action).all():
                said = (
                    "the method gave an action that is not finite: the critic, the policy or the "
                )
                return self._fail(FloatingPointError(f"{said}weight gives NaN or infinity"))
            try:
                obs, reward, terminated, truncated, info = self.env.step(action)
                success = _reached(self.env, self.outcome, obs, info)
            except MissingOutcome:
                raise
            except Exception as error:
                return self._fail(error)
            try:
                self.length += 1
                reward = _as_number(reward)
                self._see(obs, reward, success)
                self.total += reward
                self.success = self.success or bool(success)
                self.alive = not (terminated or truncated)
            except Exception as error:
                self._fail(error)
            if not self.alive:
                return

    def episode(self) -> Episode:
        return Episode(self.number, self.success, self.length, self.total, self.error, self.path)

    def _actions(self, chunk: np.ndarray) -> np.ndarray:
        """The actions of a chunk, or of a single one, as the environment takes them."""
        space = self.env.action_space
        low, high = action_bounds(space)
        extra = chunk.ndim - low.ndim
        if extra not in (0, 1) or chunk.shape[extra:] != low.shape or not chunk.size:
            raise ValueError(
                f"the policy makes actions of shape {chunk.shape}, but the environment takes "
                f"{low.shape}, or chunks of them."
            )
        return np.clip(chunk.reshape(-1, *low.shape), low, high).astype(space.dtype)

    def _see(self, obs, reward=0.0, success=False) -> None:
        seen = {"observations": jax.tree.leaves(obs), "rewards": [reward], "success": [success]}
        for name, values in seen.items():
            if not all(np.isfinite(value).all() for value in values):
                raise FloatingPointError(f"the environment returned NaN or infinite {name}")
        self.obs = obs
        if self.record and (state := _place_of(obs)) is not None:
            self.path.append([round(float(x), 3) for x in state[:2]])

    def _fail(self, error: Exception) -> None:
        self.alive, self.success = False, False
        self.error = f"{type(error).__name__}: {error}"


def _as_number(reward: Any) -> float:
    if np.size(reward) != 1 or np.asarray(reward).dtype.kind not in "fiub":
        raise TypeError(f"the environment's reward must be one number, got {reward!r}")
    return float(np.asarray(reward).item())


def action_bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of an action space.

    **Raises:** `TypeError` if it is not a `Box` of numbers.
    """
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        raise TypeError(
            f"the environment's actions are {space}, but a flow makes arrays of numbers: it needs "
            "a `gymnasium.spaces.Box`."
        )
    return np.asarray(low), np.asarray(high)
