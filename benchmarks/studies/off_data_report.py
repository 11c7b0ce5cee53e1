"""The tables and the figure of docs/off_data.md, of what `off_data` has measured.

    python -m benchmarks.studies.off_data_report FOLDER

Collects `FOLDER/*.json` in `benchmarks/results/off_data.json`, prints the tables, and draws
`docs/images/off_data.svg`. Intervals are 95 %, Student's t over the training seeds.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from qgf_eqx._provenance import write_json
from qgf_eqx.evaluate import across
from qgf_eqx.evaluate.names import METHODS, label

from .. import RESULTS
from .off_data import COUNTED, FACTORS, MAIN, STUDIES
from .training_runs import interval

FILE = RESULTS / "off_data.json"
OURS = {
    "late": "OOD, from t = 0.5 on",
    "early": "OOD until t = 0.5, then QGF",
    "turned": "OOD's direction, QGF's length",
    "stretched": "QGF's direction, OOD's length",
    "at-mean": "gradient at the flow's mean",
}
NUMBERS = {
    "width of the data's actions": lambda found: found["data"]["width"],
    "their offset": lambda found: found["data"]["offset"],
    "share at their bounds": lambda found: found["data"]["at the bounds"],
    "cosine of OOD and QGF, t = 0": lambda found: _network(found, "cosine, ood", 0),
    "length of OOD / QGF, t = 0": lambda found: _network(found, "length, ood", 0),
    "gain of OOD / QGF by another critic, at 10": lambda found: _gain(found, "ood", 10.0),
}
"""What might predict a loss, of a task."""


def tasks(found: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are no variants of others."""
    return {name: found[name] for name in STUDIES if name in found and "," not in name}


def rates(found: Mapping[str, Any], arm: str) -> np.ndarray:
    """Success in per cent, by factor and training seed."""
    curve = found["curves"][arm]
    return np.array([[_percent(each) for each in curve[str(factor)]] for factor in FACTORS])


def losses(found: Mapping[str, Any], arm: str) -> np.ndarray:
    """QGF's success less the arm's, the mean over the weights from 0.1 to 10 times the starting
    weight, of each training seed."""
    counted = [FACTORS.index(factor) for factor in COUNTED]
    return (rates(found, "qgf") - rates(found, arm))[counted].mean(axis=0)


def loss_at_best(found: Mapping[str, Any], arm: str) -> np.ndarray:
    """Of each training seed, at the weight that is best for each over all seeds."""
    best = [rates(found, name)[rates(found, name).mean(axis=1).argmax()] for name in ("qgf", arm)]
    return best[0] - best[1]


def kept(found: Mapping[str, Any], arm: str) -> str:
    """The factors, next to the best one, at which the arm keeps 90 % of its best."""
    means = rates(found, arm).mean(axis=1)
    good = means >= 0.9 * means.max()
    first = last = int(means.argmax())
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(FACTORS) - 1 and good[last + 1]:
        last += 1
    return f"{FACTORS[first]:g} to {FACTORS[last]:g}"


def named(arm: str) -> str:
    """As tables show it."""
    return OURS.get(arm) or label(arm)


