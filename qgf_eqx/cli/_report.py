"""What the verbs that evaluate print and draw."""

import re
from pathlib import Path

from .. import plot
from ..evaluate.results import beside, format_table, paths_of, read_paths
from ._options import Common


def report(common: Common, results: dict, path: Path) -> None:
    """The table, and where everything is."""
    figures = draw(results, path, "png")
    common.result(results, f"\n{results['task']}\n{format_table(results)}\n")
    common.say(f"The results are in {path}, the figures in {' and '.join(map(str, figures))}")


def draw(results: dict, path: Path, format: str) -> list[Path]:
    """The figures of a results file, beside it."""
    drawn = [plot.success_bars(results, beside(path, f"success.{format}"))]
    if sum("best-of" in row["method"] for row in results["table"]) > 1:
        drawn.append(plot.best_of(results, beside(path, f"best_of.{format}")))
    if re.search("maze.*singletask", results["task"]) and paths_of(path).exists():
        from ..data import env_id, make_env

        shown = read_paths(paths_of(path))
        maze = make_env(env_id(results["task"]))
        methods = tuple(name for name in ("flow", "qgf") if name in shown) or tuple(shown)
        drawn.append(plot.maze_paths(maze, shown, beside(path, f"maze.{format}"), methods))
    return drawn
