"""The verbs that play episodes: `evaluate`, `choose`, `film`."""

import dataclasses
import time
from pathlib import Path
from typing import Literal

from ._options import (
    Common,
    DataFiles,
    Drawing,
    Grid,
    MaybeFloat,
    MaybeInt,
    MaybePath,
    OtherTask,
    Positional,
    Weight,
    Workers,
)
from ._refuse import at_least, check_folders, check_new, check_task


def evaluate(
    runs: Positional[tuple[Path, ...]],
    /,
    methods: tuple[str, ...] = ("flow", "qgf", "ood", "best-of-4"),
    grid: Grid = Grid(),  # noqa: B008 (frozen)
    episodes: int = 50,
    tuning_episodes: int = 20,
    tuning_budget: MaybeInt = None,
    flow: Drawing = Drawing(),  # noqa: B008 (frozen)
    task: OtherTask = OtherTask(),  # noqa: B008 (frozen)
    critics: tuple[Path, ...] = (),
    out: MaybePath = None,
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Compare test-time methods on trained runs of one task.

    The weight of each guided method is chosen on tuning episodes, and evaluated on others.
    With several runs, one per training seed, intervals are over the training seeds. If interrupted,
    the same command resumes where it stopped.

    Args:
        runs: Folders of training runs, which differ in their seed only; one or more.
        methods: Names that `qgf-eqx methods` lists; best-of-N, qgf-best-of-N; qgf-untuned.
        grid: Weights to choose from.
        episodes: Reported episodes, per run.
        tuning_episodes: Episodes per run and weight for choosing the weight.
        tuning_budget: Instead of tuning_episodes: episodes per run and method, divided among its
            weights, so all methods get equal tuning.
        flow: How an action is drawn.
        task: Which task to play, if not the one that the runs were trained on.
        critics: Other runs, one for each run, whose critics guide and rank instead: the same flows,
            for another reward (`train --actors` with no name trains only a critic).
        out: The results file; the figures are named after it. Default: results.json in the first
            run's folder.
        workers: How many processes.
        common: Options common to all commands.
    """
    check_folders(*runs, *critics)
    at_least(1, processes=workers.processes)
    out = out or runs[0] / "results.json"
    check_new(out)
    common.begin()
    from ..evaluate import comparison
    from ..evaluate.results import write
    from ._report import report

    check_task(task.env)
    results = comparison.compare(
        runs,
        methods,
        tuning_episodes=tuning_episodes,
        tuning_budget=tuning_budget,
        episodes=episodes,
        **grid.options,
        steps=flow.steps,
        reduce=flow.reduction,
        task=task.env,
        critics=critics or None,
        record=True,
        processes=workers.processes,
        progress=common.progress,
    )
    write(results, out)
    report(common, results, out)


def choose(
    runs: Positional[tuple[Path, ...]],
    /,
    method: str = "qgf",
    grid: Grid = Grid(),  # noqa: B008 (frozen)
    episodes: int = 20,
    budget: MaybeFloat = None,
    measure: Literal["distance", "kl"] = "distance",
    observations: int = 64,
    flow: Drawing = Drawing(),  # noqa: B008 (frozen)
    task: OtherTask = OtherTask(),  # noqa: B008 (frozen)
    data: DataFiles = DataFiles(),  # noqa: B008 (frozen)
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Choose the guidance weight: on tuning episodes, or offline with --budget.

    On episodes: the weight with the most successes; the middle one if several tie. Offline: the
    strongest weight within the budget of distance or KL divergence to the plain flow. That runs
    no environment, so it tells how far guidance goes, not whether it helps. Prints the cost.

    Args:
        runs: Folders of training runs, which differ in their seed only; offline the first is used.
        method: A guided method that `qgf-eqx methods` lists, or its best-of-N variant, such as
            qgf-best-of-4; offline, the budget applies to the flow, before best-of-N.
        grid: Weights to choose from.
        episodes: Tuning episodes per run and weight; `evaluate` reports others.
        budget: Offline: the largest root mean square distance from the plain flow's actions, or,
            with `--measure kl`, the largest divergence in nats.
        measure: Offline: the measure that the budget limits.
        observations: Offline: how many, from the validation data.
        flow: How an action is drawn.
        task: Which task to play, if not the one that the runs were trained on.
        data: Offline: where the observations are.
        workers: How many processes.
        common: Options common to all commands.
    """
    check_folders(*runs)
    at_least(1, observations=observations, processes=workers.processes, steps=flow.steps)
    if budget is not None and not budget >= 0:
        raise ValueError(f"`budget` must not be negative or NaN, got {budget}.")
    played = {"a second run": runs[1:], "--env": task.env, "--extensions": grid.extensions}
    if unused := [name for name, given in played.items() if given] if budget is not None else []:
        raise ValueError(
            f"`budget` plays no episodes, so it does not use {' and '.join(unused)}: leave out one "
            "or the other."
        )
    common.begin()
    from ..evaluate.names import guided

    guided(method, steps=flow.steps)
    check_task(task.env)
    if budget is not None:
        from ._budget import choose_offline

        options = {"budget": budget, "measure": measure, "observations": observations}
        return choose_offline(common, runs[0], method, grid, flow, data, **options)
    from ..evaluate import comparison
    from ..evaluate.results import as_json, format_outcome, weight_note

    start = time.perf_counter()
    found = comparison.tune_weight(
        runs,
        method,
        episodes=episodes,
        **grid.options,
        steps=flow.steps,
        reduce=flow.reduction,
        task=task.env,
        processes=workers.processes,
        progress=common.progress,
    )
    for row in found.tuning:
        common.say(f"{row.weight!s:>12}  {format_outcome(row)}")
    spent = f"{found.episodes:,} episodes, {found.environment_steps:,} environment steps"
    common.say(f"Spent: {spent}, {time.perf_counter() - start:.0f} s")
    if note := weight_note(found.choice):
        common.say(f"Note: {note}")
    common.result(as_json(found), f"The weight: {found.weight} (report it on other episodes)")


def film(
    run: Positional[Path],
    /,
    methods: tuple[str, ...] = ("flow", "qgf"),
    weight: Weight = Weight(),  # noqa: B008 (frozen)
    episodes: int = 3,
    first: int = 2_000_000,
    flow: Drawing = Drawing(),  # noqa: B008 (frozen)
    task: OtherTask = OtherTask(),  # noqa: B008 (frozen)
    out: MaybePath = None,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Film methods side by side on the same episodes: one row per method, one column per episode.

    Args:
        run: Folder of a training run.
        methods: The rows, named as for `evaluate`.
        weight: The guidance weight.
        episodes: The columns.
        first: The first episode's number. Default: the first of those that `evaluate` reports.
        flow: How an action is drawn.
        task: Which task to play, if not the one that the runs were trained on.
        out: The film, .webp or .gif. Default: film.webp in the run's folder.
        common: Options common to all commands.
    """
    check_folders(run)
    at_least(1, episodes=episodes, steps=flow.steps)
    at_least(0, first=first)
    path = out or run / "film.webp"
    check_new(path, ".webp", ".gif")
    common.begin()
    from .. import film as films
    from ..evaluate import task_of
    from ..evaluate.names import method
    from ..learn import load_config

    check_task(task.env)
    options = {"steps": flow.steps, "reduce": flow.reduction}
    shown = [method(name, **options) for name in methods]
    if any(map(weight.is_for, shown)):
        found = weight.value(run, flow, task.env, common)
        shown = [dataclasses.replace(m, weight=found) if weight.is_for(m) else m for m in shown]
    numbers = range(first, first + episodes)
    played = films.film(run, shown, numbers, path, task=task.env, progress=common.progress)
    by_return = task_of(task.env or load_config(run)[0].env).by_return
    lines, outcomes = [], {}
    for m, found in zip(shown, played, strict=True):
        outcomes[m.name] = list(map(dataclasses.asdict, found))
        mean = sum(episode.total_reward for episode in found) / episodes
        succeeded = f"{sum(e.success for e in found)} of {episodes} succeed"
        said = f"mean return {mean:.4g} of {episodes}" if by_return else succeeded
        lines.append(f"{m.name:>12}  {said}")
    common.result({"film": str(path), "episodes": outcomes}, "\n".join(lines))
    common.say(f"The film is in {path}")
