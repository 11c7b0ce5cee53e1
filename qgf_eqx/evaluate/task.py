"""What a policy is judged on: an environment, and how its episodes are judged."""

import inspect
import re
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import jax
import numpy as np

from .._named import import_named
from ..data._families import family_of
from ..data.goals import Hindsight

NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
"""What a task may be called."""


class MissingOutcome(ValueError):
    """An environment does not say what its task is judged by."""


def _truth(what: str, found: Any) -> Any:
    """True or false, 1 or 0, or a NaN, which breaks the episode."""
    value = np.asarray(found)
    is_number = value.size == 1 and value.dtype.kind in "biuf"
    if not is_number or (np.isfinite(value).all() and value not in (0, 1)):
        raise MissingOutcome(
            f"{what} is {found!r}, and must be true or false, or 1 or 0. Correct that, or judge "
            "the task by `Return`."
        )
    return found


@dataclass(frozen=True)
class Success:
    """Judged by `info["success"]`, in any step of the episode."""

    def reached(self, obs: Any, info: dict) -> Any:
        """Whether this step succeeded.

        **Raises:** `MissingOutcome` if the environment does not say it, or neither true nor false.
        """
        if "success" not in info:
            raise MissingOutcome(
                'it does not report `info["success"]`, which episodes are judged by. Wrap it so '
                "that its `step` does, or judge the task by `Goal` or `Return`."
            )
        return _truth('its `info["success"]`', info["success"])


@dataclass(frozen=True)
class Goal:
    """Judged by a function of your own: an episode succeeds once it is true of an observation."""

    goal: Callable[[Any], Any]

    def reached(self, obs: Any, info: dict) -> Any:
        """Whether this observation is at the goal.

        **Raises:** `MissingOutcome` if the function returns neither true nor false.
        """
        return _truth("what `goal` returns", self.goal(obs))


class References(NamedTuple):
    """The returns that a normalised score of 0 and of 100 stand for."""

    low: float
    """Of a random policy, say."""
    high: float
    """Of an expert, say."""


@dataclass(frozen=True)
class Return:
    """Judged by the sum of an episode's rewards."""

    references: References | None = None
    """For a normalised score, `100 (return - low) / (high - low)`; none without them."""

    def __post_init__(self):
        if self.references is not None:
            low, high = references = References(*map(float, self.references))
            if not -float("inf") < low < high < float("inf"):
                raise ValueError(f"`references` must be finite, low below high, got {references}.")
            object.__setattr__(self, "references", references)

    def reached(self, obs: Any, info: dict) -> bool:
        """Nothing is reached: an episode has a return, and neither succeeds nor fails."""
        return False


Outcome: TypeAlias = Success | Goal | Return
"""How an episode is judged."""


@dataclass(frozen=True)
class Task:
    """How to make an environment, how its episodes are judged, and where its data are."""

    name: str
    """Of letters, digits, `_`, `-` and `.`: in tables and files."""
    make_env: Callable[..., Any]
    """Makes a Gymnasium environment; called with `render_mode="rgb_array"` for a film."""
    outcome: Outcome = field(default_factory=Success)
    """`Success`, `Goal` or `Return`."""
    data: Any = None
    """A file or an id for `qgf_eqx.data`, or a function that returns a dataset, to train on. It
    gets those of `data_dir`, `split` (`train` or `val`) and `cache_dir` that it accepts."""
    new_env_each_episode: bool = False
    """For environments whose start state is a function of how they were made, such as MetaWorld's,
    and not of `reset(seed)`: `make_env` is then called with `seed`, once an episode."""
    paths: bool = False
    """Whether the first two numbers of an observation are a place, to be drawn in a maze."""
    goals: int = 0
    """How many goals the environment has, if its observations are `(state, goal)`: episode n is
    begun by `reset(options={"task_id": 1 + n % goals})`."""
    hindsight: Hindsight | None = None
    """What a goal is, to train on; of a task with goals by default a state."""

    def __post_init__(self):
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(
                f"`name` must be up to 100 letters, digits, `_`, `-` and `.`, got {self.name!r}."
            )
        if not callable(self.make_env):
            raise TypeError(f"`make_env` must be a function, got {self.make_env!r}.")
        if not isinstance(self.outcome, Success | Goal | Return):
            raise TypeError(
                f"`outcome` must be `Success()`, `Goal(...)` or `Return()`, got {self.outcome!r}."
            )
        if self.goals and self.hindsight is None:
            object.__setattr__(self, "hindsight", Hindsight())

    @property
    def by_return(self) -> bool:
        """Whether an episode is judged by its return."""
        return isinstance(self.outcome, Return)


def check_task(task: Any) -> None:
    """**Raises:** `TypeError` if it is neither a `Task` nor a name."""
    if not isinstance(task, Task | str):
        call = ": call it" if callable(task) else ""
        raise TypeError(f"`task` must be a `Task` or the name of one, got {task!r}{call}.")


