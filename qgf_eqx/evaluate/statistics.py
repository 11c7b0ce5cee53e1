"""Success rates, mean returns and their differences, with 95 % intervals.

Each interval states what it covers. A claim about a method is about training it again,
so the unit is the training seed. Episodes of one run share its networks: more of them tell more
about that run, but nothing about the next.

With two or more training seeds an interval is Student's t over the seeds' own rates, and never
narrower than the interval over all episodes, which keeps it from collapsing when the seeds agree
by chance or all succeed. It is t and not a bootstrap because a bootstrap of a few seeds is too
narrow (by `sqrt((n - 1) / n)`, and without t's tails), and t needs no random numbers. With one
training seed there is only the interval over its episodes, and its label says so.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy import stats

OVER_SEEDS = "training seeds"
"""The interval covers other training seeds."""
OVER_EPISODES = "episodes of one run"
"""The interval covers other episodes of this training run, and no other training seed."""

_LEVEL = 0.95


class Estimate(NamedTuple):
    """A rate or a difference, with its 95 % interval."""

    value: float
    """The mean of the training seeds' own values."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""
    over: str
    """What the interval is over: `OVER_SEEDS` or `OVER_EPISODES`."""

    def scaled(self, factor: float, origin: float = 0.0) -> "Estimate":
        """The estimate of `factor (x - origin)`."""
        value, low, high = (factor * (x - origin) for x in self[:3])
        return Estimate(value, low, high, self.over)


def success_rate(outcomes: Sequence[Sequence[bool]]) -> Estimate:
    """The success rate of a method.

    One training seed: Wilson's interval over its episodes. Two or more: Student's t over the
    seeds' rates, never narrower than Wilson's over all episodes.

    **Arguments:**

    - `outcomes`: for every training seed, whether each episode succeeded.

    **Raises:** `ValueError` if there is no training seed, or one without an episode.
    """
    rates = [_mean(each, "outcomes") for each in _some(outcomes, "outcomes")]
    successes, n = sum(map(sum, outcomes)), sum(map(len, outcomes))
    return _over_seeds(rates, wilson(successes, n), 0.0)


def paired_difference(ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]) -> Estimate:
    """The difference of two success rates on the same training seeds and episodes.

    One training seed: Bonett and Price's interval over its episodes. Two or more: Student's t over
    the seeds' differences, never narrower than Bonett and Price's over all episodes.

    **Arguments:**

    - `ours`, `theirs`: for every training seed, whether each episode succeeded, in the same order.

    **Raises:** `ValueError` if the two are not paired, or empty.
    """
    if list(map(len, ours)) != list(map(len, theirs)):
        raise ValueError("`ours` and `theirs` are not paired: they differ in episodes per seed.")
    differences = [
        _mean(a, "ours") - _mean(b, "theirs")
        for a, b in zip(_some(ours, "ours"), theirs, strict=True)
    ]
    pooled = bonett_price(*(list(chain.from_iterable(each)) for each in (ours, theirs)))
    return _over_seeds(differences, pooled, -1.0)


def mean_return(returns: Sequence[Sequence[float]]) -> Estimate:
    """The mean return of a method.

    One training seed: Student's t over its episodes. Two or more: Student's t over the seeds'
    means, never narrower than that over all episodes.

    **Arguments:**

    - `returns`: for every training seed, the return of each episode.

    **Raises:** `ValueError` if there is no training seed, one without an episode, or one episode
    in all, which has no interval.
    """
    means = [_average(each, "returns") for each in _some(returns, "returns")]
    return _over_seeds(means, student(list(chain.from_iterable(returns))), -np.inf, np.inf)


def paired_mean_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> Estimate:
    """The difference of two mean returns on the same training seeds and episodes: `mean_return`
    of the episodes' differences. Arguments and errors as for `paired_difference`.
    """
    if list(map(len, ours)) != list(map(len, theirs)):
        raise ValueError("`ours` and `theirs` are not paired: they differ in episodes per seed.")
    pairs = zip(ours, theirs, strict=True)
    return mean_return([[a - b for a, b in zip(*pair, strict=True)] for pair in pairs])


def student(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean, Student's t over the values.

    **Raises:** `ValueError` for fewer than two values, or one that is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError("`values` must be two or more finite numbers: one has no interval.")
    half = stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of the success rate of one run, over its episodes.

    It does not collapse at 0 and at 1. It does not cover other training seeds.

    **Raises:** `ValueError` unless `0 <= successes <= n` and `n >= 1`.
    """
    low, high = stats.binomtest(int(successes), int(n)).proportion_ci(_LEVEL, method="wilson")
    return float(low), float(high)


def bonett_price(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[float, float]:
    """The 95 % interval of the difference of two success rates on the same episodes of one run.

    Bonett and Price (2012): adds a win and a loss, so that it does not collapse when all pairs
    agree. It does not cover other training seeds.

    **Raises:** `ValueError` if the two are not of the same length.
    """
    pairs = list(zip(map(bool, ours), map(bool, theirs), strict=True))
    wins, losses = pairs.count((True, False)), pairs.count((False, True))
    p, q = (wins + 1) / (len(pairs) + 2), (losses + 1) / (len(pairs) + 2)
    half = stats.norm.ppf((1 + _LEVEL) / 2) * np.sqrt((p + q - (p - q) ** 2) / (len(pairs) + 2))
    return float(max(p - q - half, -1.0)), float(min(p - q + half, 1.0))


def _over_seeds(
    each: list[float | int], pooled: tuple[float, float], lowest: float, highest: float = 1.0
) -> Estimate:
    mean = float(np.mean(each))
    if len(each) == 1:
        return Estimate(mean, *pooled, OVER_EPISODES)
    half = stats.t.ppf((1 + _LEVEL) / 2, len(each) - 1) * stats.sem(each)
    low, high = max(lowest, mean - half), min(highest, mean + half)
    return Estimate(mean, float(min(low, pooled[0])), float(max(high, pooled[1])), OVER_SEEDS)


def _some(outcomes: Sequence, name: str) -> Sequence:
    if not len(outcomes):
        raise ValueError(f"`{name}` is empty: give the outcomes of a training run.")
    return outcomes


def _mean(outcomes: Sequence[bool], name: str) -> float:
    return _average(list(map(bool, outcomes)), name)


def _average(values: Sequence[float | int], name: str) -> float:
    if not len(values):
        raise ValueError(f"`{name}` has a training seed without an episode.")
    return sum(values) / len(values)
