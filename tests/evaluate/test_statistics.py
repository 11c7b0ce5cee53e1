"""The intervals against SciPy, by hand, and by their coverage over training seeds."""

import numpy as np
import pytest
from scipy import stats

from qgf_eqx.evaluate.statistics import (
    OVER_EPISODES,
    OVER_SEEDS,
    bonett_price,
    mean_return,
    paired_difference,
    paired_mean_difference,
    success_rate,
    wilson,
)


def outcomes(*successes, n=100):
    return [[True] * k + [False] * (n - k) for k in successes]


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (3, 20), (50, 50)])
def test_the_wilson_interval_is_scipys(successes, n):
    z, p = stats.norm.ppf(0.975), successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(wilson(successes, n), (centre - half, centre + half), atol=1e-12)


def test_the_interval_of_one_run_is_over_its_episodes():
    assert success_rate(outcomes(30)) == (0.3, *wilson(30, 100), OVER_EPISODES)
    ours, theirs = outcomes(60), outcomes(40)
    expected = (0.6 - 0.4, *bonett_price(ours[0], theirs[0]), OVER_EPISODES)
    assert paired_difference(ours, theirs) == expected


def test_the_interval_of_several_runs_is_students_over_their_rates():
    found = success_rate(outcomes(10, 60, 90))
    rates = stats.ttest_1samp([0.1, 0.6, 0.9], 0).confidence_interval(0.95)
    assert found.over == OVER_SEEDS and found.value == pytest.approx(1.6 / 3)
    assert (found.low, found.high) == (max(rates.low, 0), min(rates.high, 1)) == (0, 1)
    found = success_rate(outcomes(40, 50, 60, 45, 55))
    expected = stats.ttest_1samp([0.4, 0.5, 0.6, 0.45, 0.55], 0).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), expected)
    found = paired_difference(outcomes(60, 70, 90), outcomes(50, 50, 50))
    expected = stats.ttest_1samp([0.1, 0.2, 0.4], 0).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), expected)


def test_the_interval_of_several_runs_never_collapses():
    assert success_rate(outcomes(50, 50))[1:3] == wilson(100, 200)
    assert success_rate(outcomes(100, 100))[1:3] == wilson(200, 200)
    same = outcomes(100, 100)
    found = paired_difference(same, same)
    assert found.value == 0 and (found.low, found.high) == bonett_price([True] * 200, [True] * 200)
    assert -0.02 < found.low < -0.005 and found.high == -found.low


def test_what_is_not_paired_or_empty_is_refused():
    with pytest.raises(ValueError, match="not paired"):
        paired_difference(outcomes(1, 2), outcomes(1))
    with pytest.raises(ValueError, match="not paired"):
        paired_difference(outcomes(1), outcomes(1, n=99))
    for nothing in ([], [[]], [[True], []]):
        with pytest.raises(ValueError, match="empty|without an episode"):
            success_rate(nothing)


def test_a_paired_interval_does_not_collapse_and_covers_the_truth():
    low, high = bonett_price([True] * 50, [False] * 50)
    assert 0.85 < low < 0.99 and high == 1
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = bonett_price(*(rng.uniform(size=(2, 60)) < [[0.6], [0.4]]).tolist())
        covered += low <= 0.2 <= high
    assert 0.92 < covered / 400 <= 1


def covered(estimate, truth):
    return estimate[1] <= truth <= estimate[2]


@pytest.mark.parametrize("seeds", [2, 4, 10])
def test_rates_cover_the_mean_over_training_seeds_and_pooled_wilson_does_not(seeds):
    rng, hits, pooled, trials, n = np.random.default_rng(seeds), 0, 0, 1500, 100
    for _ in range(trials):
        successes = rng.binomial(n, 0.55 + 0.03 * rng.normal(size=seeds)).tolist()
        hits += covered(success_rate(outcomes(*successes, n=n)), 0.55)
        pooled += covered((0, *wilson(sum(successes), n * seeds)), 0.55)
    assert hits / trials >= 0.93 and pooled / trials < 0.92, (hits / trials, pooled / trials)


@pytest.mark.parametrize("seeds", [2, 4, 10])
@pytest.mark.parametrize("spread", [0.05, 0.07])
def test_differences_cover_nothing_where_there_is_none_and_pooled_ones_do_not(seeds, spread):
    rng, hits, pooled, trials, n = np.random.default_rng(seeds), 0, 0, 800, 100
    for _ in range(trials):
        # Two methods as good as each other, whose networks favour one or the other.
        apart = spread * rng.normal(size=(seeds, 1))
        draws = rng.uniform(size=(2, seeds, n))
        ours, theirs = draws[0] < 0.55 + apart / 2, draws[1] < 0.55 - apart / 2
        hits += covered(paired_difference(ours.tolist(), theirs.tolist()), 0.0)
        pooled += covered((0, *bonett_price(ours.ravel().tolist(), theirs.ravel().tolist())), 0.0)
    assert hits / trials >= 0.93 and pooled / trials < 0.92, (hits / trials, pooled / trials)


def test_the_interval_of_a_mean_return_is_students_over_episodes_or_training_seeds():
    rng = np.random.default_rng(0)
    one, two = rng.normal(3, 1, 8).tolist(), rng.normal(3, 1, 8).tolist()
    found = mean_return([one])
    low, high = stats.t.interval(0.95, 7, np.mean(one), stats.sem(one))
    np.testing.assert_allclose(found[:3], (np.mean(one), low, high))
    assert found.over == OVER_EPISODES
    both = mean_return([one, two])
    low, high = stats.t.interval(0.95, 1, both.value, stats.sem([np.mean(one), np.mean(two)]))
    pooled = stats.t.interval(0.95, 15, both.value, stats.sem(one + two))
    assert both.over == OVER_SEEDS
    np.testing.assert_allclose(both[1:3], (min(low, pooled[0]), max(high, pooled[1])))
    for few in ([[1.0]], [[1.0, np.nan]]):
        with pytest.raises(ValueError, match="two or more finite numbers"):
            mean_return(few)
    with pytest.raises(ValueError, match="without an episode"):
        mean_return([one, []])


def test_the_difference_of_two_mean_returns_is_of_pairs():
    ours, theirs = [[3.0, 5.0, 4.0]], [[1.0, 3.5, 2.0]]
    assert paired_mean_difference(ours, theirs) == mean_return([[2.0, 1.5, 2.0]])
    with pytest.raises(ValueError, match="not paired"):
        paired_mean_difference(ours, [[1.0]])


def test_the_interval_of_a_difference_of_returns_covers_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        seeds = rng.normal(1.0, 0.5, (4, 1)) + rng.normal(0, 1, (4, 25))
        found = paired_mean_difference(seeds.tolist(), np.zeros((4, 25)).tolist())
        covered += found.low <= 1.0 <= found.high
    assert 0.92 < covered / 400 < 0.99