def make_seed(seed: int, number: int) -> int:
    """What `make_env` is called with where an episode needs a new environment."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) >> 1


def dataset_of(
    task: Task | None,
    data_dir: str | Path = ".",
    *,
    split: str = "train",
    cache_dir: str | Path | None = None,
    instead: str | Path | None = None,
) -> Any:
    """The data of a task: what its function `data` returns, or the file (in `data_dir`, if it is
    there) or id that it names, opened by `qgf_eqx.data.open_dataset`, which takes the `cache_dir`.
    The validation data of `name.npz` are `name-val.npz` beside it, or the training data if there
    are none. `instead`, another file or id, replaces both, and then no task is needed.

    **Raises:** `ValueError` if the task names none.
    """
    if split not in ("train", "val"):
        raise ValueError(f"`split` must be `train` or `val`, got {split!r}.")
    if instead is not None:
        from ..data import open_dataset

        return open_dataset(instead, cache_dir=cache_dir)[0]
    if task is None:
        raise ValueError("`task` is missing: give a `Task`, or the data `instead`.")
    if task.data is None:
        raise ValueError(
            f"`{task.name}` names no data: name them with --data, or give its `Task` a file, an "
            "id, or a function that returns a dataset, as `data`."
        )
    if callable(task.data):
        options = {"data_dir": data_dir, "split": split, "cache_dir": cache_dir}
        taken = inspect.signature(task.data).parameters
        any_name = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        return task.data(**{n: option for n, option in options.items() if any_name or n in taken})
    from .. import data

    source = task.data
    if isinstance(source, str | Path):
        file = Path(data_dir) / source
        file = Path(source) if Path(source).exists() and not file.exists() else file
        validation = file.with_name(f"{file.stem}-val{file.suffix}")
        file = validation if split == "val" and validation.exists() else file
        source = file if file.exists() or file.suffix else source  # an id has no ending
    return data.open_dataset(source, cache_dir=cache_dir)[0]


def check_widths(task: Task, dataset: Any) -> None:
    """Whether a recorded dataset fits a task: costs one environment. Warns if actions reach beyond
    its bounds.

    **Raises:** `ValueError` naming the field, if its rows have another shape than the task's
    observations or actions.
    """
    with closing(task.make_env()) as env:
        space = env.action_space
        obs, action = env.observation_space.sample(), env.action_space.sample()
    obs = obs[0] if task.goals else obs
    for name, one, rows in (("obs", obs, dataset.obs), ("actions", action, dataset.actions)):
        wanted, found = jax.tree.map(np.shape, one), jax.tree.map(lambda x: x.shape[1:], rows)
        if wanted != found:
            raise ValueError(
                f"the data's `{name}` have shape {found} in a row, but `{task.name}` has {wanted}. "
                "Are they data of another task, or is a wrapper missing in its `make_env`?"
            )
    if isinstance(space, gymnasium.spaces.Box):
        used = np.asarray(dataset.actions)[np.asarray(dataset.episode_end) == 0]
        slack = 1e-5 * (1 + np.abs(used).max(initial=0))
        outside = ((used < space.low - slack) | (used > space.high + slack)).any(axis=0)
        for i in np.flatnonzero(outside)[:1]:
            warnings.warn(
                f"the data's `actions` go from {used[:, i].min():g} to {used[:, i].max():g} in "
                f"dimension {i}, and `{task.name}` takes {space.low.flat[i]:g} to "
                f"{space.high.flat[i]:g}: is their scale different? Others are clipped when they "
                "are executed.",
                stacklevel=2,
            )


def task_of(text: str) -> Task:
    """A task from its name: one of OGBench's, such as `cube-single-play-singletask-task2-v0`, one
    of a family with a file in `qgf_eqx.data`, such as `metaworld:push-v3`, or
    `package.module:make_task`, a function of your own that returns a `Task`.

    **Raises:** `ValueError` if there is no such task, `TypeError` if what is found is not one;
    `ImportError` if OGBench or Meta-World is needed and not installed.
    """
    family, name = family_of(text)
    if hasattr(family, "task"):
        return Task(**family.task(name))
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", text):
        raise ValueError(f"`{text}` must read `package.module:make_task`.")
    module, _, name = text.partition(":")
    try:
        made = import_named(text)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports another that is not
        raise ValueError(
            f"`{text}`: there is no module `{module}`. Install it, go to its folder, or add that "
            "to PYTHONPATH."
        ) from None
    if made is None:
        raise ValueError(f"`{text}`: the module `{module}` has no `{name}`.")
    made = made() if callable(made) else made
    if not isinstance(made, Task):
        raise TypeError(f"`{text}` must return a `qgf_eqx.evaluate.Task`, got {made!r}.")
    return made
