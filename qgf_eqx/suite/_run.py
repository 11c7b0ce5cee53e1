"""Runs what is missing of a plan, on any engine."""

import json
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from .._files import hold_lock, take_turns, write_atomically
from .._progress import SECONDS, bar
from .._run_folder import RunError, read_metrics
from ..engines import Engine, Local
from ._cells import (
    STAGES,
    AnalysisCell,
    Cell,
    DataCell,
    PlayCell,
    TrainCell,
    can_be_done,
    cells_of,
    is_done,
    log_of,
)
from ._plan import Plan, missing_data


class SuiteError(RuntimeError):
    """Some cells failed; all others that could run have."""


def run_suite(
    plan: Plan,
    out: str | Path,
    *,
    engine: Engine | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> None:
    """Does what is missing: data first, then trainings, then evaluations and analyses.

    A cell that fails stops only those that need it. After a kill, a new call skips finished
    cells, and trainings resume from their last checkpoint.

    **Arguments:**

    - `plan`: see `read_plan`.
    - `out`: the folder of all results, which all workers must reach under this name.
    - `engine`: where cells run; by default `Local(processes, threads=1)`: so the bits of
      a result depend neither on the machine's cores nor on how many cells run at once.
    - `processes`: of the default engine.
    - `progress`: show a bar for each stage.

    **Raises:** `SuiteError` if cells failed, naming the first and where its traceback is.
    """
    engine, out = engine or Local(processes, threads=1), Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with hold_lock(out, "runs the suite in", SuiteError):
        _clean(out)
        failed = [pair for s in STAGES for pair in _run_stage(plan, out, s, engine, progress)]
    if failed:
        cell, error = failed[0]
        raise SuiteError(
            f"{len(failed)} cell{'s' * (len(failed) > 1)} failed, such as {cell.title}: "
            f"{error.rstrip('.')}. The traceback is in {log_of(out, cell)}. The same command "
            "resumes."
        )


def _run_stage(
    plan: Plan, out: Path, stage: str, engine: Engine, progress: bool
) -> list[tuple[Cell, str]]:
    """Does what is missing of a stage and can be done; returns what failed, and why."""
    cells = [cell for cell in cells_of(plan, out) if cell.stage == stage]
    missing = [cell for cell in cells if not is_done(cell) and can_be_done(cell)]
    failed, done = [], len(cells) - len(missing)
    with (
        bar(len(cells), f"{plan.name}: {stage}", "cells", show=progress, initial=done) as shown,
        _updates_shown(shown if progress else None, missing),
    ):
        for cell, error in engine.map(partial(do, out), list(map(_sent, missing))):
            shown.update()
            if not error and not is_done(cell):
                error = f"its result is not in {out}, which all workers must reach by this name"
                _write(log_of(out, cell), error.encode())
            failed += [(cell, error)] if error else []
    return failed


def _sent(cell: Cell) -> Any:
    """A cell for workers whose current folder may be another."""
    folder = Path(cell.study.data_dir).resolve()
    return replace(cell, study=replace(cell.study, data_dir=str(folder)))


@contextmanager
def _updates_shown(shown: Any, cells: Sequence[Cell]) -> Iterator[None]:
    """Says beside a bar, if there is one, how far the trainings have come that are running."""
    ended = threading.Event()
    trained = [cell for cell in cells if isinstance(cell, TrainCell)]

    def show() -> None:
        while not ended.wait(SECONDS):
            shown.set_postfix_str("; ".join(filter(None, map(_updates_of, trained))))

    thread = threading.Thread(target=show, daemon=True)
    if shown is not None and trained:
        thread.start()
    try:
        yield
    finally:
        ended.set()


def _updates_of(cell: TrainCell) -> str:
    """How far a training has come that is not done; nothing if it has not begun."""
    with suppress(OSError, RunError):
        lines = [] if is_done(cell) else read_metrics(cell.runs[0] / "metrics.jsonl")
        if lines:
            return f"{cell.title}: {lines[-1]['step']:,} of {cell.study.config.updates:,} updates"
    return ""


def _clean(out: Path) -> None:
    """Removes what a kill in the middle of a write has left, if it is older than a minute."""
    for path in out.rglob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 60:
                path.unlink()


def do(out: Path, cell: Cell) -> str:
    """Does one cell and writes its result; returns the error's sentence if it fails. A worker of
    an earlier run that is still at it, or at the same data, is waited for."""
    with take_turns(out / ".cells.lock", _alone(cell)):
        return "" if is_done(cell) else _do(out, cell)


def _alone(cell: Cell) -> str:
    """What only one worker may do at a time: several tasks may have the same data."""
    if not isinstance(cell, DataCell):
        return cell.path.name
    return f"{cell.study.data_dir} {_dataset_name(cell.study.config.env)}"


def _dataset_name(env: str) -> str:
    from ..data import dataset_name

    return env if ":" in env else dataset_name(env)


def _do(out: Path, cell: Cell) -> str:
    log = log_of(out, cell)
    try:
        begin = time.perf_counter()
        result = _RESULTS[type(cell)](cell)
        if isinstance(result, dict):
            result.setdefault("seconds", round(time.perf_counter() - begin, 1))
            _write(cell.path, json.dumps(result, indent=1).encode())
    except Exception as error:
        _write(log, traceback.format_exc().encode())
        return f"{type(error).__name__}: {error}"
    except SystemExit:  # of a training that was told to end, and has saved
        raise SystemExit(128 + signal.SIGTERM) from None
    log.unlink(missing_ok=True)
    return ""


def _data(cell: DataCell) -> dict[str, Any]:
    from ..data import collect
    from ..data._fingerprint import fingerprint

    study = cell.study
    if lacks := missing_data(study):
        raise SuiteError(lacks)
    if study.collect:
        name = _dataset_name(study.config.env)
        collect(name, study.data_dir, transitions=study.collect, processes=1, progress=False)
    dataset = _dataset(cell)
    if len(dataset.episode_end) < study.transitions:
        rows = f"{len(dataset.episode_end):,} rows"
        raise SuiteError(f"{rows}, and the plan needs {study.transitions:,} `transitions`.")
    return {"fingerprint": fingerprint(dataset), "transitions": len(dataset.episode_end)}


def _train(cell: TrainCell) -> dict[str, Any]:
    from ..data._fingerprint import fingerprint
    from ..evaluate import task_of
    from ..learn import train_seeds

    task = task_of(cell.study.config.env)
    config = replace(cell.study.config, goals=task.goals > 0)
    options: dict[str, Any] = {"hindsight": task.hindsight} if task.goals else {}
    options |= {"save_every": 1000, "progress": False}
    dataset = _dataset(cell)
    if fingerprint(dataset) != cell.identity:
        raise SuiteError(
            f"the data of {config.env} in {cell.study.data_dir} are not those that this suite "
            "began with. Put those back, or use another folder for the results."
        )
    train_seeds(config, cell.seeds, dataset, cell.folder, **options)
    size = sum(file.stat().st_size for run in cell.runs for file in run.iterdir())
    return {"updates": config.updates, "bytes": size, "seconds": round(_trained_for(cell), 1)}


def _trained_for(cell: TrainCell) -> float:
    """Seconds of all updates, of however many runs of the command."""
    lines = [{"step": 0}, *read_metrics(cell.runs[0] / "metrics.jsonl")]
    rates = [(b["step"] - a["step"], b["updates_per_second"]) for a, b in pairwise(lines)]
    return sum(count / rate for count, rate in rates)


def _play(cell: PlayCell) -> None:
    from ..evaluate.comparison import compare
    from ..evaluate.results import write

    study, begin = cell.study, time.perf_counter()
    found = compare(
        [run for training in cell.trainings for run in training.runs],
        [cell.method],
        weights=study.weights or None,
        tuning_budget=study.tuning_budget,
        episodes=study.episodes,
        processes=1,
        progress=False,
    )
    about = {**found.about, "seconds": round(time.perf_counter() - begin, 1)}
    write(replace(found, about=about), cell.path)


def _analyse(cell: AnalysisCell) -> dict[str, Any]:
    """Of every run its sensitivity to noise, and its values, judged by the next seed's critic."""
    from ..evaluate import task_of
    from ..figures import noise, value

    if task_of(cell.study.config.env).goals:
        raise SuiteError(
            "there are no analyses of tasks with goals: write `analyses = false` in its entry of "
            "the plan."
        )
    runs = [run for training in cell.trainings for run in training.runs]
    pairs = zip(runs, [*runs[1:], runs[0]], strict=True) if len(runs) > 1 else ()
    where = cell.study.data_dir
    return {
        "noise": [noise(run, where) for run in runs],
        "value": [value(run, judge, where) for run, judge in pairs],
    }


_RESULTS = {DataCell: _data, TrainCell: _train, PlayCell: _play, AnalysisCell: _analyse}


def _dataset(cell: DataCell | TrainCell) -> Any:
    from ..evaluate import task_of
    from ..evaluate.task import dataset_of

    return dataset_of(task_of(cell.study.config.env), cell.study.data_dir)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(content)
