"""Cube-single task 2 with the training run as the unit: four runs, two seeds trained twice.

    python -m benchmarks.studies.training_runs

Reads the outcomes of every episode in `results/best_of_cube*.json` (weight 0.15 (1-t) in both) and
in `results/cube_single_task2*.json` (weights chosen on tuning episodes, the only ones with OOD in
all four runs), and prints the tables of docs/analyses.md. Intervals are Student's t over the runs.
"""

import json
from collections.abc import Iterator

import numpy as np
from scipy import stats

from qgf_eqx.evaluate.names import label

from .. import RESULTS

FIXED, CHOSEN = "best_of_cube", "cube_single_task2"
RATES = {
    FIXED: ("flow", "best-of-4", "best-of-16", "qgf", "qgf-best-of-4"),
    CHOSEN: ("flow", "qgf", "ood-clipped", "best-of-16"),
}
DIFFERENCES = (
    (FIXED, "qgf", "flow"),
    (FIXED, "qgf", "best-of-4"),
    (FIXED, "qgf", "best-of-16"),
    (CHOSEN, "qgf", "ood-clipped"),
    (FIXED, "qgf-best-of-4", "qgf"),
    (FIXED, "qgf-best-of-4", "best-of-16"),
)


def rates(study: str, method: str) -> np.ndarray:
    """Success of every training run, in per cent: two seeds, then the same seeds again."""
    found = []
    for name in (study, f"{study}_again"):
        results = json.loads((RESULTS / f"{name}.json").read_text())
        found += [part["success"] for part in results["episodes"][method]]
    return np.array([100 * outcomes.count("1") / len(outcomes) for outcomes in found])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over the runs, and its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean(), values.mean() - half, values.mean() + half


def row(name: str, values: np.ndarray, sign: str = "") -> str:
    mean, low, high = interval(values)
    each = " | ".join(f"{v:{sign}.0f}" for v in values)
    return f"| {name} | {each} | {mean:{sign}.1f} [{low:.1f}, {high:.1f}] |"


def tables() -> Iterator[str]:
    """What the docs show, in Markdown."""
    head = "| first run, seed 0 | seed 1 | second run, seed 0 | seed 1 | mean [95 % over runs] |"
    rule = "|---" * 6 + "|"
    for study, methods in RATES.items():
        yield "\n".join(
            [f"| success (%) {head}", rule, *(row(label(m), rates(study, m)) for m in methods)]
        )
    rows = []
    for study, ours, theirs in DIFFERENCES:
        apart = rates(study, ours) - rates(study, theirs)
        rows.append(row(f"{label(ours)} - {label(theirs)}", apart, "+"))
    yield "\n".join([f"| points of success {head}", rule, *rows])


if __name__ == "__main__":
    print("\n\n".join(tables()))
