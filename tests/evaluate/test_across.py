"""Statistics over many tasks: against formulas, SciPy's own, and simulated studies."""

import numpy as np
import pytest
from scipy import stats

from qgf_eqx.evaluate import across
from qgf_eqx.evaluate.across import (
    Spread,
    budget_curve,
    interquartile_mean,
    mean_over_tasks,
    performance_profile,
    pooled_difference,
    power,
    probability_of_improvement,
    seeds_needed,
    spread_of,
)
from qgf_eqx.evaluate.statistics import OVER_EPISODES, OVER_SEEDS, bonett_price, wilson

OURS = [[[1, 1, 0, 1], [1, 1, 1, 1]], [[0, 1, 0, 0], [0, 0, 0, 1]], [[1, 0, 1, 1], [1, 1, 1, 0]]]
THEIRS = [[[1, 0, 0, 1], [1, 0, 1, 1]], [[0, 0, 0, 0], [0, 0, 1, 1]], [[1, 0, 1, 1], [0, 1, 0, 0]]]
QUICK = {"draws": 50}


def study(rng, tasks, seeds, episodes, between, within, mean=0.0):
    """Normal outcomes whose true mean over tasks is `mean`; the tasks differ."""
    found = []
    for task in range(tasks):
        level = mean + task - (tasks - 1) / 2
        centres = level + between * rng.normal(size=seeds)
        found.append([c + within * rng.normal(size=episodes) for c in centres])
    return found


def test_averages_are_those_of_the_formulas():
    runs = np.array([np.mean(s) for task in OURS for s in task])
    assert mean_over_tasks(OURS, **QUICK).value == pytest.approx(runs.mean())
    middle = np.sort(runs)[1:5]  # of six, a quarter of them rounded down is cut at each end
    assert interquartile_mean(OURS, **QUICK).value == pytest.approx(middle.mean())
    assert interquartile_mean([[[0.0], [0.0], [0.0], [4.0]]], **QUICK).value == 0.0
    uneven = [[[1.0]], [[0.0], [0.0], [0.0]]]
    assert mean_over_tasks(uneven, **QUICK).value == 0.5  # tasks count alike, not runs


def test_the_probability_of_improvement_counts_pairs_and_half_of_the_ties():
    won = []
    for a, b in zip(OURS, THEIRS, strict=True):
        pairs = [(np.mean(x), np.mean(y)) for x in a for y in b]
        won.append(np.mean([(x > y) + 0.5 * (x == y) for x, y in pairs]))
    found = probability_of_improvement(OURS, THEIRS, **QUICK)
    assert found.value == pytest.approx(np.mean(won)) and found.over == OVER_SEEDS
    reverse = probability_of_improvement(THEIRS, OURS, **QUICK)
    assert found.value + reverse.value == pytest.approx(1)
    with pytest.raises(ValueError, match="`ours` has 3 tasks, and `theirs` 2"):
        probability_of_improvement(OURS, THEIRS[:2])


def test_a_pooled_difference_is_of_pairs():
    found = pooled_difference(OURS, THEIRS, **QUICK)
    wanted = mean_over_tasks(OURS, **QUICK).value - mean_over_tasks(THEIRS, **QUICK).value
    assert found.value == pytest.approx(wanted)
    same = pooled_difference(OURS, OURS, **QUICK)
    assert same.value == 0 and same.low == pytest.approx(-same.high) and same.high > 0.1
    with pytest.raises(ValueError, match="not paired"):
        pooled_difference(OURS, [[s[:3] for s in task] for task in THEIRS])


def test_a_profile_is_the_share_of_runs_above_each_level():
    found = performance_profile(OURS, [0.0, 0.5, 0.75, 1.0], **QUICK)
    assert [round(e.value, 6) for e in found] == [1.0, 0.666667, 0.166667, 0.0]


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("quiet", [0, 4], ids=["alike", "one task has most of the spread"])
def test_intervals_cover_the_truth_in_simulated_studies(seeds, quiet):
    rng, covered, studies = np.random.default_rng(seeds), 0, 300
    for i in range(studies):
        tasks = study(rng, 1 if quiet else 2, seeds, 10, 1.0, 1.0, 0.3)
        tasks += study(rng, quiet, seeds, 10, 0.05, 0.05, 0.3)
        found = mean_over_tasks(tasks, draws=400, seed=i)
        covered += found.low <= 0.3 <= found.high
    assert 0.915 <= covered / studies <= 0.999  # of 300 studies: +- 2.5 %


def test_over_one_seed_an_interval_is_over_its_episodes():
    found = mean_over_tasks([[[0, 1, 1, 0]], [[1, 1, 1, 0]]])
    assert found.over == OVER_EPISODES and found.low < found.value < found.high


