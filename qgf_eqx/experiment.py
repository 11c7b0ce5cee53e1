"""From nothing to a table: collect, train, choose weights, report, with nothing done twice.

The weight of a guided method is chosen on tuning episodes and its success is reported on other
episodes, numbered differently; the raw outcomes are part of the result.
"""

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax.numpy as jnp

from ._denoise import check_count
from ._provenance import machine as machine
from ._provenance import versions as versions
from ._provenance import write_json as write_json
from .datasets import collect, dataset_name, load
from .evaluate import ESTIMATORS, Episode, Method, difference, evaluate, method, wilson
from .train import TrainConfig, load_nets, train
from .weights import LinearDecay

REPORT_FROM = 2_000_000
"""Tuning episodes are numbered from 0, reported ones from here."""


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
    """From which every guided method's is chosen."""
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
        width=128,
        depth=3,
        gamma=0.99,
    ),
    transitions=500_000,
    seeds=(0,),
    methods=("flow", "qgf", "ood", "best-of-4"),
    weights=(0.3, 1.0, 3.0),
    tuning_episodes=10,
    episodes=50,
)
"""Minutes on two cores: the flow wanders, guidance leads it to the goal."""

CUBE = Experiment(
    TrainConfig(
        "cube-single-play-singletask-task2-v0",
        updates=40_000,
        batch=256,
        width=128,
        gamma=0.99,
        ema_rate=0.001,
    ),
    transitions=100_000,
    seeds=(0, 1),
    methods=("flow", "qgf", "ood", "best-of-16"),
    weights=(0.06, 0.1, LinearDecay(0.15), LinearDecay(0.2)),
    tuning_episodes=50,
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
    progress: bool = True,
) -> dict:
    """Runs an experiment; started again, collection and training go on where they were.

    **Arguments:**

    - `experiment`: its settings.
    - `out_dir`: for `seed<k>/`, a training run each, `results.json` and `paths.json`.
    - `data_dir`: where the dataset is, or will be.
    - `processes`: how many; all cores by default.
    - `progress`: show progress bars.

    **Returns:** what is in `results.json`: settings, table, raw outcomes, versions, machine.
    """
    out_dir, clock = Path(out_dir), _Clock()
    config = experiment.config
    collect(
        dataset_name(config.env),
        data_dir,
        transitions=experiment.transitions,
        processes=processes,
        progress=progress,
    )
    clock.lap("collect")
    work = partial(_train_one, config, out_dir, data_dir, progress)
    jobs = list(enumerate(experiment.seeds))
    processes = processes or os.cpu_count() or 1
    if min(processes, len(jobs)) == 1:
        runs = [work(job) for job in jobs]
    else:
        with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
            runs = pool.map(work, jobs, chunksize=1)
            pool.close()
            pool.join()
    clock.lap("train")
    results, paths = compare(
        runs,
        experiment.methods,
        weights=experiment.weights,
        tuning_episodes=experiment.tuning_episodes,
        episodes=experiment.episodes,
        reduce=experiment.reduce,
        record=True,
        processes=processes,
        progress=progress,
    )
    clock.lap("evaluate")
    results = {
        "experiment": _as_json(experiment),
        **results,
        "seconds": clock.laps,
    }
    write_json(out_dir / "results.json", results)
    if paths:
        write_json(paths_of(out_dir / "results.json"), paths)
    return results


def compare(
    runs: Sequence[str | Path],
    methods: Sequence[str],
    *,
    weights: Sequence[float | LinearDecay],
    tuning_episodes: int,
    episodes: int,
    steps: int = 10,
    reduce: Callable = jnp.min,
    record: bool = False,
    processes: int | None = None,
    progress: bool = True,
) -> tuple[dict, dict]:
    """Compares methods on training runs of one task.

    Each guided method gets the weight with the most successes on the tuning episodes (the
    first of them, if several have it); with a single weight nothing is tuned. Then all methods are
    run on the reported episodes, which are the same for all methods and differ between runs.

    **Arguments:**

    - `runs`: the folders of the training runs.
    - `methods`: names, as for `evaluate.method`.
    - `weights`: to choose from.
    - `tuning_episodes`, `episodes`: per run.
    - `steps`: of the flow.
    - `reduce`: of the critics' values, for guidance and ranking alike.
    - `record`: keep the paths, if the task is a maze.
    - `processes`, `progress`: as for `evaluate`.

    **Returns:** the results, and the paths by method if they were recorded.

    **Raises:** `ValueError` if a method is unknown, or there is no weight or no episode.
    """
    check_count("steps", steps, "it sets the length of the scan")
    starts = [w.start if isinstance(w, LinearDecay) else w for w in weights]
    if episodes < 1 or not starts or not all(start > 0 for start in starts):
        raise ValueError("`episodes` and every one of `weights` must be positive.")
    if len(weights) > 1 and tuning_episodes < 1:
        raise ValueError("`tuning_episodes` must be positive to choose among several `weights`.")
    if not runs:
        raise ValueError("`runs` is empty: name the folder of a training run.")
    tasks = {load_nets(run)[1].env for run in runs}
    if len(tasks) > 1:
        raise ValueError(f"`runs` must be of one task, got {', '.join(sorted(tasks))}.")
    (task,) = tasks
    record = record and "maze" in task
    plain = [dataclasses.replace(method(name, steps=steps), reduce=reduce) for name in methods]
    options = {"processes": processes, "progress": progress}

    guided = [m.name for m in plain if method(m.name, weight=1.0).weight]
    grid = [dataclasses.replace(m, weight=w) for m in plain if m.name in guided for w in weights]
    tuning = {}
    if len(weights) > 1 and guided:
        tuning = _outcomes(runs, grid, 0, tuning_episodes, label="choose weight", **options)
        chosen = {name: _best(name, tuning) for name in guided}
    else:
        chosen = {name: weights[0] for name in guided}

    final = [dataclasses.replace(m, weight=chosen.get(m.name, 0.0)) for m in plain]
    reported = _outcomes(
        runs, final, REPORT_FROM, episodes, label="report", record=record, **options
    )
    results = {
        "task": task,
        "critics reduced by": reduce.__name__,
        "table": [_row(m, reported[m]) for m in final],
        "differences": _differences(final, reported),
        "tuning": [_row(m, by_run) for m, by_run in tuning.items()],
        "episodes": {m.name: [_raw(es) for es in reported[m]] for m in final},
        "numbering": {"tuning from": 0, "reported from": REPORT_FROM, "step per run": 10_000},
        "versions": versions(),
        "machine": machine(),
    }
    paths = {m.name: [e.path for es in reported[m] for e in es] for m in final} if record else {}
    return results, paths


