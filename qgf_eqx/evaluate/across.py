"""Many tasks together: averages, probabilities of improvement, profiles, how many runs it takes.

The tasks are fixed: an interval says what other training seeds and other episodes of the same tasks
would give. It comes from a two-level bootstrap, which draws training seeds within each task, and
episodes within each seed. A bootstrap of n seeds is too narrow by `sqrt((n - 1) / n)`, and by how
much Student's t is wider than a normal distribution. From five seeds on, percentiles further out
make up for both; below five the interval is Student's t, with the bootstrap's standard error, so
widened. The degrees of freedom are those of the task that has most of the spread, if one has.

Of successes, means and differences are never narrower than the tasks' intervals over their episodes
allow (Wilson's; Bonett and Price's for differences), so they do not collapse when all runs agree by
chance. A probability of improvement and a profile do: 3 runs that are all better than 3 others give
1, with an interval of no width.

Sources: Hesterberg, *What Teachers Should Know About the Bootstrap*, 2015, for the percentiles; Zou
and Donner, *Construction of confidence limits about effect measures*, 2008, for the interval of a
mean from those of its parts; Agarwal et al., *Deep Reinforcement Learning at the Edge of the
Statistical Precipice*, 2021.
"""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy import stats

from .statistics import OVER_EPISODES, OVER_SEEDS, Estimate, bonett_price, wilson

Outcomes: TypeAlias = Sequence[Any]
"""For every task, for every training seed, the outcome of each episode: success or return."""

FEW = 5
"""Below so many training seeds an interval is Student's t."""
_LEVEL = 0.95


