"""Methods compared on trained runs: weights chosen on some episodes, success reported on others.

The weight of a guided method is chosen on tuning episodes; the reported ones are numbered
differently, and the same for all methods. The training seed is the unit: intervals are over the
runs where there are several (`statistics`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp

from .._checks import check_count
from .._provenance import machine, versions
from .._renamed import old_names
from ..weights import LinearDecay
from ._auto import EXTENSIONS, weights_around
from ._auto import WEIGHTS as WEIGHTS
from ._judge import Judge, judge_of, worst_return
from ._play import evaluate
from ._rollout import Episode
from ._runs import PER_RUN as PER_RUN
from ._runs import REPORT_FROM as REPORT_FROM
from ._runs import known as _known
from ._runs import sources_of as _sources
from ._sources import Run
from ._tuning import Choice, tune
from ._tuning import check_weights as check_weights
from .names import guided, is_guided, method
from .sampler import Sampler


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
) -> tuple[dict, dict]:
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

    **Returns:** the results, and the paths by method if they were recorded.

    **Raises:** `ValueError` if a method is unknown or named twice, a weight is not positive and
    finite or given twice, there is no episode, or the runs are not seeds of one training.
    """
    check_count("steps", steps, "it sets the length of the scan")
    given = None if weights is None else _as_floats(weights)
    extensions = _extensions(extensions, given)
    _check_counts(1, episodes=episodes)
    if given is None or len(given) > 1:
        _check_counts(1, tuning_episodes=tuning_episodes)
    if not methods:
        raise ValueError("`methods` is empty: name at least one, such as flow or qgf.")
    for name in methods:
        if list(methods).count(name) > 1:
            raise ValueError(f"`methods` has {name} twice.")
    plain = [method(name, steps=steps, reduce=reduce) for name in methods]
    trained_on, sources = _sources(runs)
    known, judge = _known(runs, sources), judge_of(task or trained_on)
    if judge.by_return and episodes * len(runs) < 2:
        raise ValueError("`episodes` must be at least 2: a single return has no interval.")
    record = record and judge.paths
    options = {"task": task or trained_on, "processes": processes, "progress": progress}
    names = [name for name in methods if is_guided(name)]
    weights = given or (_around(known, options["task"], reduce) if names else [0.0])
    chosen, tuning = dict.fromkeys(names, Choice(weights[0])), {}
    if len(weights) > 1 and names:
        of = {m.name: m for m in plain}
        chosen, tuning = _tune(
            judge, known, of, names, weights, tuning_episodes, extensions, **options
        )
    final = {
        m.name: dataclasses.replace(m, weight=chosen.get(m.name, Choice(0.0)).weight) for m in plain
    }
    reported = _outcomes(
        known, list(final.values()), REPORT_FROM, episodes, label="report", record=record, **options
    )
    worst = worst_return(reported.values())
    rows = [
        _row(judge, m, reported[m], worst) | _of_choice(chosen.get(m.name, Choice(0.0)))
        for m in final.values()
    ]
    by_name = {m.name: reported[m] for m in final.values()}
    results = {
        "task": judge.task,
        **({} if task in (None, trained_on) else {"trained on": trained_on}),
        **judge.described(),
        "critics reduced by": reduce.__name__,
        "runs": sources,
        "training seeds": [source["training seed"] for source in sources],
        "table": rows,
        "differences": judge.differences(by_name, worst),
        "tuning": _rows(judge, tuning),
        "episodes": {
            name: [judge.raw(es, worst) for es in by_run] for name, by_run in by_name.items()
        },
        "numbering": {"tuning from": 0, "reported from": REPORT_FROM, "step per run": PER_RUN},
        "versions": versions(),
        "machine": machine(),
    }
    paths = {m.name: [e.path for es in reported[m] for e in es] for m in final.values()}
    return results, paths if record else {}


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
) -> dict:
    """Chooses a weight on tuning episodes, those that `compare` never reports, by its rule.

    What the weight is worth has to be measured on other episodes: the best of many is best
    partly by luck.

    Arguments as for `compare`, and `name`, of one guided method, such as `qgf` or `qgf-best-of-4`.

    **Returns:** the chosen weight, whether it lies at an `edge` of what was tried or all weights
    are `tied`, a row for every weight, and what was spent: episodes and environment steps.

    **Raises:** `ValueError` if the method is not guided, or as `compare` does.
    """
    check_count("steps", steps, "it sets the length of the scan")
    given = None if weights is None else _as_floats(weights)
    extensions = _extensions(extensions, given)
    _check_counts(1, episodes=episodes)
    of = {name: dataclasses.replace(guided(name, steps=steps), reduce=reduce)}
    trained_on, sources = _sources(runs)
    known, judge = _known(runs, sources), judge_of(task or trained_on)
    options = {"task": task or trained_on, "processes": processes, "progress": progress}
    weights = given or _around(known, options["task"], reduce)
    extensions = extensions if len(weights) > 1 else 0  # a single weight is used as it is
    chosen, tuning = _tune(judge, known, of, [name], weights, episodes, extensions, **options)
    played = [e for by_run in tuning.values() for es in by_run for e in es]
    return {
        "weight": chosen[name].weight,
        **_of_choice(chosen[name]),
        "tuning": _rows(judge, tuning),
        "spent": {"episodes": len(played), "environment steps": sum(e.length for e in played)},
    }


