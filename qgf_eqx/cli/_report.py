"""What the verbs that evaluate print and draw."""

from pathlib import Path
from typing import Any

from .. import plot
from ..evaluate import task_of
from ..evaluate.names import split_best_of
from ..evaluate.results import (
    Comparison,
    as_json,
    beside,
    format_goals,
    format_table,
    paths_of,
    read_paths,
)
from ._options import Common


def report(common: Common, results: Comparison, path: Path) -> None:
    """The table, and where everything is."""
    figures = draw(results, path, "png")
    table = format_table(results)
    table += f"\n\n{format_goals(results)}" if results.goals else ""
    common.result(as_json(results), f"\n{results.task}\n{table}\n")
    common.say(f"The results are in {path}, the figures in {' and '.join(map(str, figures))}")


def draw(results: Comparison, path: Path, format: str) -> list[Path]:
    """The figures of a results file, beside it."""
    drawn = [plot.success_bars(results, beside(path, f"success.{format}"))]
    if sum(split_best_of(row.method)[1] > 1 for row in results.table) > 1:
        drawn.append(plot.best_of(results, beside(path, f"best_of.{format}")))
    if paths_of(path).exists():
        shown, maze, count = read_paths(paths_of(path)), _maze(results.task), results.goals
        if maze is not None:
            methods = tuple(name for name in ("flow", "qgf") if name in shown) or tuple(shown)
            played = results.episodes[methods[0]]
            goals = [1 + e.number % count for run in played for e in run] if count else ()
            out = beside(path, f"maze.{format}")
            of = {m: [e.success for run in results.episodes[m] for e in run] for m in methods}
            drawn.append(plot.maze_paths(maze, shown, out, methods, goals, success=of))
    return drawn


def _maze(task: str) -> Any:
    """The environment of a task, if it is found by its name and is one of OGBench's mazes."""
    try:
        found = task_of(task)
    except ValueError:  # one of the user's own
        return None
    env = found.make_env() if found.paths else None
    return env if hasattr(getattr(env, "unwrapped", None), "maze_map") else None
