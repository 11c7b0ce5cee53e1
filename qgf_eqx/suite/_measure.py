"""What a plan will take, before its first cell: some updates and an episode of each task, timed."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from ..data import Dataset
from ..engines import Local
from ._plan import Plan, Study

ROWS = 1000
UPDATES = 3


@dataclass(frozen=True)
class Measured:
    """Of one task of a plan, on this machine."""

    study: Study
    update: float
    """Seconds of an update of all seeds of a cell."""
    episode: float
    """Seconds of an episode of QGF that does not succeed, which is the longest."""
    checkpoint: int
    """Bytes of one seed."""

    @property
    def training(self) -> float:
        """Hours of all trainings, one cell at a time."""
        cells = -(-len(self.study.seeds) // self.study.seeds_per_cell)
        return cells * self.study.config.updates * self.update / 3600

    @property
    def playing(self) -> float:
        """Hours of all episodes at most: where every one of them fails."""
        from ..evaluate.names import method

        tuned = [method(m, actors=self.study.config.actors).weighted for m in self.study.methods]
        count = len(tuned) * self.study.episodes + sum(tuned) * self.study.tuning_budget
        return len(self.study.seeds) * count * self.episode / 3600

    @property
    def disk(self) -> int:
        """Bytes of all checkpoints."""
        return len(self.study.seeds) * self.checkpoint


def measure(plan: Plan) -> Iterator[Measured]:
    """Trains each task's networks for some updates on random numbers, and plays two episodes.

    **Arguments:** the plan.

    **Returns:** one for each task, as it is measured, which takes up to a minute or two, on one
    thread, as cells have. Data are not needed, and the time to read them is not in it.
    """
    return (took for _, took in Local(1, threads=1).map(_measured, plan.studies))


def format_measured(found: list[Measured]) -> str:
    """A line for each task, and their sums."""
    rows = [(m.study.label, m.training, m.playing, m.disk) for m in found]
    total = sum(m.training for m in found), sum(m.playing for m in found)
    rows.append(("all tasks", *total, sum(m.disk for m in found)))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'task':<{width}}  training, h  playing, h at most  checkpoints, GB"]
    lines += [f"{n:<{width}}  {t:11.3g}  {p:18.3g}  {d / 1e9:15.3f}" for n, t, p, d in rows]
    lines.append(
        "For one worker on this machine, from a few updates and two episodes of each task."
    )
    return "\n".join([*lines, "Compiling is not included: it adds up to a minute to each cell."])


def _measured(study: Study) -> Measured:
    from ..evaluate import task_of
    from ..learn import read_metrics, train_seeds

    task = task_of(study.config.env)
    config = replace(study.config, updates=4 * UPDATES, goals=task.goals > 0)
    options: dict[str, Any] = {"hindsight": task.hindsight} if task.goals else {}
    options |= {"updates_per_call": UPDATES, "progress": False}
    seeds = study.seeds[: study.seeds_per_cell]
    with TemporaryDirectory() as folder:
        (path, *_) = train_seeds(config, seeds, _random(task), folder, **options)
        _, *lines = read_metrics(path.parent / "metrics.jsonl")  # the first one compiles
        rate = max(line["updates_per_second"] for line in lines)
        episode = _seconds_of_an_episode(study, task, path.parent)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
    return Measured(study, 1 / rate, episode, size)


def _seconds_of_an_episode(study: Study, task: Any, run: Path) -> float:
    from ..evaluate import method, rollout
    from ..evaluate._rollout import action_bounds
    from ..evaluate._sources import as_source

    name = "qgf" if "flow" in study.config.actors else study.methods[0]
    nets: Any = as_source(run).load()  # type: ignore[union-attr]
    env, took = task.make_env(), []
    with closing(env):
        act = nets.act_of(method(name, weight=0.1), 0, *action_bounds(env.action_space))
        for number in range(3):  # the first one compiles
            begin = time.perf_counter()
            options = {"seed": 0, "outcome": task.outcome, "goals": task.goals}
            (episode,) = rollout([env], act, [number], **options)
            longest = getattr(env.spec, "max_episode_steps", None) or episode.length
            took.append((time.perf_counter() - begin) * longest / max(1, episode.length))
    return min(took[1:])


def _random(task: Any) -> Dataset:
    """Numbers that are shaped as the task's data are."""
    from ..evaluate._rollout import goal_option

    env, rng = task.make_env(), np.random.default_rng(0)
    obs = env.reset(seed=0, **goal_option(task.goals, 0))[0]
    env.close()

    def rows(leaf: Any) -> np.ndarray:
        shape = ROWS, *np.shape(leaf)
        if np.asarray(leaf).dtype == np.uint8:  # a picture
            return np.zeros(shape, np.uint8)
        return rng.normal(size=shape).astype(np.float32)

    obs = jax.tree.map(rows, obs[0] if task.goals else obs)
    space = env.action_space
    actions = rng.uniform(space.low, space.high, (ROWS, *space.shape)).astype(np.float32)
    ends = (np.arange(ROWS) % 100 == 99).astype(np.float32)
    return Dataset(obs, actions, -np.ones(ROWS, np.float32), ends, ends)
