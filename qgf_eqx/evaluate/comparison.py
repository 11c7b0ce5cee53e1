"""Methods compared on trained runs: weights chosen on some episodes, success reported on others.

The weight of a guided method is chosen on tuning episodes; the reported ones are numbered
differently, and the same for all methods. The training seed is the unit: intervals are over the
runs where there are several (`statistics`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from .._checks import check_count
from .._provenance import machine, versions
from .._renamed import old_names
from ..weights import LinearDecay
from ._auto import EXTENSIONS, weights_around
from ._auto import WEIGHTS as WEIGHTS
from ._judge import ByRun, compared, judge_of
from ._play import evaluate
from ._rows import Comparison, Row, Tuned
from ._runs import PER_RUN as PER_RUN
from ._runs import REPORT_FROM as REPORT_FROM
from ._runs import TrainedRun
from ._runs import seeds_of_one as _seeds_of_one
from ._sources import Run
from ._tuning import Choice, Number, tune
from ._tuning import check_weights as check_weights
from .names import guided, is_guided, method
from .sampler import Sampler
from .task import Outcome, Return, task_of


def compare(
    runs: Sequence[str | Path],
    methods: Sequence[str],
    *,
    weights: Sequence[float | LinearDecay] | None = None,
    tuning_episodes: int,
    episodes: int,
    extensions: int | None = None,
    steps: int = 10,
    reduce: Callable = jnp.min,
    record: bool = False,
    task: str | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Compares methods on training runs of one task, one a training seed.

    Each guided method gets the weight with the most successes on the tuning episodes; if several
    have as many, the middle one. While the best weight, or the best two, reach an edge of what was
    tried, the method's grid goes on there by the grid's own ratio. A single weight is used as it
    is. Then all methods are run on the reported episodes, which are the same for all methods and
    differ between runs.

    **Arguments:**

    - `runs`: the folders of the training runs, which differ in their seed only.
    - `methods`: names, as for `names.method`.
    - `weights`: to choose from; by default from a tenth of `analysis.starting_weight` of the first
      run to ten times it.
    - `tuning_episodes`, `episodes`: per run.
    - `extensions`: of a method's grid, at most; a row's `edge` says where one more might help. By
      default 3, or 12 where no weights are given.
    - `steps`: of the flow.
    - `reduce`: of the critics' values, for guidance and ranking alike.
    - `record`: keep the paths, if the task is a maze.
    - `task`: a name for `task_of`; by default the runs' own.
    - `processes`, `progress`: as for `evaluate`.

    **Returns:** the rows, the differences and all outcomes; `results.write` puts them in a file.

    **Raises:** `ValueError` if a method is unknown or named twice, a weight is not positive and
    finite or given twice, there is no episode, or the runs are not seeds of one training.
    """
    check_count("steps", steps, "it sets the length of the scan")
    grid = _grid(weights, extensions)
    _check_counts(1, episodes=episodes)
    if not grid.is_single:
        _check_counts(1, tuning_episodes=tuning_episodes)
    if not methods:
        raise ValueError("`methods` is empty: name at least one, such as flow or qgf.")
    for name in methods:
        if list(methods).count(name) > 1:
            raise ValueError(f"`methods` has {name} twice.")
    plain = [method(name, steps=steps, reduce=reduce) for name in methods]
    study = _study(runs, task, {"processes": processes, "progress": progress})
    study.check_intervals("episodes", episodes)
    to_tune = [m for m in plain if is_guided(m.name)]
    if not to_tune:
        chosen, tuning = {}, {}
    elif grid.is_single:
        chosen, tuning = {m.name: Choice(grid.weights[0]) for m in to_tune}, {}
    else:
        chosen, tuning = study.tune(to_tune, grid, tuning_episodes)
    choices = {m.name: chosen.get(m.name, Choice(0.0)) for m in plain}
    final = [replace(m, weight=choices[m.name].weight) for m in plain]
    options = {"label": "report", "record": record and study.paths}
    reported = study.play(final, REPORT_FROM, episodes, **options)
    return compared(
        study.name,
        study.outcome,
        {m.name: (choices[m.name], m.steps) for m in final},
        {m.name: reported[m] for m in final},
        tuning=study.rows(tuning),
        runs=study.runs,
        trained_on=study.trained_on,
        reduce=reduce.__name__,
        about={
            "numbering": {"tuning from": 0, "reported from": REPORT_FROM, "step per run": PER_RUN},
            "versions": versions(),
            "machine": machine(),
        },
    )


