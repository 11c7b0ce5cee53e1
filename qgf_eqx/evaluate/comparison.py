"""Methods compared on trained runs: weights chosen on some episodes, success reported on others.

The weight of a guided method is chosen on tuning episodes; the reported ones are numbered
differently, and the same for all methods. The training seed is the unit: intervals are over the
runs where there are several (`statistics`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from .._checks import check_count
from .._provenance import machine, versions
from .._renamed import old_names
from .._types import Action, Critic, Policy
from ..engines import Engine, Local
from ..weights import LinearDecay
from ._auto import EXTENSIONS, grid_around, start_of, untuned
from ._auto import WEIGHTS as WEIGHTS
from ._judge import ByRun, compared, judge_of
from ._play import evaluate, forget
from ._rows import Comparison, Row, Tuned
from ._runs import PER_RUN as PER_RUN
from ._runs import REPORT_FROM as REPORT_FROM
from ._runs import TrainedRun, in_memory
from ._runs import seeds_of_one as _seeds_of_one
from ._sources import as_source
from ._tuning import Choice, Number, tune
from ._tuning import check_weights as check_weights
from .names import guided
from .names import method as named
from .sampler import Sampler, plain_weight
from .task import NAME, Task, check_task, task_of


def compare(
    runs: Sequence[str | Path] | Sequence[tuple[Policy, Critic]],
    methods: Sequence[str | Sampler],
    *,
    weights: Sequence[float | LinearDecay] | None = None,
    decays: Sequence[LinearDecay] = (),
    tuning_episodes: int = 20,
    tuning_budget: int | None = None,
    episodes: int,
    extensions: int | None = None,
    steps: int = 10,
    reduce: Callable = jnp.min,
    record: bool = False,
    task: Task | str | None = None,
    critics: Sequence[str | Path] | None = None,
    to_action: Callable[[Action], Action] | None = None,
    processes: int | None = None,
    engine: Engine | None = None,
    progress: bool = True,
) -> Comparison:
    """Compares methods on training runs of one task, one per training seed.

    Each guided method gets the weight with the most successes on the tuning episodes; the middle
    one if several tie. While the best weight, or the best two, are at an edge of the grid, it is
    extended there with its own ratio. A single weight is used as it is. Then all methods are run
    on the reported episodes, which are the same for all methods and differ between runs.

    **Arguments:**

    - `runs`: the folders of the training runs, which differ in their seed only; or networks of your
      own, a tuple `(policy, critic)` for each training seed, which need a `task`. Such a critic is
      called as it is.
    - `methods`: names, as for `names.method`, or `Sampler`s of your own, each with a name. A
      `Sampler` that has a weight other than 0 keeps it: none is chosen for it.
    - `weights`: to choose from; by default from a hundredth of `analysis.starting_weight` of the
      first run to three times it.
    - `decays`: further weights to choose from, a grid of its own.
    - `tuning_episodes`: per run and weight.
    - `tuning_budget`: instead, so that no method is tuned more than another: the tuning episodes
      per method and run, divided among its weights. The grid is then not extended.
    - `episodes`: reported ones, per run.
    - `extensions`: of a method's grid, at most; a row's `edge` says where one more might help. By
      default 3, or 12 where no weights are given.
    - `steps`, `reduce`: of the methods that are named: Euler steps of the flow, and how the
      critics' values are combined, for guidance and ranking alike.
    - `record`: keep the paths, if the task is a maze.
    - `task`: a `Task`, or a name for `task_of`; by default the runs' own, or their critics'.
    - `critics`: other runs, one for each of `runs`, whose critics guide and rank in place of their
      own: the same flows, for another reward.
    - `to_action`: for networks of your own, as for `evaluate`.
    - `processes`, `engine`, `progress`: as for `evaluate`.

    **Returns:** the rows, the differences and all outcomes; `results.write` puts them in a file.

    **Raises:** `ValueError` if a method is unknown or named twice, a weight is not positive and
    finite or given twice, there is no episode, or the runs are not seeds of one training.
    """
    check_count("steps", steps, "it sets the length of the scan")
    grid = _grid(weights, decays, extensions)
    _check_counts(1, episodes=episodes)
    if not grid.is_single:
        _check_counts(1, tuning_episodes=tuning_episodes)
    if tuning_budget is not None:
        _check_counts(1, tuning_budget=tuning_budget)
    grid = grid._replace(budget=tuning_budget)
    with _kept(engine, processes, runs) as options:
        options |= {"progress": progress, "to_action": to_action}
        study = _study(runs, task, options, critics)
        plain = list(map(_fixed, _samplers(methods, steps, reduce, study.actors)))
        return _compare(study, plain, grid, tuning_episodes, episodes, reduce, record)


def _compare(
    study: "_Study",
    plain: Sequence[Sampler],
    grid: "_Grid",
    tuning_episodes: int,
    episodes: int,
    reduce: Callable,
    record: bool,
) -> Comparison:
    study.check_intervals("episodes", episodes)
    to_tune = [m for m in plain if m.weighted]
    chosen: dict[str, Choice] = {}
    tuning: list[_Played] = []
    if to_tune:
        chosen, tuning = study.tune(to_tune, grid, tuning_episodes)
    choices = {m.name: chosen.get(m.name, Choice(m.weight)) for m in plain}
    final = [replace(m, weight=choices[m.name].weight) for m in plain]
    shown = {"label": "report", "record": record and study.task.paths}
    reported = study.play(final, REPORT_FROM, episodes, **shown)
    return compared(
        study.task.name,
        study.task.outcome,
        {m.name: (choices[m.name], m.steps) for m in final},
        {m.name: by_run for m, by_run in reported},
        tuning=study.rows(tuning),
        runs=study.runs,
        trained_on=study.trained_on,
        reduce="" if study.runs[0].networks else getattr(reduce, "__name__", repr(reduce)),
        goals=study.task.goals,
        about={
            "numbering": {"tuning from": 0, "reported from": REPORT_FROM, "step per run": PER_RUN},
            "versions": versions(),
            "machine": machine(),
        },
    )


def tune_weight(
    runs: Sequence[str | Path] | Sequence[tuple[Policy, Critic]],
    method: str | Sampler,
    *,
    weights: Sequence[float | LinearDecay] | None = None,
    decays: Sequence[LinearDecay] = (),
    episodes: int,
    extensions: int | None = None,
    steps: int = 10,
    reduce: Callable = jnp.min,
    task: Task | str | None = None,
    critics: Sequence[str | Path] | None = None,
    to_action: Callable[[Action], Action] | None = None,
    processes: int | None = None,
    engine: Engine | None = None,
    progress: bool = True,
) -> Tuned:
    """Chooses a weight as `compare` does, on tuning episodes, which it never reports.

    Measure how good the weight is on other episodes: the best of many is best partly by luck.

    Arguments as for `compare`, and `method`, a guided one, such as `qgf` or `qgf-best-of-4`.

    **Returns:** the chosen weight, whether it lies at an `edge` of what was tried or all weights
    are `tied`, a row for every weight, and what was spent: episodes and environment steps.

    **Raises:** `ValueError` if the method is not guided, or as `compare` does.
    """
    check_count("steps", steps, "it sets the length of the scan")
    grid = _grid(weights, decays, extensions)
    _check_counts(1, episodes=episodes)
    with _kept(engine, processes, runs) as options:
        options |= {"progress": progress, "to_action": to_action}
        study = _study(runs, task, options, critics)
        (sampler,) = _samplers([method], steps, reduce, study.actors)
        if not sampler.weighted:
            guided(sampler.name)
        study.check_intervals("episodes", episodes)
        grid = grid._replace(extensions=0) if grid.is_single else grid
        chosen, tuning = study.tune([sampler], grid, episodes, single=True)
    played = [e for _, by_run in tuning for es in by_run for e in es]
    spent = sum(e.length for e in played)
    return Tuned(chosen[sampler.name], study.rows(tuning), len(played), spent)


@contextmanager
def _kept(engine: Engine | None, processes: int | None, runs: Sequence) -> Iterator[dict[str, Any]]:
    """The options of `evaluate` that say where: on workers that stay until the end. What is in
    memory is played by this process, unless told otherwise: it may not be picklable."""
    if processes is None and any(isinstance(run, tuple) for run in runs):
        processes = 1
    if engine is not None:
        yield {"engine": engine}
        return
    try:
        with Local(processes).kept() as workers:
            yield {"processes": processes, "engine": workers}
    finally:
        forget()


_Played: TypeAlias = tuple[Sampler, ByRun]


class _Grid(NamedTuple):
    """Weights to choose from; and how often they go on where the best is the last."""

    weights: list[Number] | None
    """None for a grid around `starting_weight`."""
    decays: list[Number]
    extensions: int
    budget: int | None = None
    """Episodes of a method, divided among its weights."""

    @property
    def all(self) -> list[Number]:
        """Those that are given."""
        return [*(self.weights or ()), *self.decays]

    @property
    def is_single(self) -> bool:
        """Whether there is nothing to choose: a single weight is used as it is."""
        return self.weights is not None and len(self.all) == 1


def _grid(
    weights: Sequence[Number] | None, decays: Sequence[LinearDecay], extensions: int | None
) -> _Grid:
    if isinstance(weights, float | int | LinearDecay):
        raise TypeError(f"`weights` must be several weights, such as [{weights}], got {weights}.")
    given = None if weights is None else [_as_number(weight, "weights") for weight in weights]
    most = (EXTENSIONS if given is None else 3) if extensions is None else extensions
    _check_counts(0, extensions=most)
    grid = _Grid(given, list(map(_as_decay, decays)), most)
    if given is not None or grid.all:
        check_weights(grid.all)
    return grid


def _as_number(weight: Any, name: str) -> Number:
    found = plain_weight(weight, name)
    if not isinstance(found, float | LinearDecay):
        raise TypeError(f"`{name}` must be numbers or `LinearDecay`s, got {found}.")
    return found


def _as_decay(decay: Any) -> LinearDecay:
    found = _as_number(decay, "decays")
    return found if isinstance(found, LinearDecay) else LinearDecay(found)


def _fixed(sampler: Sampler) -> Sampler:
    """A sampler that has a weight keeps it.

    **Raises:** `ValueError` if a results file could not hold it.
    """
    weight = sampler.weight
    if not isinstance(weight, float | LinearDecay):
        raise ValueError(
            f"the weight of `{sampler.name}` must be a number or a `LinearDecay` in a "
            f"comparison, got {weight}; `evaluate` plays other ones."
        )
    own = isinstance(weight, LinearDecay) or weight != 0
    return replace(sampler, weighted=False) if own and not sampler.choices else sampler


def _samplers(
    methods: Sequence[str | Sampler],
    steps: int,
    reduce: Callable,
    actors: Mapping[str, Any] = MappingProxyType({}),
) -> list[Sampler]:
    """The methods, those that are named made with these `steps` and `reduce`."""
    if isinstance(methods, str | Sampler):
        raise TypeError('`methods` must be a list, such as ["flow", "qgf"].')
    if not methods:
        raise ValueError("`methods` is empty: name at least one, such as flow or qgf.")
    options = {"steps": steps, "reduce": reduce, "actors": actors}
    found = [named(m, **options) if isinstance(m, str) else m for m in methods]
    for m in found:
        if m.actor and actors and not (m.actor in actors or m.choices):
            raise ValueError(
                f"`methods` has {m.name}, and the runs have no actor `{m.actor}`; they have "
                f"{', '.join(actors)}. Train it beside them, `--actors`, in other folders."
            )
    names = [m.name for m in found]
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(
                "`methods` must each have a name of letters, digits, `_`, `-` and `.`, got "
                f"{name!r}: set `name` of the `Sampler`."
            )
        if names.count(name) > 1:
            raise ValueError(
                f"`methods` has {name} twice: give each `Sampler` a `name` of its own, "
                "`dataclasses.replace(sampler, name=...)`."
            )
    return found


def _check_counts(least: int, **counts: int) -> None:
    for name, count in counts.items():
        check_count(name, count, "it counts episodes", least=least, most=PER_RUN)


@dataclass(frozen=True)
class _Study:
    """Trained runs, and the task on which their methods are played."""

    runs: tuple[TrainedRun, ...]
    task: Task
    given: Task | str
    """The task as `evaluate` is given it."""
    trained_on: str | None
    options: dict[str, Any]
    """Of `evaluate`."""
    actors: Mapping[str, Any]
    """That the runs have trained."""

    def check_intervals(self, name: str, episodes: int) -> None:
        """**Raises:** `ValueError` if there would be a single return."""
        if self.task.by_return and episodes * len(self.runs) < 2:
            raise ValueError(f"`{name}` must be at least 2: a single return has no interval.")

    def play(
        self, samplers: Sequence[Sampler], first: int, count: int, **options: Any
    ) -> list[_Played]:
        """The episodes of each method, for every run."""
        by_run = []
        for i, run in enumerate(self.runs):
            start = first + PER_RUN * i
            numbers = range(start, start + count)
            known = {"task": self.given, "sha256": run.sha256 or None}
            known |= {} if run.critic is None else {"critic": run.critic}
            by_run.append(
                evaluate(run.source, samplers, numbers, **known, **self.options, **options)
            )
        return [(m, [outcomes[j] for outcomes in by_run]) for j, m in enumerate(samplers)]

    def tune(
        self, samplers: Sequence[Sampler], grid: _Grid, episodes: int, *, single: bool = False
    ) -> tuple[dict[str, Choice], list[_Played]]:
        """The weight of each method, and all tuning episodes; `single`: a single weight is played
        too."""
        chosen: dict[str, Choice] = {}
        played: list[_Played] = []
        for group, weights, extensions in self._grids(samplers, grid):
            if len(weights) == 1 and not single:
                chosen |= {m.name: Choice(weights[0]) for m in group}
                continue
            count = episodes if grid.budget is None else grid.budget // len(weights)
            if count == 0:
                raise ValueError(
                    f"`tuning_budget` must be at least {len(weights)}, an episode for each weight "
                    f"of {group[0].name}, got {grid.budget}."
                )
            self.check_intervals("tuning_episodes", count)
            most = extensions if grid.budget is None else 0
            found, tried = self._tune(group, weights, most, count)
            chosen, played = chosen | found, played + tried
        return chosen, played

    def _grids(
        self, samplers: Sequence[Sampler], grid: _Grid
    ) -> Iterator[tuple[list[Sampler], list[Number], int]]:
        """Methods that choose from the same weights, and how often those go on."""
        first = self.runs[0]
        run: Any = as_source(first.source, first.sha256, first.critic)
        start = cache(partial(start_of, run, self.task))
        shared = [m for m in samplers if not (m.choices or m.untuned)]
        if shared:
            weights = grid.all
            if grid.weights is None:
                weights = [*grid_around(start(shared[0].reduce)), *grid.decays]
            yield shared, weights, grid.extensions
        for m in samplers:
            if m.choices or m.untuned:
                yield [m], list(m.choices) or [untuned(start(m.reduce))], 0

    def _tune(
        self, group: Sequence[Sampler], weights: list[Number], extensions: int, episodes: int
    ) -> tuple[dict[str, Choice], list[_Played]]:
        of = {m.name: m for m in group}
        played: list[_Played] = []

        def score(pairs) -> list:
            tried = [replace(of[name], weight=weight) for name, weight in pairs]
            fresh = tried[len(played) :]
            played.extend(self.play(fresh, 0, episodes, label="choose weight"))
            judge = judge_of(self.task.outcome, [by_run for _, by_run in played])
            return [judge.total(by_run) for _, by_run in played]

        return tune(score, list(of), weights, extensions=extensions), played

    def rows(self, tried: Sequence[_Played]) -> tuple[Row, ...]:
        """One for every method and weight."""
        judge = judge_of(self.task.outcome, [by_run for _, by_run in tried])
        return tuple(
            judge.row(m.name, by_run, choice=Choice(m.weight), steps=m.steps) for m, by_run in tried
        )


def _study(
    runs: Sequence[Any],
    task: Task | str | None,
    options: dict[str, Any],
    critics: Sequence[str | Path] | None = None,
) -> _Study:
    if isinstance(runs, str | Path | tuple) and not _are_several(runs):
        raise TypeError("`runs` must be a list, one entry for each training seed.")
    if task is not None:
        check_task(task)
    if any(isinstance(run, tuple) for run in runs):
        if task is None:
            raise ValueError(
                "`task` is missing: give a `Task`, or its name. Networks of your own have none."
            )
        if critics is not None:
            raise ValueError("`critics` is for training runs: give each pair its own critic.")
        known = task_of(task) if isinstance(task, str) else task
        return _Study(in_memory(runs), known, task, None, options, {})
    trained_on, found, actors = _seeds_of_one(runs)
    if critics is not None:
        if len(critics) != len(runs):
            raise ValueError(f"`critics` must be one for each run, got {len(critics)}.")
        own, _, _ = _seeds_of_one(critics)
        task = own if task is None else task
        found = tuple(
            replace(run, critic=str(critic)) for run, critic in zip(found, critics, strict=True)
        )
    given = trained_on if task is None else task
    known = task_of(given) if isinstance(given, str) else given
    trained_on = None if given == trained_on else trained_on
    return _Study(found, known, given, trained_on, options, actors)


def _are_several(runs: Any) -> bool:
    """Of a tuple: whether it holds runs, and is not itself a policy and its critic."""
    return isinstance(runs, tuple) and not any(callable(run) for run in runs)


__getattr__ = old_names(__name__, choose_weight="tune_weight")