def mean_over_tasks(outcomes: Outcomes, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """The mean over tasks of the mean over training seeds.

    **Arguments:**

    - `outcomes`: see `Outcomes`; normalise returns first.
    - `draws`: of the bootstrap.
    - `seed`: of the bootstrap.

    **Raises:** `ValueError` if there is a task without a training seed, or one without an episode.
    """
    found = _widened(_estimate(_mean, [outcomes], draws, seed), map(_of_successes, outcomes))
    return _within(found, 0.0, outcomes)


def interquartile_mean(outcomes: Outcomes, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """The mean of the middle half of all runs, of all tasks and training seeds: an average that no
    single task decides. Arguments and errors as for `mean_over_tasks`."""
    found = _widened(_estimate(_iqm, [outcomes], draws, seed), map(_of_successes, outcomes))
    return _within(found, 0.0, outcomes)


def pooled_difference(
    ours: Outcomes, theirs: Outcomes, *, draws: int = 2000, seed: int = 0
) -> Estimate:
    """The mean over tasks of the difference of two methods on the same seeds and episodes.

    **Raises:** `ValueError` if the two are not paired, or as `mean_over_tasks`.
    """
    if _sizes(ours) != _sizes(theirs):
        raise ValueError("`ours` and `theirs` are not paired: they differ in seeds or episodes.")
    differences = [
        [np.subtract(a, b, dtype=float) for a, b in zip(*of_seeds, strict=True)]
        for of_seeds in zip(ours, theirs, strict=True)
    ]
    found = _estimate(_mean, [differences], draws, seed)
    return _within(_widened(found, map(_of_pairs, ours, theirs)), -1.0, ours, theirs)


def probability_of_improvement(
    ours: Outcomes, theirs: Outcomes, *, draws: int = 2000, seed: int = 0
) -> Estimate:
    """How often a training run of one method beats one of another on the same task, ties counting
    half: the mean over tasks of Mann and Whitney's U over the number of pairs.

    **Raises:** `ValueError` if the two differ in their number of tasks, or as `mean_over_tasks`.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"`ours` has {len(ours)} tasks, and `theirs` {len(theirs)}.")
    found = _estimate(_improvement, [ours, theirs], draws, seed)
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))


def performance_profile(
    outcomes: Outcomes, levels: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> list[Estimate]:
    """For each level the share of runs, of all tasks and training seeds, that score more.

    Arguments and errors as for `mean_over_tasks`, and `levels`: of a run's mean outcome.
    """

    def share(level: float) -> Callable:
        return lambda runs: float(np.mean([np.mean(of_task > level) for of_task in runs[0]]))

    found = [_estimate(share(level), [outcomes], draws, seed) for level in levels]
    return [each._replace(low=max(each.low, 0.0), high=min(each.high, 1.0)) for each in found]


class Spread(NamedTuple):
    """What makes an outcome differ, as variances."""

    seeds: float
    """Between training seeds, of their true means."""
    episodes: float
    """Between episodes of a seed."""


def spread_of(outcomes: Sequence[Any]) -> Spread:
    """The variances of a task's outcomes, or of paired differences, by analysis of variance.

    **Arguments:**

    - `outcomes`: for every training seed its episodes, two seeds and two episodes or more.

    **Raises:** `ValueError` if there are fewer.
    """
    if len(outcomes) < 2 or min(map(len, outcomes)) < 2:
        raise ValueError("`outcomes` must be of two training seeds and two episodes at least.")
    if len(outcomes) < 3:
        warnings.warn(
            "two training seeds hardly tell how much seeds differ: use a pilot of more.",
            stacklevel=2,
        )
    within = float(np.mean([np.var(each, ddof=1) for each in outcomes]))
    count = stats.hmean([len(each) for each in outcomes])
    between = np.var([np.mean(each) for each in outcomes], ddof=1) - within / count
    return Spread(max(0.0, float(between)), within)


def power(difference: float, spread: Spread, *, seeds: int, episodes: int) -> float:
    """The chance that a paired difference of this size is found: that its 95 % interval over the
    training seeds excludes zero, on the right side.

    **Arguments:**

    - `difference`: of the true means.
    - `spread`: of the paired differences, see `spread_of`.
    - `seeds`: training seeds.
    - `episodes`: of each.
    """
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2: one has no interval, got {seeds}.")
    error = np.sqrt((spread.seeds + spread.episodes / episodes) / seeds)
    bound = stats.t.ppf((1 + _LEVEL) / 2, seeds - 1)
    if error == 0:
        return float(difference != 0)
    return float(stats.nct.sf(bound, seeds - 1, abs(difference) / error))


def seeds_needed(difference: float, spread: Spread, *, episodes: int, chance: float = 0.8) -> int:
    """The fewest training seeds with which `power` is at least `chance`.

    **Raises:** `ValueError` if `difference` is 0, or needs more than 10,000.
    """
    most = 10_000

    def finds_it(seeds: int) -> bool:
        return power(difference, spread, seeds=seeds, episodes=episodes) >= chance

    if difference == 0 or not finds_it(most):
        raise ValueError(f"`difference` is {difference}: more than {most:,} seeds would be needed.")
    return 2 + bisect_left(range(2, most), True, key=finds_it)


def budget_curve(
    tuning: Any,
    budgets: Sequence[int],
    *,
    draws: int = 500,
    seed: int = 0,
) -> list[float]:
    """The score when the weight is chosen on a budget of episodes: the price of tuning.

    Each draw gives every weight its share of the budget from the tuning episodes of each training
    seed, without replacement. The best weight is scored on the episodes that were not drawn.

    **Arguments:**

    - `tuning`: for every weight, for every training seed, the outcome of each tuning episode, as
      many for all.
    - `budgets`: episodes per training seed for all weights together; at most half of what is there.

    **Raises:** `ValueError` if a budget is below one episode a weight, or leaves too few.
    """
    found = np.asarray(tuning, float)
    weights, _, episodes = found.shape
    rng, curve = np.random.default_rng(seed), []
    for budget in budgets:
        count = budget // weights
        if not 1 <= count <= episodes // 2:
            most = weights * (episodes // 2)
            raise ValueError(f"`budgets` must be {weights} to {most} episodes here, got {budget}.")
        scores = []
        for _ in range(draws):
            order = rng.permuted(np.broadcast_to(np.arange(episodes), found.shape), axis=-1)
            drawn = np.take_along_axis(found, order, axis=-1)
            chosen = drawn[..., :count].mean((1, 2))
            best = rng.choice(np.flatnonzero(chosen == chosen.max()))
            scores.append(drawn[best, :, count:].mean())
        curve.append(float(np.mean(scores)))
    return curve


_Runs: TypeAlias = list[np.ndarray]  # of every task the mean outcome of each training seed


def _mean(runs: Sequence[_Runs]) -> float:
    return float(np.mean([of_task.mean() for of_task in runs[0]]))


def _iqm(runs: Sequence[_Runs]) -> float:
    return float(stats.trim_mean(np.concatenate(runs[0]), 0.25))


def _improvement(runs: Sequence[_Runs]) -> float:
    shares = []
    for ours, theirs in zip(*runs, strict=True):
        shares.append((np.sign(ours[:, None] - theirs) + 1).mean() / 2)
    return float(np.mean(shares))


def _estimate(
    statistic: Callable[[Sequence[_Runs]], float],
    given: Sequence[Outcomes],
    draws: int,
    seed: int,
) -> Estimate:
    """A statistic of the runs' means, and its interval."""
    rng = np.random.default_rng(seed)
    seeds = [len(of_task) for outcomes in given for of_task in outcomes]
    if not seeds or min(seeds) < 1 or not all(len(e) for o in given for s in o for e in s):
        raise ValueError(
            "`outcomes` has a task without a training seed, or a seed without episode."
        )
    arrays = [
        [[np.asarray(episodes, float) for episodes in of_seed] for of_seed in outcomes]
        for outcomes in given
    ]
    means = [[np.array([e.mean() for e in of_seed]) for of_seed in o] for o in arrays]
    value = statistic(means)
    again = [[_drawn(rng, of_task, draws) for of_task in o] for o in arrays]
    drawn = np.array([statistic([[runs[i] for runs in o] for o in again]) for i in range(draws)])
    fewest = min(seeds)
    if fewest == 1:
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Estimate(value, float(low), float(high), OVER_EPISODES)
    # A bootstrap of n seeds is too narrow by sqrt((n - 1) / n), and knows nothing of Student's t.
    wide = np.sqrt(fewest / (fewest - 1)) * stats.t.ppf((1 + _LEVEL) / 2, _freedom(means))
    if fewest >= FEW:
        low, high = np.quantile(drawn, stats.norm.cdf([-wide, wide]))
    else:
        half = wide * drawn.std(ddof=1)
        low, high = value - half, value + half
    return Estimate(value, float(low), float(high), OVER_SEEDS)


def _freedom(means: Sequence[_Runs]) -> float:
    """Degrees of freedom of a mean over tasks (Welch and Satterthwaite): nearly those of one task
    if it has most of the spread."""
    parts = [(np.var(runs, ddof=1) / len(runs), len(runs) - 1) for of in means for runs in of]
    spread = sum(part for part, _ in parts)
    if spread == 0:
        return float(sum(free for _, free in parts))
    return float(spread**2 / sum(part**2 / free for part, free in parts))


def _widened(found: Estimate, tasks: Iterable[tuple[float, float]]) -> Estimate:
    """At least as wide as the mean of some tasks, of which each has this far to its ends."""
    below, above = np.array([*tasks]).T
    low, high = (np.sqrt(np.sum(ends**2)) / len(ends) for ends in (below, above))
    return found._replace(
        low=float(min(found.low, found.value - low)),
        high=float(max(found.high, found.value + high)),
    )


def _within(found: Estimate, least: float, *outcomes: Outcomes) -> Estimate:
    """Of successes: between the least that is possible and 1."""
    every = [np.asarray(e, float) for of in outcomes for task in of for e in task]
    if not all(np.isin(e, (0, 1)).all() for e in every):
        return found
    return found._replace(low=max(found.low, least), high=min(found.high, 1.0))


def _of_successes(of_task: Sequence[Any]) -> tuple[float, float]:
    """From a task's success rate to the ends of its interval over episodes; 0 of other outcomes."""
    every = np.concatenate([np.asarray(episodes, float) for episodes in of_task])
    if not np.isin(every, (0, 1)).all():
        return 0.0, 0.0
    low, high = wilson(int(every.sum()), len(every))
    return every.mean() - low, high - every.mean()


def _of_pairs(ours: Sequence[Any], theirs: Sequence[Any]) -> tuple[float, float]:
    """The same of a difference."""
    both = [np.concatenate([np.asarray(e, float) for e in task]) for task in (ours, theirs)]
    if not np.isin(both, (0, 1)).all():
        return 0.0, 0.0
    low, high = bonett_price(*(each.astype(bool).tolist() for each in both))
    value = both[0].mean() - both[1].mean()
    return max(value - low, 0.0), max(high - value, 0.0)


def _drawn(rng: np.random.Generator, of_task: list[np.ndarray], draws: int) -> np.ndarray:
    """In each draw, seeds drawn from a task's, and episodes within each: their means."""
    count = len(of_task)
    seeds, means = rng.integers(count, size=(draws, count)), np.empty((draws, count))
    for i, episodes in enumerate(of_task):
        here = seeds == i
        means[here] = rng.choice(episodes, (here.sum(), len(episodes))).mean(1)
    return means


def _sizes(outcomes: Outcomes) -> list[list[int]]:
    return [[len(episodes) for episodes in of_task] for of_task in outcomes]