def tune_weight(
    runs: Sequence[str | Path],
    name: str,
    *,
    weights: Sequence[float | LinearDecay] | None = None,
    episodes: int,
    extensions: int | None = None,
    steps: int = 10,
    reduce: Callable = jnp.min,
    task: str | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Tuned:
    """Chooses a weight on tuning episodes, those that `compare` never reports, by its rule.

    What the weight is worth has to be measured on other episodes: the best of many is best
    partly by luck.

    Arguments as for `compare`, and `name`, of one guided method, such as `qgf` or `qgf-best-of-4`.

    **Returns:** the chosen weight, whether it lies at an `edge` of what was tried or all weights
    are `tied`, a row for every weight, and what was spent: episodes and environment steps.

    **Raises:** `ValueError` if the method is not guided, or as `compare` does.
    """
    check_count("steps", steps, "it sets the length of the scan")
    grid = _grid(weights, extensions)
    _check_counts(1, episodes=episodes)
    sampler = replace(guided(name, steps=steps), reduce=reduce)
    study = _study(runs, task, {"processes": processes, "progress": progress})
    grid = grid._replace(extensions=0) if grid.is_single else grid
    chosen, tuning = study.tune([sampler], grid, episodes)
    played = [e for by_run in tuning.values() for es in by_run for e in es]
    spent = sum(e.length for e in played)
    return Tuned(chosen[name], study.rows(tuning), len(played), spent)


class _Grid(NamedTuple):
    """Weights to choose from, none for a grid around `starting_weight`; and how often it goes on
    where its best is its last."""

    weights: list[Number]
    extensions: int

    @property
    def is_single(self) -> bool:
        """Whether there is nothing to choose: a single weight is used as it is."""
        return len(self.weights) == 1


def _grid(weights: Sequence[Number] | None, extensions: int | None) -> _Grid:
    if weights is not None:
        check_weights(weights)
    given = [w if isinstance(w, LinearDecay) else float(w) for w in weights or ()]
    most = (3 if given else EXTENSIONS) if extensions is None else extensions
    _check_counts(0, extensions=most)
    return _Grid(given, most)


def _check_counts(least: int, **counts: int) -> None:
    for name, count in counts.items():
        check_count(name, count, "it counts episodes", least=least, most=PER_RUN)


@dataclass(frozen=True)
class _Study:
    """Trained runs, and the task on which their methods are played."""

    runs: tuple[TrainedRun, ...]
    task: str
    """As `task_of` takes it."""
    name: str
    outcome: Outcome
    paths: bool
    trained_on: str | None
    options: dict[str, Any]
    """Of `evaluate`."""

    def check_intervals(self, name: str, episodes: int) -> None:
        """**Raises:** `ValueError` if there would be a single return."""
        if isinstance(self.outcome, Return) and episodes * len(self.runs) < 2:
            raise ValueError(f"`{name}` must be at least 2: a single return has no interval.")

    def play(
        self, samplers: Sequence[Sampler], first: int, count: int, **options: Any
    ) -> dict[Sampler, ByRun]:
        """The episodes of each method, for every run."""
        by_run = []
        for i, run in enumerate(self.runs):
            start = first + PER_RUN * i
            numbers, known = range(start, start + count), {"task": self.task, "sha256": run.sha256}
            by_run.append(evaluate(run.path, samplers, numbers, **known, **self.options, **options))
        return {m: [outcomes[j] for outcomes in by_run] for j, m in enumerate(samplers)}

    def tune(
        self, samplers: Sequence[Sampler], grid: _Grid, episodes: int
    ) -> tuple[dict[str, Choice], dict[Sampler, ByRun]]:
        """The weight of each method, and all tuning episodes."""
        self.check_intervals("tuning_episodes", episodes)
        of, first = {m.name: m for m in samplers}, self.runs[0]
        run = Run(first.path, first.sha256)
        weights = grid.weights or weights_around(run, self.task, samplers[0].reduce)
        played: dict[Sampler, ByRun] = {}

        def score(pairs) -> list:
            tried = [replace(of[name], weight=weight) for name, weight in pairs]
            played.update(self.play(tried, 0, episodes, label="choose weight"))
            judge = judge_of(self.outcome, played.values())
            return [judge.total(played[m]) for m in tried]

        return tune(score, list(of), weights, extensions=grid.extensions), played

    def rows(self, tried: dict[Sampler, ByRun]) -> tuple[Row, ...]:
        """One for every method and weight."""
        judge = judge_of(self.outcome, tried.values())
        return tuple(
            judge.row(m.name, by_run, choice=Choice(m.weight), steps=m.steps)
            for m, by_run in tried.items()
        )


def _study(runs: Sequence[str | Path], task: str | None, options: dict[str, Any]) -> _Study:
    trained_on, found = _seeds_of_one(runs)
    known = task_of(task or trained_on)
    other = trained_on if task not in (None, trained_on) else None
    return _Study(found, task or trained_on, known.name, known.outcome, known.paths, other, options)


__getattr__ = old_names(__name__, choose_weight="tune_weight")
