"""Choosing every method's weight on tuning episodes, from grids that are wide enough for it."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from ..weights import LinearDecay
from .names import size

Number: TypeAlias = float | LinearDecay
Total: TypeAlias = float | int
Score: TypeAlias = Callable[[list[tuple[str, Number]]], Sequence[Total]]
"""From pairs of a method's name and a weight, to what each one's tuning episodes come to:
successes, or the sum of returns. It is asked again for those that it knows, since returns are
counted against the worst of all."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The weight of a method, and how much the tuning episodes say for it."""

    weight: Number
    edge: str | None = None
    """`upper` or `lower` if the weight is the last that was tried on that side and better than the
    one inside of it, so that a better one may lie beyond; else `None`."""
    tied: bool = False
    """All weights that were tried have as many successes: the episodes do not choose."""


def check_weights(weights: Sequence[Number]) -> None:
    """Refuses an empty grid, weights that are not positive and finite, and duplicates."""
    if not weights:
        raise ValueError("`weights` is empty: give a guidance weight, such as 0.1.")
    for weight in weights:
        if not 0 < size(weight) < math.inf:
            raise ValueError(f"`weights` must be positive and finite, got {weight}.")
        if list(weights).count(weight) > 1:
            raise ValueError(f"`weights` has {weight} twice.")


def tune(
    score: Score, names: Sequence[str], weights: Sequence[Number], *, extensions: int
) -> dict[str, Choice]:
    """The weight of each method with the most successes; of several such, the middle one.

    While the best weight of a method, or the best two, reach an edge of what was tried, its grid
    goes on there by the grid's own ratio, `extensions` times at most. Three that are equally good
    have one in their middle; where all are, that says nothing. Constants and `LinearDecay`s are
    two grids. Nothing depends on the order of `weights`.
    """
    found: dict[str, dict[Number, Total]] = {name: {} for name in names}
    todo = [(name, weight) for name in names for weight in weights]
    tried: list[tuple[str, Number]] = []
    for _ in range(extensions + 1):
        if not todo:
            break
        tried += todo
        for (name, weight), total in zip(tried, score(tried), strict=True):
            found[name][weight] = total
        todo = [
            (name, weight)
            for name, scores in found.items()
            for side in _open_sides(scores)
            if (weight := _beyond(side, scores, weights)) not in scores
        ]
    return {name: _choice(scores) for name, scores in found.items()}


def _choice(scores: dict[Number, Total]) -> Choice:
    best, tied = _best(scores), len(scores) > 1 and len(set(scores.values())) == 1
    family = _family(best, scores)
    at, last = family.index(best), len(family) - 1
    # At an end, and better than the weight inside of it.
    upper = at == last and (last == 0 or scores[family[at - 1]] < scores[best])
    lower = at == 0 and (last == 0 or scores[family[1]] < scores[best])
    edge = "upper" if upper else "lower" if lower else None
    return Choice(best, None if len(scores) == 1 or tied else edge, tied)


def _family(weight: Number, weights: Iterable[Number]) -> list[Number]:
    """The constants, or the decays, from weak to strong."""
    decays = isinstance(weight, LinearDecay)
    return sorted((w for w in weights if isinstance(w, LinearDecay) == decays), key=size)


def _plateau(scores: dict[Number, Total]) -> list[Number]:
    """The best weights of the grid that has most of them, from weak to strong."""
    tied = [weight for weight in scores if scores[weight] == max(scores.values())]
    grids = [_family(0.0, tied), _family(LinearDecay(0.0), tied)]
    return max(grids, key=len)


def _best(scores: dict[Number, Total]) -> Number:
    """The middle of the plateau; of two middles, the one on the side that falls less."""
    plateau = _plateau(scores)
    family = _family(plateau[0], scores)
    below, above = family.index(plateau[0]) - 1, family.index(plateau[-1]) + 1
    low = scores[family[below]] if below >= 0 else math.inf
    high = scores[family[above]] if above < len(family) else math.inf
    return plateau[len(plateau) // 2 if high > low else (len(plateau) - 1) // 2]


def _open_sides(scores: dict[Number, Total]) -> list[str]:
    """The sides on which a better weight may lie beyond what was tried: the best reach the edge,
    and are so few that none of them has others as good on both sides."""
    plateau = _plateau(scores)
    family = _family(plateau[0], scores)
    if len(plateau) > 2 or len(set(scores.values())) == 1:
        return []
    lower = ["lower"] if family[0] == plateau[0] else []
    return lower + (["upper"] if family[-1] == plateau[-1] else [])


def _beyond(side: str, scores: dict[Number, Total], weights: Sequence[Number]) -> Number:
    """The next weight on that side, to three digits."""
    plateau = _plateau(scores)
    grid = [size(w) for w in _family(plateau[0], weights)]
    ratio = (grid[-1] / grid[0]) ** (1 / (len(grid) - 1)) if len(grid) > 1 else 3.0
    edge = size(plateau[-1]) * ratio if side == "upper" else size(plateau[0]) / ratio
    value = float(f"{edge:.3g}")
    return LinearDecay(value) if isinstance(plateau[0], LinearDecay) else value