def choose_weight(
    runs: Sequence[str | Path],
    name: str,
    *,
    weights: Sequence[float | LinearDecay],
    episodes: int,
    steps: int = 10,
    reduce: Callable = jnp.min,
    processes: int | None = None,
    progress: bool = True,
) -> dict:
    """Chooses a weight on tuning episodes, those that `compare` never reports.

    The weight with the most successes is chosen, the first of them if several have it. What
    it is worth has to be measured on other episodes: the best of many is flattered by luck.

    Arguments as for `compare`, and `name`, of one guided method.

    **Returns:** the chosen weight, a row for every weight, and what was spent: episodes and
    environment steps.

    **Raises:** `ValueError` if the method is not guided, or there is nothing to choose from.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"`{name}` has no weight; guided are {', '.join(ESTIMATORS)}.")
    if not weights or not runs or episodes < 1:
        raise ValueError("`weights` and `runs` must not be empty, `episodes` must be positive.")
    plain = dataclasses.replace(method(name, steps=steps), reduce=reduce)
    grid = [dataclasses.replace(plain, weight=weight) for weight in weights]
    options = {"processes": processes, "progress": progress}
    tuning = _outcomes(runs, grid, 0, episodes, label="choose weight", **options)
    played = [e for by_run in tuning.values() for es in by_run for e in es]
    return {
        "weight": _best(name, tuning),
        "tuning": [_row(m, by_run) for m, by_run in tuning.items()],
        "spent": {"episodes": len(played), "environment steps": sum(e.length for e in played)},
    }


def format_table(results: dict) -> str:
    """The table of a result, for people."""
    lines = [f"{'method':<14}{'weight':>12}{'success':>10}{'95 % interval':>18}{'n':>6}"]
    for row in results["table"]:
        low, high = (100 * x for x in row["interval"])
        weight = str(row["weight"] or "-")
        lines.append(
            f"{row['method']:<14}{weight:>12}{100 * row['success']:>8.1f} %"
            f"{f'[{low:.1f}, {high:.1f}]':>18}{row['n']:>6}"
        )
    for d in results["differences"]:
        low, high = (100 * x for x in d["interval"])
        what = f"{d['of']} - {d['and']}"
        lines.append(f"{what:<32}{100 * d['difference']:+.1f} points  [{low:+.1f}, {high:+.1f}]")
    return "\n".join(lines)


def paths_of(results: Path) -> Path:
    """Where the paths of a results file are: `paths.json` beside `results.json`."""
    return results.with_name(f"{results.stem.removeprefix('results')}paths.json")


def _as_json(experiment: Experiment) -> dict:
    return {
        **dataclasses.asdict(experiment),
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


def _outcomes(runs, methods, first, count, **options) -> dict[Method, list[list[Episode]]]:
    by_run = [
        evaluate(run, methods, range(first + 10_000 * i, first + 10_000 * i + count), **options)
        for i, run in enumerate(runs)
    ]
    return {m: [outcomes[j] for outcomes in by_run] for j, m in enumerate(methods)}


def _best(name: str, tuning: dict[Method, list[list[Episode]]]) -> float | LinearDecay:
    successes = {
        m.weight: sum(e.success for es in by_run for e in es)
        for m, by_run in tuning.items()
        if m.name == name
    }
    return max(successes, key=lambda weight: successes[weight])  # the first of the best


def _row(m: Method, by_run: list[list[Episode]]) -> dict:
    episodes = [e for es in by_run for e in es]
    successes = sum(e.success for e in episodes)
    return {
        "method": m.name,
        "weight": m.weight if isinstance(m.weight, float) else str(m.weight),
        "steps": m.steps,
        "success": successes / len(episodes),
        "interval": wilson(successes, len(episodes)),
        "successes": successes,
        "n": len(episodes),
        "successes by run": [sum(e.success for e in es) for es in by_run],
        "errors": sum(bool(e.error) for e in episodes),
    }


def _differences(methods: Sequence[Method], outcomes) -> list[dict]:
    """Of QGF (or the first method) and each other method, paired by episode."""
    ours = next((m for m in methods if m.name == "qgf"), methods[0])
    pooled = {m: [e for es in outcomes[m] for e in es] for m in methods}
    rows = []
    for m in methods:
        if m != ours:
            mean, *interval = difference(pooled[ours], pooled[m])
            rows.append({"of": ours.name, "and": m.name, "difference": mean, "interval": interval})
    return rows


def _raw(episodes: list[Episode]) -> dict:
    return {
        "numbers": f"{episodes[0].number}..{episodes[-1].number}",
        "success": "".join(str(int(e.success)) for e in episodes),
        "length": [e.length for e in episodes],
        "errors": {e.number: e.error for e in episodes if e.error},
    }


class _Clock:
    def __init__(self):
        self.laps, self._last = {}, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 1), now
