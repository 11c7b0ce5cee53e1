"""From nothing to a table: collect, train, choose weights, report, with nothing done twice.

`comparison` chooses the weights and reports; the raw outcomes are part of the result.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax.numpy as jnp

from .data import collect, dataset_name, load
from .engines import Engine, Local
from .evaluate.comparison import compare
from .evaluate.results import Comparison, write
from .learn import TrainConfig, learners, train
from .learn.actors import BC
from .learn.critics import IQL
from .weights import LinearDecay


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All settings of one comparison."""

    config: TrainConfig
    """Of the training, but for its seed."""
    transitions: int
    """To collect on this machine."""
    seeds: tuple[int, ...]
    """One training run each."""
    methods: tuple[str, ...]
    weights: tuple[float | LinearDecay, ...]
    """From which every guided method's is chosen; where the best is the last, more are tried."""
    tuning_episodes: int
    """Per training seed and weight."""
    episodes: int
    """Reported, per training seed."""
    reduce: Callable = jnp.min
    """Of the critics' values at test time, for all methods."""


POINTMAZE = Experiment(
    TrainConfig(
        "pointmaze-medium-navigate-singletask-task1-v0",
        updates=20_000,
        batch=256,
        gamma=0.99,
        **learners(width=128, depth=3),
    ),
    transitions=500_000,
    seeds=(0,),
    methods=("flow", "qgf", "ood", "best-of-4"),
    weights=(0.3, 1.0, 3.0, 10.0),
    tuning_episodes=10,
    episodes=50,
)
"""Minutes on two cores: the plain flow fails, guidance and best-of-4 reach the goal."""

CUBE = Experiment(
    TrainConfig(
        "cube-single-play-singletask-task2-v0",
        updates=40_000,
        batch=256,
        gamma=0.99,
        critic=IQL(width=128, ema_rate=0.001),
        actors={"flow": BC(width=128)},
    ),
    transitions=100_000,
    seeds=(0, 1),
    methods=("flow", "qgf", "ood", "best-of-4", "best-of-16", "qgf-best-of-4"),
    weights=(0.03, 0.1, 0.3, LinearDecay(0.1), LinearDecay(0.3)),
    tuning_episodes=25,
    episodes=100,
    reduce=jnp.mean,
)
"""A robot arm moves a cube; a quarter of an hour on two cores."""


def run(
    experiment: Experiment,
    out_dir: str | Path,
    data_dir: str | Path,
    *,
    processes: int | None = None,
    engine: Engine | None = None,
    progress: bool = True,
    say: Callable[[str], object] = lambda _: None,
) -> Comparison:
    """Runs an experiment. If it was interrupted, it resumes collection and training.

    **Arguments:**

    - `experiment`: its settings.
    - `out_dir`: for `seed<k>/`, a training run each, `results.json` and `paths.json`.
    - `data_dir`: where the dataset is, or will be.
    - `processes`: how many; all cores by default.
    - `engine`: where all of it runs, in place of `Local(processes)`.
    - `progress`: show progress bars.
    - `say`: is told each step before it begins.

    **Returns:** what is in `results.json`: settings, table, all outcomes, versions, machine.
    """
    out_dir, clock = Path(out_dir), _Clock()
    config = experiment.config
    say(f"Step 1 of 3: {experiment.transitions:,} transitions for {config.env}.")
    collect(
        dataset_name(config.env),
        data_dir,
        transitions=experiment.transitions,
        processes=processes,
        engine=engine,
        progress=progress,
    )
    clock.lap("collect")
    count = len(experiment.seeds)
    say(f"Step 2 of 3: train a flow and a critic, {count} time{'s' if count > 1 else ''}.")
    work = partial(_train_one, config, out_dir, data_dir, progress)
    jobs = list(enumerate(experiment.seeds))
    trained = dict((engine or Local(processes)).map(work, jobs))
    runs = [trained[job] for job in jobs]
    clock.lap("train")
    say("Step 3 of 3: choose each weight on tuning episodes, then report on other episodes.")
    found = compare(
        runs,
        experiment.methods,
        weights=experiment.weights,
        tuning_episodes=experiment.tuning_episodes,
        episodes=experiment.episodes,
        reduce=experiment.reduce,
        record=True,
        processes=processes,
        engine=engine,
        progress=progress,
    )
    clock.lap("evaluate")
    about = {"experiment": _as_json(experiment), **found.about, "seconds": clock.laps}
    found = dataclasses.replace(found, about=about)
    write(found, out_dir / "results.json")
    return found


def _as_json(experiment: Experiment) -> dict:
    return {
        **{field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)},
        "config": experiment.config.as_dict(),
        "weights": [w if isinstance(w, float) else str(w) for w in experiment.weights],
        "reduce": experiment.reduce.__name__,
    }


def _train_one(config, out_dir, data_dir, progress, job) -> Path:
    position, seed = job
    config = dataclasses.replace(config, seed=seed)
    run_dir = out_dir / f"seed{seed}"
    dataset = load(config.env, data_dir)
    train(config, dataset, run_dir, progress=progress, position=position)
    return run_dir


class _Clock:
    def __init__(self):
        self.laps, self._last = {}, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 1), now