def test_the_spread_is_found_again():
    rng = np.random.default_rng(0)
    (outcomes,) = study(rng, 1, 2000, 10, 0.7, 1.5)
    found = spread_of(outcomes)
    assert found.seeds == pytest.approx(0.49, rel=0.1)
    assert found.episodes == pytest.approx(2.25, rel=0.1)
    assert spread_of([[0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 1]]).seeds == 0  # not negative
    with pytest.raises(ValueError, match="two training seeds and two episodes"):
        spread_of([[0, 1]])


def test_power_is_how_often_simulated_studies_find_the_difference():
    rng, found, studies = np.random.default_rng(1), 0, 2000
    for _ in range(studies):
        (outcomes,) = study(rng, 1, 5, 20, 0.1, 0.5, 0.2)
        means = [np.mean(e) for e in outcomes]
        half = stats.t.ppf(0.975, 4) * stats.sem(means)
        found += np.mean(means) - half > 0
    wanted = power(0.2, Spread(0.01, 0.25), seeds=5, episodes=20)
    assert abs(found / studies - wanted) < 0.03


def test_the_fewest_seeds_are_the_fewest():
    spread = Spread(0.02, 0.3)
    for difference in (0.05, 0.1, 0.3, 2.0):
        count = seeds_needed(difference, spread, episodes=50)
        assert power(difference, spread, seeds=count, episodes=50) >= 0.8
        assert count == 2 or power(difference, spread, seeds=count - 1, episodes=50) < 0.8
    with pytest.raises(ValueError, match="more than 10,000 seeds"):
        seeds_needed(0.0, spread, episodes=50)
    with pytest.raises(ValueError, match="`seeds` must be at least 2"):
        power(0.1, spread, seeds=1, episodes=9)


def test_a_larger_budget_chooses_better_and_is_scored_on_other_episodes():
    rng = np.random.default_rng(2)
    chances = np.array([0.2, 0.5, 0.55])
    tuning = (rng.random((3, 4, 200)) < chances[:, None, None]).astype(float)
    curve = budget_curve(tuning, [3, 30, 300])
    assert curve[0] < curve[1] < curve[2] <= tuning[2].mean() + 0.01
    noise = (rng.random((20, 2, 40)) < 0.5).astype(float)
    assert budget_curve(noise, [20], draws=300)[0] == pytest.approx(0.5, abs=0.02)  # no luck
    with pytest.raises(ValueError, match="`budgets` must be 20 to 400 episodes here, got 19"):
        budget_curve(noise, [19])


def test_what_is_empty_is_named():
    for outcomes in ([], [[]], [[[]]]):
        with pytest.raises(ValueError, match="without a training seed, or a seed without episode"):
            mean_over_tasks(outcomes)


def test_intervals_do_not_collapse_where_all_runs_agree():
    """Two tasks, two seeds of ten episodes, of which none succeeds, or all."""
    none, every = [[[False] * 10] * 2] * 2, [[[True] * 10] * 2] * 2
    low, high = wilson(0, 20)
    for find in (mean_over_tasks, interquartile_mean):
        assert find(none)[:3] == pytest.approx((0, 0, high / 2**0.5))
        assert find(every)[:3] == pytest.approx((1, 1 - high / 2**0.5, 1))
    same = bonett_price([False] * 20, [False] * 20)[1] / 2**0.5
    assert pooled_difference(none, none)[:3] == pytest.approx((0, -same, same))
    returns = [[[3.0] * 10] * 2] * 2
    assert mean_over_tasks(returns)[:3] == (3, 3, 3)


def test_intervals_of_successes_stay_within_what_is_possible():
    """A few seeds that differ much give a t interval beyond 0 and 1; of returns that may be."""
    rng = np.random.default_rng(0)
    rare = [[rng.random(20) < p for p in (0.0, 0.6)] for _ in range(2)]
    often = [[~np.asarray(e) for e in task] for task in rare]
    for outcomes in (rare, often):
        for found in (across.mean_over_tasks(outcomes), across.interquartile_mean(outcomes)):
            assert 0 <= found.low <= found.value <= found.high <= 1
    assert -1 <= across.pooled_difference(rare, often).low
    found = across.probability_of_improvement(rare, often)
    assert 0 <= found.low <= found.value <= found.high <= 1
    returns = [[20.0 * np.asarray(e, float) - 10 for e in task] for task in rare]
    assert across.mean_over_tasks(returns).low < -10


def test_a_pilot_of_two_seeds_is_warned_of():
    with pytest.warns(UserWarning, match="two training seeds hardly tell"):
        across.spread_of([[0, 1, 1], [0, 0, 1]])