def _as_floats(weights: Sequence[float | LinearDecay]) -> list[float | LinearDecay]:
    check_weights(weights)
    return [w if isinstance(w, LinearDecay) else float(w) for w in weights]


def _extensions(extensions: int | None, weights: list | None) -> int:
    chosen = (EXTENSIONS if weights is None else 3) if extensions is None else extensions
    _check_counts(0, extensions=chosen)
    return chosen


def _around(known, task: str, reduce: Callable) -> list[float]:
    run, sha256 = known[0]
    return weights_around(Run(str(run), sha256), task, reduce)


def _check_counts(least: int, **counts: int) -> None:
    for name, count in counts.items():
        check_count(name, count, "it counts episodes", least=least, most=PER_RUN)


def _outcomes(runs, methods, first, count, **options) -> dict[Sampler, list[list[Episode]]]:
    """Of pairs of a run's folder and the hash of its checkpoint."""
    by_run = []
    for i, (run, sha256) in enumerate(runs):
        start = first + PER_RUN * i
        numbers = range(start, start + count)
        by_run.append(evaluate(run, methods, numbers, sha256=sha256, **options))
    return {m: [outcomes[j] for outcomes in by_run] for j, m in enumerate(methods)}


def _tune(
    judge: Judge, runs, of: dict[str, Sampler], names, weights, episodes, extensions, **options
):
    """The choice for each of the names, and all tuning episodes."""
    if judge.by_return and episodes * len(runs) < 2:
        raise ValueError("`tuning_episodes` must be at least 2 where returns are judged.")
    tuning: dict[Sampler, list[list[Episode]]] = {}

    def score(pairs) -> list:
        grid = [dataclasses.replace(of[name], weight=weight) for name, weight in pairs]
        tuning.update(_outcomes(runs, grid, 0, episodes, label="choose weight", **options))
        worst = worst_return(tuning.values())
        return [judge.total(tuning[m], worst) for m in grid]

    return tune(score, names, weights, extensions=extensions), tuning


def _of_choice(choice: Choice) -> dict:
    return {"edge": choice.edge, "tied": choice.tied}


def _rows(judge: Judge, outcomes: dict[Sampler, list[list[Episode]]]) -> list[dict]:
    worst = worst_return(outcomes.values())
    return [_row(judge, m, by_run, worst) for m, by_run in outcomes.items()]


def _row(judge: Judge, m: Sampler, by_run: list[list[Episode]], worst: float) -> dict:
    return {
        "method": m.name,
        "weight": str(m.weight) if isinstance(m.weight, LinearDecay) else m.weight,
        "steps": m.steps,
        **judge.summary(by_run, worst),
        "errors": sum(bool(e.error) for episodes in by_run for e in episodes),
    }


__getattr__ = old_names(__name__, choose_weight="tune_weight")
