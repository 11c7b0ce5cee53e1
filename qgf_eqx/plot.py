"""Figures of results: success rates with intervals, and paths through a maze."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

try:
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which would choose a backend for everybody
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.plot needs matplotlib ({error}): pip install 'qgf_eqx[plot]'"
    ) from error

from ._renamed import old_names
from .analysis import Diagnostics
from .evaluate.names import METHODS, colour, label, split_best_of
from .evaluate.results import Comparison, Row, interval_note
from .evaluate.statistics import Estimate

_BESIDE: Any = {"fontsize": 7, "frameon": False, "loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
"""A legend of many methods, beside the axes."""


def success_bars(results: Comparison, path: str | Path) -> Path:
    """Success rate, or mean return, of every method of a result, with its 95 % interval, and what
    that is over.

    **Arguments:**

    - `results`: of `experiment.run` or `comparison.compare`, or a file of one by `results.read`.
    - `path`: of the picture; the ending says the format.
    """
    rows = results.table
    rates, errors = _means_and_errors(rows)
    names = [label(r.method) + (f"\nw = {r.weight}" if r.weight else "") for r in rows]
    figure, axes = _panels(figsize=(1.3 * len(rows) + 1, 3.2))
    colours = [colour(row.method) for row in rows]
    axes.bar(names, rates, yerr=errors.tolist(), color=colours, capsize=4)
    axes.set(**_vertical(rows))
    axes.set_title(_heading(results), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


class _Axes(NamedTuple):
    """How success, or a mean return, stands on the vertical axis."""

    by_return: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Of the axes."""
        if self.by_return:
            return {"ylabel": "mean return"}
        return {"ylim": (0, 105), "ylabel": "success, %"}

    def bars(self, found: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
        """Success in percent, or the mean return; and how far the interval reaches down and up."""
        scaled = (1 if self.by_return else 100) * np.array([estimate[:3] for estimate in found]).T
        return scaled[0], np.abs(scaled[1:] - scaled[0])


def _means_and_errors(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    return _Axes(rows[0].by_return).bars([row.estimate for row in rows])


def _vertical(rows: Sequence[Row]) -> dict[str, Any]:
    return _Axes(rows[0].by_return).options


def _heading(results: Comparison) -> str:
    row = results.table[0]
    seeds = len(row.by_run)
    n = f"{row.n // seeds} episodes x {seeds} training seed{'s' * (seeds > 1)}"
    note = interval_note(row).partition(". ")[0].replace(": ", ":\n")
    return f"{results.task}\nn = {n}. 95 % intervals.\n{note}"


def task_bars(results: Mapping[str, Comparison], path: str | Path) -> Path:
    """As `success_bars`, of several tasks: a panel for each.

    **Arguments:** the results by the name of the task, and the path of the picture.
    """
    longest = max(len(found.table) for found in results.values())
    figure, panels = _wrapped(len(results), 0.35 * longest + 1, 3.6)
    for panel, (name, found) in zip(panels, results.items(), strict=True):
        rates, errors = _means_and_errors(found.table)
        names = [label(row.method) for row in found.table]
        colours = [colour(row.method) for row in found.table]
        panel.bar(names, rates, yerr=errors.tolist(), color=colours, capsize=3)
        panel.set(**_vertical(found.table))
        panel.set_title(name, fontsize=7)
        panel.tick_params("x", rotation=60, labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def profiles(
    found: Mapping[str, Sequence[Estimate]], levels: Sequence[float], path: str | Path
) -> Path:
    """Performance profiles: the share of training runs that score above each level. Up to six
    methods share a panel; more have one each, with the others in grey.

    **Arguments:**

    - `found`: for every method the shares, of `evaluate.across.performance_profile`.
    - `levels`: those that they are of, from 0 to 1.
    - `path`: of the picture.
    """
    curves = {n: np.array([share[:3] for share in shares]).T for n, shares in found.items()}
    crowded = len(curves) > 6
    own = [[name] for name in curves] if crowded else [list(curves)]
    figure, panels = _wrapped(len(own), *((2.3, 2.1) if crowded else (4.6, 3.4)))
    for axes, names in zip(panels, own, strict=True):
        for name, (value, low, high) in curves.items():
            if name in names:
                axes.fill_between(levels, low, high, color=colour(name), alpha=0.15, linewidth=0)
                axes.plot(levels, value, color=colour(name), label=label(name), zorder=3)
            else:
                axes.plot(levels, value, color="0.85", linewidth=0.7)
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
        if crowded:
            axes.set_title(label(names[0]), fontsize=8)
        else:
            axes.legend(**_BESIDE)
    figure.supxlabel("score", fontsize=10)
    figure.supylabel("share of runs above it", fontsize=10)
    return _save(figure, path)


def tuning_budgets(found: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> Path:
    """The score that is reached by the number of episodes on which the weight was chosen.

    **Arguments:** for every method pairs of episodes and score; the path of the picture.
    """
    figure, axes = _panels(figsize=(4.6, 3.4))
    for name, points in found.items():
        budgets, scores = zip(*points, strict=True)
        axes.plot(budgets, 100 * np.array(scores), ".-", color=colour(name), label=label(name))
    axes.set(xlabel="tuning episodes per training seed", ylabel="score, %", xscale="log")
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(**_BESIDE)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def best_of(results: Comparison, path: str | Path) -> Path:
    """Success by the number of candidates, of the plain flow and of guided ones.

    Arguments as for `success_bars`.
    """
    rows = {row.method: row.estimate for row in results.table}
    axes = _Axes(results.table[0].by_return)
    return _candidates(rows, axes, _heading(results), path)


def best_of_over_tasks(found: Mapping[str, Estimate], path: str | Path) -> Path:
    """As `best_of`, of several tasks: the means over them by method, as `over_tasks` takes them."""
    return _candidates(found, _Axes(), "mean over tasks", path)


def _candidates(
    found: Mapping[str, Estimate], vertical: "_Axes", title: str, path: str | Path
) -> Path:
    lines: dict[str, list[tuple[int, Estimate]]] = {}
    for method, estimate in found.items():
        name, count = split_best_of(method)
        lines.setdefault(name, []).append((count, estimate))
    figure, axes = _panels(figsize=(4.6, 3.4))
    for name, points in lines.items():
        points.sort(key=lambda point: point[0])
        rates, errors = vertical.bars([estimate for _, estimate in points])
        style = {"color": colour(name), "marker": "o", "capsize": 3, "label": label(name)}
        axes.errorbar([count for count, _ in points], rates, yerr=errors, **style)
    ticks = sorted({count for points in lines.values() for count, _ in points})
    axes.set(xscale="log", xlabel="best of N", **vertical.options)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(title, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def over_tasks(found: Mapping[str, Estimate], path: str | Path) -> Path:
    """Bars of the mean over tasks, of success or the normalised score, with its interval.

    **Arguments:** by method the mean, of `evaluate.across.mean_over_tasks`; the path of the
    picture.
    """
    figure, axes = _panels(figsize=(max(4.0, 0.45 * len(found) + 1), 3.6))
    rates, errors = _Axes().bars(list(found.values()))
    colours = [colour(name) for name in found]
    axes.bar([label(name) for name in found], rates, yerr=errors, color=colours, capsize=3)
    axes.set(title="mean over tasks, 95 % intervals", **_Axes().options)
    axes.tick_params("x", rotation=60, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def cost_against_score(
    found: Mapping[str, Estimate], costs: Mapping[str, float], path: str | Path
) -> Path:
    """What a method reaches and what an action of it costs: one point a method.

    **Arguments:** by method the mean over tasks, as for `over_tasks`, and MFLOP of an action; the
    path of the picture.
    """
    figure, axes = _panels(figsize=(7.0, 3.8))
    for i, (name, cost) in enumerate(sorted(costs.items(), key=lambda item: -found[item[0]].value)):
        rates, errors = _Axes().bars([found[name]])
        style = {"color": colour(name), "marker": "osD^v"[i % 5], "label": label(name)}
        axes.errorbar([cost], rates, yerr=errors, elinewidth=0.8, **style)
    axes.set(xscale="log", xlabel="MFLOP of an action", **_Axes().options)
    axes.legend(**_BESIDE)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def entries(found: Mapping[str, Mapping[str, Comparison]], path: str | Path) -> Path:
    """Tasks that are studied several times, with two critics or networks of several widths: a panel
    for each task, and a line for each method that all of its entries have.

    **Arguments:** by task, by entry, its results; the path of the picture.
    """
    figure, panels = _panels(1, len(found), figsize=(4.4 * len(found), 3.8), squeeze=False)
    for axes, (task, of) in zip(panels[0], found.items(), strict=True):
        tables = [{row.method: row for row in comparison.table} for comparison in of.values()]
        for name in (name for name in tables[0] if all(name in table for table in tables)):
            rates, errors = _means_and_errors([table[name] for table in tables])
            style = {"color": colour(name), "marker": "o", "capsize": 3, "label": label(name)}
            axes.errorbar(list(of), rates, yerr=errors, **style)
        axes.set(**_vertical(next(iter(of.values())).table))
        axes.set_title(task, fontsize=8)
        axes.tick_params("x", rotation=20, labelsize=8)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(fontsize=8, frameon=False)
    return _save(figure, path)


def maze_paths(
    maze: Any,
    paths: dict[str, list],
    path: str | Path,
    methods: tuple[str, ...] = ("flow", "qgf"),
    goals: Sequence[int] = (),
    success: Mapping[str, Sequence[bool]] = MappingProxyType({}),
) -> Path:
    """The maze from above, and every episode's path through it, one panel a method.

    **Arguments:**

    - `maze`: an OGBench maze environment, for its walls, starts and goals.
    - `paths`: for each method, for each episode, a list of positions.
    - `path`: of the picture.
    - `methods`: the panels, from left to right.
    - `goals`: of a goal-conditioned maze the number of each episode's goal, from 1: each has a
      colour of its own.
    - `success`: for each method whether each episode succeeded, for the titles. (A goal is drawn
      where it is without the noise that an environment may add.)
    """
    maze = maze.unwrapped
    unit, (rows, columns) = maze._maze_unit, maze.maze_map.shape
    left, bottom = maze.ij_to_xy((0, 0))
    extent = (left - unit / 2, left + (columns - 0.5) * unit)
    extent += (bottom - unit / 2, bottom + (rows - 0.5) * unit)
    figure, panels = _panels(1, len(methods), figsize=(4.2 * len(methods), 4.5), squeeze=False)
    for axes, name in zip(panels[0], methods, strict=True):
        axes.imshow(maze.maze_map, cmap="Greys", vmax=1.6, origin="lower", extent=extent)
        numbers = list(goals) or [maze._reward_task_id] * len(paths[name])
        for number in sorted(set(numbers)):
            task = maze.task_infos[number - 1]
            ways = [w for w, n in zip(paths[name], numbers, strict=True) if n == number]
            ways = [way for way in ways if way]  # none, if the environment broke at once
            hue = f"C{number - 1}" if goals else colour(name)
            for way in ways:
                x, y = np.array(way).T
                axes.plot(x, y, color=hue, alpha=0.35, linewidth=0.8)
            ends = {"markeredgecolor": "black", "linestyle": "none"}
            start, end = (hue, hue) if goals else ("black", "#e6ab02")
            which = f" {number}" if goals else ""
            axes.plot(*task["init_xy"], "o", color=start, markersize=7, label="start", **ends)
            axes.plot(*task["goal_xy"], "*", color=end, markersize=16, label=f"goal{which}", **ends)
        outcomes = success.get(name, ())
        said = f": {sum(outcomes)} of {len(outcomes)} reach the goal" if len(outcomes) else ""
        axes.set_title(f"{label(name)}{said}")
        axes.set(xticks=[], yticks=[])
    handles, names = panels[0, 0].get_legend_handles_labels()
    shown = dict(zip(names, handles, strict=True))
    panels[0, 0].legend(shown.values(), shown, loc="upper left", framealpha=0.9, fontsize=8)
    return _save(figure, path)


def diagnostics(found: Diagnostics, path: str | Path) -> Path:
    """What guidance does at each step of the flow: six panels, the median over all flows, and the
    band from the 10th to the 90th percentile.

    **Arguments:**

    - `found`: of `analysis.diagnose` under any number of `jax.vmap`s.
    - `path`: of the picture; the ending says the format.
    """
    panels = {
        "share": "||w g|| / ||v||",
        "cosine": "cos(g, v)",
        "clipped": "share of clipped dimensions",
        "spread": "spread of the critics, in Q",
        "value": "Q at the leap",
        "distance": "distance to the plain flow",
    }
    figure, grid = _panels(2, 3, figsize=(10, 5), sharex=True)
    for axes, (name, title) in zip(grid.flat, panels.items(), strict=True):
        values = np.asarray(getattr(found, name))
        values = values.reshape(-1, values.shape[-1])
        t = np.asarray(found.t).reshape(values.shape)[0]
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if np.isnan(values).all():
            axes.text(0.5, 0.5, "not given", ha="center", transform=axes.transAxes)
            continue
        low, middle, high = np.nanpercentile(values, [10, 50, 90], axis=0)
        axes.fill_between(t, low, high, alpha=0.2, color=colour("qgf"), linewidth=0)
        axes.plot(t, middle, color=colour("qgf"), marker="o", markersize=3)
    for axes in grid[1]:
        axes.set_xlabel("t")
    flows = np.asarray(found.t)[..., 0].size
    figure.suptitle(f"Median and 10th to 90th percentile of {flows} flows", fontsize=10)
    return _save(figure, path)


_ESTIMATORS = {row.label: row.colour for row in METHODS.values()}


def draw_example(found: dict[str, Any], path: str | Path) -> Path:
    """The one-dimensional example of `figures.example`: for every estimator the guided field and
    some paths, and the share of samples on the best mode by weight.
    """
    names = list(found["methods"])
    layout = [names[:3], names[3:], ["share", "share", "legend"]]
    figure, panels = _mosaic(layout, figsize=(8.4, 8))
    # streamplot wants equal spacing to the last bit, which rounded numbers lack.
    t, a = (np.linspace(x[0], x[-1], len(x)) for x in (found["t"], found["a"]))
    for name in names:
        axes, method = panels[name], found["methods"][name]
        slope = np.array(method["field"]).T
        style = {"color": "#b0b0b0", "linewidth": 0.6, "arrowsize": 0.6, "density": 0.8}
        axes.streamplot(t, a, np.ones_like(slope), slope, **style)
        paths = np.array(method["paths"])
        axes.plot(np.linspace(0, 1, paths.shape[1]), paths.T, color=_ESTIMATORS[name], lw=0.7)
        axes.set(title=name, xlim=(0, 1), ylim=(-3, 7), xlabel="t", yticks=[1, 3, 5])
        axes.axhline(3, color="#e6ab02", linewidth=0.8)
    axes = panels["share"]
    for name in names:
        style = {"color": _ESTIMATORS[name], "marker": "o", "markersize": 3, "label": name}
        axes.plot(found["weights"], found["methods"][name]["share"], **style)
    axes.set(xscale="log", xlabel="weight", title=f"share on 3, n = {found['samples']}")
    axes.set_xticks(found["weights"], [f"{w:g}" for w in found["weights"]])
    axes.minorticks_off()
    panels["legend"].axis("off")
    panels["legend"].legend(*axes.get_legend_handles_labels(), loc="center left", frameon=False)
    return _save(figure, path)


def draw_instability(found: dict[str, Any], path: str | Path) -> Path:
    """The figure of `figures.instability`: gradients by place above, paths by weight below."""
    a, columns = np.array(found["a"]), len(found["t"])
    figure, grid = _panels(2, columns, figsize=(2.4 * columns, 5.4))
    for k, axes in enumerate(grid[0]):
        for name in reversed(found["gradient"]):
            gradient = found["gradient"][name][k]
            axes.plot(a, gradient, color=_ESTIMATORS[name], linewidth=1, label=name)
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlabel="a_t", title=f"gradient, t = {found['t'][k]}")
    grid[0, 0].legend(fontsize=8, frameon=False)
    for axes, weight, paths in zip(grid[1], found["weights"], found["paths"], strict=False):
        paths = np.array(paths)
        axes.plot(np.linspace(0, 1, paths.shape[1]), paths.T, color=_ESTIMATORS["BPTT"], lw=0.7)
        axes.axhline(3, color="#e6ab02", linewidth=0.8)
        axes.set(title=f"BPTT, weight {weight:g}", xlabel="t", ylim=(-3, 8), yticks=[1, 3, 5])
    paths = np.array(found["QGF's paths"][-1])
    axes = grid[1, -1]
    axes.plot(np.linspace(0, 1, paths.shape[1]), paths.T, color=_ESTIMATORS["QGF"], lw=0.7)
    axes.axhline(3, color="#e6ab02", linewidth=0.8)
    title = f"QGF, weight {found['weights'][-1]:g}"
    axes.set(title=title, xlabel="t", ylim=(-3, 8), yticks=[1, 3, 5])
    return _save(figure, path)


def draw_noise(found: dict[str, Any], path: str | Path) -> Path:
    """The sensitivity to noise of `figures.noise`: a panel for every noise scale, over time."""
    figure, panels = _panels(
        1,
        len(found["std"]),
        figsize=(3 * len(found["std"]), 3.6),
        sharey=True,
    )
    for k, axes in enumerate(panels):
        for name, method in found["methods"].items():
            axes.errorbar(
                found["t"],
                method["cosine"][k],
                yerr=1.96 * np.array(method["error"][k]),
                color=_ESTIMATORS[name],
                marker="o",
                markersize=3,
                label=name,
            )
        axes.set(title=f"noise of std {found['std'][k]}", xlabel="t")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("cos(g(a_t), g(a_t + noise))")
    panels[0].legend(fontsize=9, frameon=False)
    return _save(figure, path)


def draw_value(found: dict[str, Any], path: str | Path) -> Path:
    """The values of `figures.value` against the distance to the data: by the critic that guides and
    by the judge, one point a weight or N.
    """
    figure, panels = _panels(1, 2, figsize=(9, 3.8))
    for axes, who in zip(panels, ("critic", "judge"), strict=True):
        for name, rows in found["methods"].items():
            x, y = ([row[key] for row in rows] for key in ("distance", who))
            axes.plot(x, y, color=_ESTIMATORS[name], marker="o", markersize=3, label=name)
        x, y = ([row[key] for row in found["best-of-N"]] for key in ("distance", who))
        axes.plot(x, y, color="black", marker="s", markersize=4, label="best-of-N")
        for name, row in found.get("actors", {}).items():  # an older file has none
            at = {"color": colour(name), "marker": "*", "linestyle": "none", "label": label(name)}
            axes.plot(row["distance"], row[who], markersize=8, **at)
        relative = " / the plain flow's" if "runs" in found else ""
        axes.set(xlabel=f"distance to the nearest data action{relative}")
        axes.spines[["top", "right"]].set_visible(False)
    said = f"gain / best-of-4's gain, mean of {found['runs']} runs" if "runs" in found else "Q"
    panels[0].set(ylabel=said, title="by the critic that guides")
    panels[1].set(title="by an independent critic")
    panels[0].legend(fontsize=9, frameon=False)
    return _save(figure, path)


def _panels(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float | int, float | int], **options: Any
) -> tuple[Figure, Any]:
    figure = Figure(figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _wrapped(count: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """As many panels of a size in inches, in rows that fit on a screen."""
    columns = max(1, min(count, int(14 // width)))
    rows = -(-count // columns)
    figure, grid = _panels(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for empty in grid.flat[count:]:
        empty.set_visible(False)
    return figure, list(grid.flat[:count])


def _mosaic(layout: list, *, figsize: tuple[float | int, float | int]) -> tuple[Figure, Any]:
    figure = Figure(figsize, layout="constrained")
    return figure, figure.subplot_mosaic(layout)


def _save(figure: Figure, path: str | Path) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if str(path).endswith("svg") else None
    with matplotlib.rc_context({"svg.hashsalt": "qgf_eqx"}):  # the same numbers, the same file
        figure.savefig(path, dpi=150, metadata=metadata)
    return Path(path)


__getattr__ = old_names(
    __name__,
    example="draw_example",
    instability="draw_instability",
    noise="draw_noise",
    value="draw_value",
)
