"""What tuning episodes say beside the best weight: how many it takes to find, and how much of the
gain its neighbours keep."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluate import across
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


def kept_range(rows: Sequence[Row]) -> tuple[float, float]:
    """From which weight to which a method keeps 90 % of its best tuning score, between the weights
    that were tried by straight lines in their logarithms.

    **Arguments:** rows of one method, with constant weights and successes.
    """
    ordered = sorted(rows, key=lambda row: float(row.weight))  # type: ignore[arg-type]
    weights = np.log([float(row.weight) for row in ordered])  # type: ignore[arg-type]
    scores = [row.estimate.value for row in ordered]
    best = int(np.argmax(scores))
    down = _crossing(weights[best::-1], scores[best::-1])
    up = _crossing(weights[best:], scores[best:])
    return math.exp(down), math.exp(up)


def _crossing(weights: Any, scores: Sequence[float]) -> float:
    """Where the scores, from the best away, fall to the share that is kept; the last if never."""
    level = KEPT * scores[0]
    for i in range(1, len(scores)):
        if scores[i] < level:
            share = (scores[i - 1] - level) / (scores[i - 1] - scores[i])
            return float(weights[i - 1] + share * (weights[i] - weights[i - 1]))
    return float(weights[-1])
