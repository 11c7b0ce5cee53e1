"""Episodes of methods on a task, in several processes."""

import atexit
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from .._progress import bar
from .._types import Action, Critic, Policy
from ..engines import Engine, Local
from ._outcomes import Outcomes, described, task_key
from ._rollout import Act, Episode, action_bounds, check_numbers, check_outcome, rollout
from ._sources import InMemory, Run, as_source
from .names import check_weight
from .sampler import Sampler, takes_weights
from .statistics import paired_difference
from .task import Task, check_task, make_seed, task_of

ENVS = 10
"""Environments that one process steps together, at most."""


def evaluate(
    source: str | Path | tuple[Policy, Critic] | Act,
    samplers: Sequence[Sampler],
    numbers: Sequence[int],
    *,
    task: Task | str | None = None,
    seed: int = 0,
    processes: int | None = None,
    engine: Engine | None = None,
    record: bool = False,
    progress: bool = True,
    label: str = "evaluate",
    sha256: str | None = None,
    resume: bool = True,
    critic: str | Path | None = None,
    to_action: Callable[[Action], Action] | None = None,
) -> list[list[Episode]]:
    """The episodes of every method on a task, in several processes.

    **Arguments:**

    - `source`: the folder of a training run; or a policy and its critic, as a tuple; or an act
      function, for which the samplers only give names. The samplers' `reduce` is for runs: your
      own critic is called as it is.
    - `samplers`: what to compare, on the same episodes.
    - `numbers`: of the episodes.
    - `task`: a `Task`, or a name for `task_of`; of a run by default its own, or its critic's.
    - `seed`: of environments and noise.
    - `processes`: how many; by default all cores for a run, and one for objects in memory, which
      must be picklable for several.
    - `engine`: where to play, in place of `Local(processes)`.
    - `record`: keep the paths.
    - `progress`, `label`: of the progress bar.
    - `sha256`: the checkpoint's expected hash; by default its hash at the start.
    - `critic`: for a run, the folder of another run, whose critic guides and ranks in place of its
      own: one flow, any reward.
    - `to_action`: of a policy and a critic, from the policy's actions to the environment's, such as
      the inverse of a normaliser. The critic must be `bounded` in the policy's units.
    - `resume`: of a run, keep every outcome in `episodes.jsonl` beside its checkpoint, and do not
      play again what is there. A kill costs the episodes that are being played.

    **Returns:** for each method its episodes, in the order of `numbers`. They do not depend on
    the number of processes.

    **Raises:** `CheckpointError` if a run's checkpoint is not intact, or changes before all
    episodes are played; `EngineError` if a worker process dies; `ValueError` or `TypeError` naming
    an argument that is wrong, or an environment that does not say what its task is judged by.
    """
    Local(processes)
    if isinstance(samplers, str | Sampler) or not all(isinstance(m, Sampler) for m in samplers):
        raise TypeError('`samplers` must be a list of `Sampler`s, such as [method("flow")].')
    check_numbers(seed, numbers)
    numbers = [int(number) for number in numbers]  # of NumPy's, say, which JSON does not take
    judged = as_source(source, sha256, critic, to_action)
    if isinstance(judged, InMemory):
        processes = processes or 1
    if not (isinstance(judged, InMemory) and judged.act is not None):
        for sampler in samplers:
            check_weight(sampler)
    if task is None:
        task = judged.task()
    groups = [tuple(numbers[i : i + ENVS]) for i in range(0, len(numbers), ENVS)]
    cells = [(i, m, group) for group in groups for i, m in enumerate(samplers)]
    check_task(task)
    name = task if isinstance(task, str) else task.name
    if isinstance(task, str):
        task_of(task)  # refused before any worker, and its module is there to be hashed
    # A `Task` value is known by its name only, which says too little of what it is.
    known = resume and isinstance(task, str)
    kept = judged.outcomes(task_key(name), seed, record) if known else Outcomes(None)
    done: dict = {}
    for i, sampler, group in cells:
        done |= {(i, e.number): e for e in kept.of(sampler, group) or ()}
    cells = [cell for cell in cells if (cell[0], cell[2][0]) not in done]
    work = functools.partial(_play, uuid4().hex, judged, task, seed, record)
    count = len(numbers) * len(samplers)
    with bar(count, label, "episodes", show=progress, initial=len(done)) as shown:
        try:
            for (i, sampler, _), episodes in (engine or Local(processes)).map(work, cells):
                if not any(e.error for e in episodes):  # what broke may work the next time
                    kept.add(sampler, episodes)
                done |= {(i, e.number): e for e in episodes}
                shown.update(len(episodes))
        finally:
            if engine is None:  # with an engine there may be more to come
                forget()
    return [[done[i, number] for number in numbers] for i in range(len(samplers))]


