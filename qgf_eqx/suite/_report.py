"""Tables and figures of a plan, from what is there, finished or not."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_atomically
from ..evaluate import across
from ..evaluate._judge import compared, judge_of
from ..evaluate._rows import Comparison
from ..evaluate.names import label, split_best_of
from ..evaluate.results import format_table, read
from ..evaluate.statistics import Estimate
from ..evaluate.task import References, Return
from ..learn._learner import Learner
from ._cells import PLAY, AnalysisCell, Cell, PlayCell, cells_of, is_done, log_of, sizes_of
from ._costs import costs_of
from ._curves import budget_curves, kept_range, shares_by_factor, shares_untuned, tried
from ._plan import Plan, Study


def write_report(plan: Plan, out: str | Path) -> Path:
    """Writes `report.md` and `report.json` to the folder of results; the same results give the
    same bytes. With Matplotlib it draws `success.png` (each task), `over_tasks.png`, `profile.png`,
    `budgets.png` (score by tuning episodes), `cost.png` (score by MFLOP of an action), and, where
    the plan has them, `best_of.png` (score by N), `entries.png` (tasks that are studied several
    times, say with two critics or networks of several widths), `noise.png` and `value.png` (the
    analyses of all runs).

    **Returns:** the path of `report.md`.
    """
    out = Path(out)
    cells = cells_of(plan, out)
    found = comparisons(plan, out)
    lines = [f"# {plan.name}", "", *_progress(plan, cells, out), ""]
    studies = {study.label: study for study in plan.studies}
    used = _versions(found)
    content: dict[str, Any] = {"plan": plan.name, "versions": used, "tasks": {}}
    content["settings"] = {
        name: {f.name: getattr(study, f.name) for f in fields(study)}
        | {"config": study.config.as_dict()}
        for name, study in studies.items()
    }
    for name, comparison in found.items():
        lines += [f"## {name}", "", _settings(studies[name]), ""]
        lines += ["```", format_table(comparison), "```", ""]
        lines += _ranges(comparison)
        content["tasks"][name] = {
            row.method: {"weight": str(row.weight), **_as_dict(row.estimate), "n": row.n}
            for row in comparison.table
        }
    if curves := budget_curves(found, _scored):
        lines += _budgets(curves)
        content["tuning budgets"] = curves
    shares = shares_by_factor(found)
    rules = shares_untuned(found, {name: outcomes_of(one) for name, one in found.items()})
    if shares or rules:
        lines += _untuned(shares, rules)
        content["shares of the tuned best by factor of the starting weight"] = shares
        content["shares of tuned QGF by methods without tuning"] = rules
    scored = {name: one for name, one in found.items() if _has_scores(one)}
    if len(scored) > 1 and _shared(scored):
        together = over_tasks(scored)
        lines += _together(together, scored)
        content["over tasks"] = together
    if left := [name for name in found if name not in scored]:
        lines += [f"Not in what is over tasks: {', '.join(left)}. Returns need `References`.", ""]
    if costs := costs_of(cells):
        lines += _costs(costs)
        content["MFLOP of an action"] = costs
    if analyses := _analyses(cells):
        lines += _looked_at(analyses)
        content["analyses"] = analyses
    for name in _FIGURES:
        (out / f"{name}.png").unlink(missing_ok=True)  # of results that may not be there any more
    _draw(found, curves, costs, analyses, out)
    drawn = [name for name in _FIGURES if (out / f"{name}.png").exists()]
    lines += [f"![{name}]({name}.png)" for name in drawn]
    lines += [""] + [f"Versions: {', '.join(f'{n} {v}' for n, v in one.items())}." for one in used]
    _write(out / "report.json", json.dumps(content, indent=1) + "\n")
    _write(out / "report.md", "\n".join(lines).rstrip() + "\n")
    return out / "report.md"


_FIGURES = (
    *("best_of", "budgets", "cost", "entries", "noise"),
    *("over_tasks", "profile", "success", "value"),
)


def _versions(found: Mapping[str, Comparison]) -> list[dict[str, str]]:
    """Each set of versions that some results were made with."""
    sets = {json.dumps(v, sort_keys=True) for one in found.values() for v in one.about["versions"]}
    return [json.loads(each) for each in sorted(sets)]


def comparisons(plan: Plan, out: str | Path) -> dict[str, Comparison]:
    """What is finished of a plan, by task: one comparison of all its methods."""
    by_task: dict[str, list[Comparison]] = {}
    for cell in cells_of(plan, out):
        if isinstance(cell, PlayCell) and is_done(cell):
            by_task.setdefault(cell.study.label, []).append(read(cell.path))
    return {name: _merged(parts) for name, parts in by_task.items()}


def over_tasks(found: Mapping[str, Comparison]) -> dict[str, dict[str, Any]]:
    """Averages over the tasks, of the methods that all of them have: in success, or in normalised
    score, as `evaluate.across` computes them."""
    scores = {name: outcomes_of(comparison) for name, comparison in found.items()}
    shared = _shared(found)
    ours = _ours(shared)
    rows = {}
    for name in shared:
        own = [of[name] for of in scores.values()]
        rows[name] = {
            "mean": _as_dict(across.mean_over_tasks(own)),
            "interquartile mean": _as_dict(across.interquartile_mean(own)),
        }
        if name != ours:
            first = [of[ours] for of in scores.values()]
            better = across.probability_of_improvement(first, own)
            rows[name] |= {
                f"{ours} minus it": _as_dict(across.pooled_difference(first, own)),
                f"chance that {ours} is better": _as_dict(better),
            }
    return rows


def _ours(methods: Collection[str]) -> str:
    """The method that others are compared with."""
    return "qgf" if "qgf" in methods else next(iter(methods))


def outcomes_of(found: Comparison) -> dict[str, list[list[float]]]:
    """Of every method for every training seed the outcomes: success, or the normalised score."""
    score, judge = _scored(found), judge_of(found.outcome, list(found.episodes.values()))
    return {
        name: [[score(float(outcome)) for outcome in run] for run in judge.values(runs)]
        for name, runs in found.episodes.items()
    }


def _has_scores(found: Comparison) -> bool:
    """Whether its outcomes can stand beside those of other tasks."""
    return not (isinstance(found.outcome, Return) and found.outcome.references is None)


def _scored(found: Comparison) -> Callable[[float], float]:
    """What makes the score of an outcome: a success is its own, a return is normalised."""
    low, high = 0.0, 1.0
    if isinstance(found.outcome, Return):
        low, high = found.outcome.references or References(0.0, 1.0)
    return lambda outcome: (outcome - low) / (high - low)


def _shared(found: Mapping[str, Comparison]) -> list[str]:
    """The methods that all tasks have."""
    names = [[row.method for row in comparison.table] for comparison in found.values()]
    return [name for name in names[0] if all(name in each for each in names)] if names else []


def _merged(parts: Sequence[Comparison]) -> Comparison:
    """Comparisons of the same runs and episodes, each of some methods, as one."""
    first = parts[0]
    rows = {row.method: (row.choice, row.steps) for part in parts for row in part.table}
    episodes = {name: runs for part in parts for name, runs in part.episodes.items()}
    tuning = tuple(row for part in parts for row in part.tuning)
    known = {"runs": first.runs, "reduce": first.reduce, "goals": first.goals, "tuning": tuning}
    about = {"versions": [part.about.get("versions", {}) for part in parts]}
    return compared(first.task, first.outcome, rows, episodes, about=about, **known)


def _failed(out: Path, cell: Cell) -> bool:
    return not is_done(cell) and log_of(out, cell).exists()


def _progress(plan: Plan, cells: Sequence[Cell], out: Path) -> list[str]:
    lines = []
    for stage, total in sizes_of(plan).items():
        done = sum(is_done(cell) for cell in cells if cell.stage == stage)
        lines.append(f"{stage}: {done} of {total} done.")
        if stage == PLAY and done < total:
            waiting = [c.title for c in cells if c.stage == PLAY and not is_done(c)]
            lines += [f"Missing: {'; '.join(waiting)}."] if waiting else []
    lines += [
        f"Failed: {c.title}; see errors/{log_of(out, c).name}." for c in cells if _failed(out, c)
    ]
    return lines


def _together(rows: Mapping[str, Mapping[str, Any]], found: Mapping[str, Comparison]) -> list[str]:
    tasks, ours = len({comparison.task for comparison in found.values()}), label(_ours(rows))
    entries = "" if tasks == len(found) else f"{len(found)} entries of "
    lines = [f"## Over {entries}{tasks} task{'s' * (tasks > 1)}", ""]
    lines += [f"| method | mean | interquartile mean | {ours} minus it | {ours} is better |"]
    lines += ["|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = [_percent(row["mean"]), _percent(row["interquartile mean"])]
        others = [value for key, value in row.items() if key not in ("mean", "interquartile mean")]
        cells += [_percent(value) for value in others] or ["", ""]
        lines.append(f"| {label(name)} | {' | '.join(cells)} |")
    lines += ["", "In % with 95 % intervals over training seeds and episodes; the tasks are fixed."]
    fewest = min(len(runs) for one in found.values() for runs in one.episodes.values())
    if fewest == 1:
        lines[-1] = "In % with 95 % intervals over episodes only: some task has one training seed."
    elif fewest < across.FEW:
        lines[-1] += " With fewer than five training seeds they are Student's t over the seeds."
    if entries:
        lines.append("Entries of one task count as tasks: their mean is of this plan only.")
    chance = f"`{ours} is better`: the chance that a training run of it beats one of the other"
    return [*lines, f"{chance} method on the same task, ties counted half.", ""]


def _settings(study: Study) -> str:
    config = study.config
    said = f"`{config.env}`: {config.updates:,} updates of {config.batch} chunks of "
    said += f"{config.horizon}, "
    if isinstance(config.critic, Learner):  # one's own may have no size
        said += f"networks of {config.critic.depth} x {config.critic.width}, "
    said += (
        f"{study.tuning_budget} tuning episodes of each method with a weight and training seed, "
    )
    said += f"{study.episodes} reported. Critic: {config.as_dict()['critic']['kind']}, "
    said += f"gamma {config.gamma:g}. "
    return said + f"Actors: {', '.join(config.actors)}. Seeds: {', '.join(map(str, study.seeds))}."


def _ranges(found: Comparison) -> list[str]:
    """Of guided methods the weights that keep 90 % of the best one's tuning successes."""
    if isinstance(found.outcome, Return):
        return []
    lines = []
    for name, rows in tried(found).items():
        weights = [row.weight for row in rows]
        if max(row.estimate.value for row in rows) > 0 and all(
            isinstance(w, float) for w in weights
        ):
            low, high = kept_range(rows)
            ends = " to ".join(f"{float(f'{end:.2g}'):g}" for end in (low, high))
            lines.append(f"| {label(name)} | {ends} | {high / low:.1f} |")
    if not lines:
        return []
    lines = ["| method | keeps 90 % of its best at | highest / lowest |", "|---|---|---|", *lines]
    return [
        *lines,
        "",
        "By the tuning episodes, interpolated between the weights that were tried.",
        "",
    ]