def curves_table(found: Mapping[str, Any]) -> str:
    """Success by the weight, of every task and variant."""
    lines = [
        f"| task | method | {' | '.join(f'{f:g}' for f in FACTORS)} | keeps 90 % of its best |"
    ]
    lines.append("|---" * (len(FACTORS) + 3) + "|")
    for name in (name for name in STUDIES if name in found):
        for arm in ("qgf", "ood", "qgf-jacobian"):
            cells = [f"{mean:.0f}" for mean in rates(found[name], arm).mean(axis=1)]
            cells = [name, named(arm), *cells, kept(found[name], arm)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def loss_table(found: Mapping[str, Any]) -> str:
    """The losses of all arms, by task."""
    of = tasks(found)
    lines = [f"| success below QGF's, points | {' | '.join(of)} |", "|---" * (len(of) + 1) + "|"]
    for arm in ("ood", "qgf-jacobian", *MAIN["arms"]):
        cells = [_interval(losses(each, arm)) for each in of.values()]
        lines.append(f"| {named(arm)} | {' | '.join(cells)} |")
    for arm in ("ood", "qgf-jacobian"):
        cells = [_interval(loss_at_best(each, arm)) for each in of.values()]
        lines.append(f"| {named(arm)}, each at its best weight | {' | '.join(cells)} |")
    return "\n".join(lines)


def predictors_table(found: Mapping[str, Any]) -> str:
    """What might predict OOD's loss, and its rank correlation with it over the tasks."""
    of = tasks(found)
    lines = [f"| | {' | '.join(of)} | Spearman |", "|---" * (len(of) + 2) + "|"]
    loss = [losses(each, "ood").mean() for each in of.values()]
    lines.append(f"| OOD's loss, points | {' | '.join(f'{x:.0f}' for x in loss)} | |")
    for name, number in NUMBERS.items():
        numbers = [number(each) for each in of.values()]
        cells = [f"{x:.2f}" for x in numbers]
        lines.append(f"| {name} | {' | '.join(cells)} | {stats.spearmanr(numbers, loss)[0]:.2f} |")
    return "\n".join(lines)


def rules_table(found: Mapping[str, Any]) -> str:
    """What is reached without tuning, and its share of the tuned best."""
    of = {name: each for name, each in tasks(found).items() if "rules" in each}
    lines = [
        f"| success, % | {' | '.join(of)} | share of QGF tuned | minus QGF tuned, points |",
        "|---" * (len(of) + 3) + "|",
    ]
    means = {
        rule: np.array([_rule(each, rule) for each in of.values()]).mean(axis=1)
        for rule in next(iter(of.values()))["rules"]
    }
    for rule, mean in means.items():
        share = 100 * np.mean(mean / means["qgf, tuned"])
        both = ([_outcomes(each, name) for each in of.values()] for name in (rule, "qgf, tuned"))
        behind = across.pooled_difference(*both)
        value, low, high = (round(100 * x) + 0 for x in (behind.value, behind.low, behind.high))
        cells = [*(f"{x:.0f}" for x in mean), f"{share:.0f}"]
        cells.append("" if rule == "qgf, tuned" else f"{value} [{low}, {high}]")
        lines.append(f"| {_said(rule)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rule(found: Mapping[str, Any], rule: str) -> np.ndarray:
    return np.array([_percent(each) for each in found["rules"][rule]["success"]])


def _outcomes(found: Mapping[str, Any], rule: str) -> list[list[float]]:
    return [[float(one) for one in each] for each in found["rules"][rule]["success"]]


def _said(rule: str) -> str:
    name, _, factor = rule.partition(", ")
    if not factor or factor == "tuned":
        return f"{label(name)}{', tuned' if factor else ''}"
    return f"{label(name)} at {factor} x the starting weight"


def _network(found: Mapping[str, Any], name: str, time: int) -> float:
    return float(np.mean([each[name][time] for each in found["networks"]]))


def _gain(found: Mapping[str, Any], arm: str, factor: float) -> float:
    gains = [each["gain by another critic"] for each in found["networks"]]
    return float(np.mean([g[arm][str(factor)] / g["qgf"][str(factor)] for g in gains]))


def _percent(outcomes: str) -> float:
    return 100 * outcomes.count("1") / len(outcomes)


def _interval(values: np.ndarray) -> str:
    mean, low, high = np.clip(interval(values), -100, 100)  # differences of success, in points
    return f"{round(mean)} [{round(low)}, {round(high)}]" if values.std() else f"{round(mean)}"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Success by the weight: a panel for each task, and each variant."""
    from qgf_eqx import plot

    rows = -(-len(found) // 3)
    figure, grid = plot._panels(rows, 3, figsize=(8, 2.6 * rows), sharey=True)
    panels = np.ravel(grid)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for axes, (name, each) in zip(panels, found.items(), strict=False):
        for arm in ("ood", "qgf-jacobian", "qgf"):
            style = {"color": METHODS[arm].colour, "marker": "o", "markersize": 3}
            axes.plot(FACTORS, rates(each, arm).mean(axis=1), label=named(arm), **style)
        axes.set(xscale="log", title=name, ylim=(0, 103), xlabel="weight / starting weight")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[::3]:
        axes.set_ylabel("success, %")
    panels[0].legend(fontsize=8, frameon=False, loc="lower left")
    plot._save(figure, path)


def main() -> None:
    """Collects, prints and draws."""
    parts = {path.stem: json.loads(path.read_text()) for path in Path(sys.argv[1]).glob("*.json")}
    found = {name: parts[name] for name in STUDIES if name in parts}
    write_json(FILE, found)
    tables = (curves_table, loss_table, predictors_table, rules_table)
    print("\n\n".join(table(found) for table in tables))
    draw(found, Path("docs/images/off_data.svg"))


if __name__ == "__main__":
    main()
