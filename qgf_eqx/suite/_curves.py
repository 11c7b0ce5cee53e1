"""What tuning episodes say beside the best weight: how many it takes to find, and how much of the
gain its neighbours keep."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluate import across
from ..evaluate._auto import FACTORS
from ..evaluate._rows import Comparison, Row

EPISODES = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120)
"""Of a weight and training seed."""
KEPT = 0.9


def budget_curves(
    found: Mapping[str, Comparison], scored: Callable[[Comparison], Callable[[float], float]]
) -> dict[str, list[tuple[int, float]]]:
    """Of every method that chooses from as many weights on all tasks: tuning episodes per training
    seed, and the mean over tasks of the score that is reached with so many (`across.budget_curve`).

    **Arguments:** the comparisons by task, and what makes a score of an outcome of each.
    """
    by_method: dict[str, list[np.ndarray]] = {}
    for comparison in found.values():
        score = np.vectorize(scored(comparison), otypes=[float])
        for method, rows in tried(comparison).items():
            if all(row.outcomes for row in rows):
                by_method.setdefault(method, []).append(score([row.outcomes for row in rows]))
    curves = {}
    for method, tasks in by_method.items():
        weights, episodes = len(tasks[0]), min(task.shape[2] for task in tasks)
        budgets = [weights * n for n in EPISODES if n <= episodes // 2]
        if len(tasks) == len(found) and all(len(t) == weights for t in tasks) and budgets:
            means = np.mean([across.budget_curve(task, budgets) for task in tasks], axis=0)
            curves[method] = list(zip(budgets, means.tolist(), strict=True))
    return curves


def tried(found: Comparison) -> dict[str, list[Row]]:
    """Of every method with several weights, or strengths, the rows of its tuning episodes."""
    rows: dict[str, list[Row]] = {}
    for row in found.tuning:
        rows.setdefault(row.method, []).append(row)
    return {method: own for method, own in rows.items() if len(own) > 1}


def shares_by_factor(found: Mapping[str, Comparison], method: str = "qgf") -> dict[float, float]:
    """What is reached without tuning: for each factor of the starting weight, the score there over
    that of the best weight, on tuning episodes, and its mean over the tasks.

    Of tasks whose weights are those that are tried by default, and where some weight succeeds.
    """
    shares = []
    for comparison in found.values():
        rows = [row for row in tried(comparison).get(method, []) if isinstance(row.weight, float)]
        rows.sort(key=_weight)
        scores = np.array([row.estimate.value for row in rows])
        if len(rows) != len(FACTORS) or rows[0].by_return or scores.max() == 0:
            continue
        start = _weight(rows[FACTORS.index(1.0)])
        if np.allclose([_weight(row) / start for row in rows], FACTORS, rtol=0.15):
            shares.append(scores / scores.max())
    return dict(zip(FACTORS, np.mean(shares, axis=0).tolist(), strict=True)) if shares else {}


def shares_untuned(
    found: Mapping[str, Comparison], scores: Mapping[str, Mapping[str, Any]], best: str = "qgf"
) -> dict[str, float]:
    """Of the methods for which no episodes choose anything: the score over that of a tuned one, on
    reported episodes, and its mean over the tasks on which that one succeeds. The best comes first.

    **Arguments:** the comparisons by task; of each the outcomes of every method; and the tuned one.
    """
    tuned = {row.method for comparison in found.values() for row in comparison.tuning}
    tasks = [of for of in scores.values() if np.mean(of.get(best, 0.0)) > 0]
    if best not in tuned or not tasks:
        return {}
    names = [name for name in tasks[0] if name not in tuned and all(name in of for of in tasks)]
    shares = {
        n: float(np.mean([np.mean(of[n]) / np.mean(of[best]) for of in tasks])) for n in names
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _weight(row: Row) -> float:
    return float(row.weight)  # type: ignore[arg-type]


def kept_range(rows: Sequence[Row]) -> tuple[float, float]:
    """From which weight to which a method keeps 90 % of its best tuning score, between the weights
    that were tried by straight lines in their logarithms.

    **Arguments:** rows of one method, with constant weights and successes.
    """
    ordered = sorted(rows, key=_weight)
    weights = np.log([_weight(row) for row in ordered])
    scores = [row.estimate.value for row in ordered]
    best = int(np.argmax(scores))
    down = _crossing(weights[best::-1], scores[best::-1])
    up = _crossing(weights[best:], scores[best:])
    return math.exp(down), math.exp(up)


def _crossing(weights: Any, scores: Sequence[float]) -> float:
    """Where the scores, going away from the best, fall to the share that is kept; the last weight
    if they never do."""
    level = KEPT * scores[0]
    for i in range(1, len(scores)):
        if scores[i] < level:
            share = (scores[i - 1] - level) / (scores[i - 1] - scores[i])
            return float(weights[i - 1] + share * (weights[i] - weights[i - 1]))
    return float(weights[-1])