def _budgets(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[str]:
    lines = ["## What choosing a weight costs", ""]
    lines += [
        "| method | score in %, after so many tuning episodes per training seed |",
        "|---|---|",
    ]
    for name, points in curves.items():
        said = ", ".join(f"{100 * score:.0f} after {budget}" for budget, score in points)
        lines.append(f"| {label(name)} | {said} |")
    return [
        *lines,
        "",
        "The mean over tasks, on the tuning episodes that did not choose the weight. The tables "
        "above are of the reported ones.",
        "",
    ]


def _untuned(shares: Mapping[float, float], rules: Mapping[str, float]) -> list[str]:
    lines = ["## Without tuning", ""]
    by_method = {label(name): share for name, share in rules.items()}
    by_factor = {f"{factor:g} x the starting weight": share for factor, share in shares.items()}
    for found, head, note in (
        (
            by_method,
            "| method | share of tuned QGF's score |",
            "On the reported episodes: the mean over the tasks on which QGF succeeds.",
        ),
        (
            by_factor,
            "| QGF at | share of the best weight's score |",
            "On tuning episodes, the mean over tasks; the best is best partly by luck.",
        ),
    ):
        if found:
            rows = [f"| {name} | {100 * share:.0f} % |" for name, share in found.items()]
            lines += [head, "|---|---|", *rows, "", note, ""]
    return lines


def _percent(found: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in found["interval"])
    return f"{100 * found['value']:.1f} [{low:.1f}, {high:.1f}]"


def _as_dict(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "interval": [found.low, found.high], "over": found.over}


def _costs(costs: Mapping[str, float]) -> list[str]:
    lines = ["## What an action costs", "", "| method | MFLOP |", "|---|---|"]
    lines += [f"| {label(name)} | {cost:.3g} |" for name, cost in costs.items()]
    return [*lines, "", "The mean over the tasks' networks.", ""]


def _analyses(cells: Sequence[Cell]) -> dict[str, Any]:
    """Those of all runs as one, by name."""
    from .. import figures

    done = [cell for cell in cells if isinstance(cell, AnalysisCell) and is_done(cell)]
    each = [json.loads(cell.path.read_bytes()) for cell in done]
    found = {}
    for name in ("noise", "value") if done else ():
        if runs := [one for of in each for one in of[name]]:
            mean = getattr(figures, f"{name}_over_runs")
            found[name] = mean(runs) if len(runs) > 1 else runs[0]
    return found


def _looked_at(analyses: Mapping[str, Any]) -> list[str]:
    runs = analyses["noise"].get("runs", 1)
    said = f"Means over {runs} runs, with standard errors over the runs. " if runs > 1 else ""
    said += "`noise.png`: the cosine of a gradient with that at a noisy point."
    if "value" in analyses:
        said += (
            " `value.png`: Q of the actions by their distance to the data, by the critic that "
            "guides and by the next training seed's."
        )
    return ["## Gradients and values", "", said, ""]


def _draw(
    found: Mapping[str, Comparison],
    curves: Mapping[str, Any],
    costs: Mapping[str, float],
    analyses: Mapping[str, Any],
    out: Path,
) -> None:
    """The figures that `write_report` names."""
    if not found and not analyses:
        return
    try:
        from .. import plot
    except ImportError:
        return
    for name, of in analyses.items():
        getattr(plot, f"draw_{name}")(of, out / f"{name}.png")
    if not found:
        return
    plot.task_bars(found, out / "success.png")
    if curves:
        plot.tuning_budgets(curves, out / "budgets.png")
    _draw_over_tasks({n: one for n, one in found.items() if _has_scores(one)}, costs, out)
    by_task: dict[str, dict[str, Comparison]] = {}
    for name, comparison in found.items():
        by_task.setdefault(comparison.task, {})[name] = comparison
    if several := {task: of for task, of in by_task.items() if len(of) > 1}:
        plot.entries(several, out / "entries.png")


def _draw_over_tasks(
    found: Mapping[str, Comparison], costs: Mapping[str, float], out: Path
) -> None:
    """The figures of the methods that all tasks have."""
    from .. import plot

    outcomes = [outcomes_of(comparison) for comparison in found.values()]
    scores = {name: [of[name] for of in outcomes] for name in _shared(found)}
    if not scores:
        return
    levels = np.linspace(0, 1, 41)[:-1].tolist()
    profiles = {n: across.performance_profile(s, levels, draws=200) for n, s in scores.items()}
    plot.profiles(profiles, levels, out / "profile.png")
    means = {name: across.mean_over_tasks(of) for name, of in scores.items()}
    plot.over_tasks(means, out / "over_tasks.png")
    if max(Counter(split_best_of(name)[0] for name in means).values()) > 2:
        plot.best_of_over_tasks(means, out / "best_of.png")
    if known := {name: cost for name, cost in costs.items() if name in means}:
        plot.cost_against_score(means, known, out / "cost.png")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(text.encode())