def _play(
    call: str,
    source: Run | InMemory,
    task: Task | str,
    seed: int,
    record: bool,
    cell: tuple[int, Sampler, tuple[int, ...]],
) -> list[Episode]:
    position, sampler, numbers = cell
    _begin(call, source, task)
    known = _task(task)
    envs = environments(known, numbers, seed)
    act = _act(source, position, sampler, seed, known.name)
    options = {"outcome": known.outcome, "record": record, "goals": known.goals}
    episodes = rollout(envs, act, numbers, seed=seed, **options)
    if known.new_env_each_episode or any(e.error for e in episodes):
        close_environments()  # one is broken, or used up: the next episodes get new ones
    return episodes


_CALL: list[Any] = ["", None]
"""The evaluation that this process plays for, and its task: a worker may stay for several."""


def _begin(call: str, source: Run | InMemory, task: Task | str) -> None:
    """Forgets what is not of this evaluation. What is of the same task, and programs of runs, stay:
    they take seconds."""
    if _CALL[0] != call and (_CALL[1] != task or isinstance(source, InMemory)):
        forget()
    _CALL[:] = [call, task]


_ACTS: dict[Any, Callable] = {}
"""Of this process: compiled, by source, seed and what a method is made of, but for its weight."""


def _act(source: Run | InMemory, position: int, sampler: Sampler, seed: int, name: str) -> Act:
    kind = type(sampler.weight)(1.0) if takes_weights(sampler) else sampler.weight
    what = described(dataclasses.replace(sampler, weight=kind))
    key = source, seed, (_CALL[0], position) if what is None else tuple(what)
    if key not in _ACTS:
        low, high = action_bounds(_ENVIRONMENTS[name][0].action_space)
        _ACTS[key] = _load(source).compiled(sampler, seed, low, high)
    return functools.partial(_ACTS[key], sampler.weight)


@functools.cache
def _load(source: Run | InMemory) -> InMemory:
    return source.load()


def _task(task: Task | str) -> Task:
    return _named_task(task) if isinstance(task, str) else task


_named_task = functools.cache(task_of)

_ENVIRONMENTS: dict[str, list] = {}
"""Of this process, by their task's name: making them can take seconds each."""

_CHECKED: set[str] = set()
"""Tasks of which this process knows that their outcome is not missing."""


def environments(task: Task, numbers: Sequence[int], seed: int) -> list:
    """One for each of the episodes, made now or before; their outcome is not missing."""
    if task.new_env_each_episode:
        close_environments()
    made = _ENVIRONMENTS.setdefault(task.name, [])
    if task.name not in _CHECKED:
        made += [] if made else [task.make_env(**_option(task, 0, 0))]
        check_outcome(made[0], task.outcome, task.goals)
        _CHECKED.add(task.name)
        if task.new_env_each_episode:
            close_environments()
            made = _ENVIRONMENTS.setdefault(task.name, [])
    for number in numbers[len(made) :]:
        made.append(task.make_env(**_option(task, seed, number)))
    return made


def check_task_outcome(task: Task) -> None:
    """Makes an environment, and plays one step.

    **Raises:** `MissingOutcome`, a `ValueError`, if it does not say what its task is judged by.
    """
    with contextlib.closing(task.make_env(**_option(task, 0, 0))) as env:
        check_outcome(env, task.outcome, task.goals)


def _option(task: Task, seed: int, number: int) -> dict[str, int]:
    return {"seed": make_seed(seed, number)} if task.new_env_each_episode else {}


@atexit.register
def close_environments() -> None:
    """Ends the environments of this process."""
    for made in _ENVIRONMENTS.values():
        for env in made:
            with contextlib.suppress(Exception):  # it may be one that broke
                env.close()
    _ENVIRONMENTS.clear()


def forget() -> None:
    """Closes and forgets what this process made for evaluations."""
    for cached in (_load, _named_task):
        cached.cache_clear()
    _ACTS.clear()
    _CHECKED.clear()
    _CALL[:] = ["", None]
    close_environments()


def difference(ours: Sequence[Episode], theirs: Sequence[Episode]) -> tuple[float, float, float]:
    """The difference of two success rates on the same episodes of one run, with its 95 % interval.

    The interval is over the episodes. It does not cover other training seeds; for several runs,
    `statistics.paired_difference` does.

    **Raises:** `ValueError` if the episodes are not the same.
    """
    if [e.number for e in ours] != [e.number for e in theirs]:
        raise ValueError("`ours` and `theirs` are not the same episodes, so they are not paired.")
    found = paired_difference([[e.success for e in ours]], [[e.success for e in theirs]])
    return found.value, found.low, found.high
