"""What tuning episodes say beside the best weight."""

import dataclasses

import numpy as np
import pytest
from test_results import TASK, small

from qgf_eqx.evaluate import across
from qgf_eqx.evaluate._auto import FACTORS
from qgf_eqx.evaluate._judge import judge_of
from qgf_eqx.evaluate._rollout import Episode
from qgf_eqx.evaluate._tuning import Choice
from qgf_eqx.evaluate.task import Success
from qgf_eqx.suite._curves import (
    budget_curves,
    kept_range,
    shares_by_factor,
    shares_untuned,
    tried,
)
from qgf_eqx.suite._report import _together, over_tasks
from qgf_eqx.weights import LinearDecay


def row(method, weight, *shares, n=20):
    """Of some training seeds, of which so large a share of n episodes succeeds."""
    by_run = [[Episode(i, i < share * n, 5, 0.0) for i in range(n)] for share in shares]
    return judge_of(Success(), [by_run]).row(method, by_run, choice=Choice(weight))


def with_tuning(*rows):
    return dataclasses.replace(small(), tuning=rows)


def test_the_kept_range_ends_where_straight_lines_cross_nine_tenths():
    rows = [row("qgf", 1.0, 0.5), row("qgf", 0.1, 1.0), row("qgf", 0.01, 0.0)]  # in any order
    low, high = kept_range(rows)
    assert low == pytest.approx(0.1 * 10**-0.1) and high == pytest.approx(0.1 * 10**0.2)


def test_the_level_is_a_share_of_the_best():
    rows = [row("qgf", 0.1, 0.5), row("qgf", 1.0, 0.0)]
    assert kept_range(rows) == pytest.approx((0.1, 0.1 * 10**0.1))


def test_a_range_that_was_not_left_ends_with_the_last_weight():
    rows = [row("qgf", w, share) for w, share in ((0.01, 0.95), (0.1, 1.0), (1.0, 0.9))]
    assert kept_range(rows) == pytest.approx((0.01, 1.0))


def test_a_fall_on_the_way_ends_the_range_though_it_rises_again():
    rows = [row("qgf", w, share) for w, share in ((1.0, 1.0), (10.0, 0.8), (100.0, 1.0))]
    assert kept_range(rows)[1] == pytest.approx(10**0.5)


def test_a_budget_curve_is_the_mean_over_tasks_of_each_tasks_own():
    easy = with_tuning(*(row("qgf", w, share, share) for w, share in ((0.1, 1.0), (1.0, 0.8))))
    hard = with_tuning(*(row("qgf", w, share, share) for w, share in ((0.1, 0.0), (1.0, 0.5))))
    curves = budget_curves({"a": easy, "b": hard}, lambda _: lambda outcome: outcome)
    budgets, scores = zip(*curves["qgf"], strict=True)
    assert budgets == (2, 4, 6, 10, 16)  # half of the twenty episodes of each weight are left
    one = [across.budget_curve([r.outcomes for r in c.tuning], budgets) for c in (easy, hard)]
    np.testing.assert_allclose(scores, np.mean(one, axis=0))
    assert scores[0] < scores[-1] == pytest.approx(0.75, abs=0.02)


def test_scores_are_of_outcomes_and_a_method_that_not_all_tasks_tuned_has_no_curve():
    rows = [row("qgf", w, 0.5) for w in (0.1, 1.0)]
    found = {"a": with_tuning(*rows, *(row("ood", w, 0.5) for w in (0.1, 1.0)))}
    plain = budget_curves(found, lambda _: lambda outcome: outcome)
    doubled = budget_curves(found, lambda _: lambda outcome: 2 * outcome)
    assert set(plain) == {"qgf", "ood"}
    np.testing.assert_allclose(doubled["qgf"], np.array(plain["qgf"]) * [1, 2])
    assert set(budget_curves(found | {"b": with_tuning(*rows)}, lambda _: float)) == {"qgf"}


def test_single_weights_and_older_files_have_no_curve():
    old = [dataclasses.replace(row("qgf", w, 0.5), outcomes=()) for w in (0.1, 1.0)]
    found = with_tuning(*old, row("ood", 0.1, 0.5))
    assert list(tried(found)) == ["qgf"] and found.task == TASK
    assert budget_curves({"a": found}, lambda _: float) == {}


def test_the_share_without_tuning_is_the_mean_over_tasks_where_the_tuned_one_succeeds():
    found = dict.fromkeys("abc", with_tuning(row("qgf", 0.1, 0.5), row("qgf", 1.0, 0.5)))
    scores = {
        "a": {"qgf": [[1, 1], [1, 1]], "flow": [[1, 0], [0, 0]], "qgf-untuned": [[1, 1], [1, 0]]},
        "b": {"qgf": [[1, 0], [0, 0]], "flow": [[1, 0], [0, 0]], "qgf-untuned": [[1, 1], [0, 0]]},
        "c": {"qgf": [[0, 0], [0, 0]], "flow": [[1, 0], [0, 0]], "qgf-untuned": [[0, 0], [0, 0]]},
    }
    shares = shares_untuned(found, scores)
    assert list(shares.items()) == [("qgf-untuned", (0.75 + 2) / 2), ("flow", (0.25 + 1) / 2)]
    assert shares_untuned(dict.fromkeys("abc", small()), scores) == {}, "nothing was tuned"
    assert shares_untuned(found, {"c": scores["c"]}) == {}
    assert shares_untuned(found, {}) == {}


def test_weights_that_decay_have_no_range_in_a_report():
    from qgf_eqx.suite._report import _ranges

    constants = with_tuning(row("qgf", 0.1, 1.0), row("qgf", 1.0, 0.5))
    assert _ranges(constants)[2] == "| QGF | 0.1 to 0.16 | 1.6 |"
    assert _ranges(with_tuning(row("qgf", LinearDecay(0.1), 1.0), row("qgf", 1.0, 0.5))) == []
    assert _ranges(with_tuning(row("qgf", 0.1, 0.0), row("qgf", 1.0, 0.0))) == []


def test_shares_by_factor_are_means_over_tasks_of_scores_beside_the_best():
    def task(start, *shares):
        weights = [float(f"{start * factor:.2g}") for factor in FACTORS]
        return with_tuning(*(row("qgf", w, s) for w, s in zip(weights, shares, strict=True)))

    found = {
        "a": task(0.07, 0.2, 0.2, 0.4, 0.8, 0.4, 0.0),
        "b": task(3.1, 0.0, 0.5, 0.5, 0.5, 0.25, 0.0),
    }
    shares = shares_by_factor(found)
    assert list(shares) == list(FACTORS)
    np.testing.assert_allclose(list(shares.values()), [0.125, 0.625, 0.75, 1.0, 0.5, 0.0])
    never = task(1.0, 0, 0, 0, 0, 0, 0)
    other = with_tuning(*(row("qgf", w, 0.5) for w in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)))
    assert shares_by_factor({"a": never, "b": other}) == {}
    assert shares_by_factor({**found, "c": never, "d": other}) == shares


def test_entries_of_one_task_are_not_called_tasks():
    one, other = with_tuning(), dataclasses.replace(with_tuning(), task="another")
    for found, heading in (
        ({"a": one, "b": one}, "## Over 2 entries of 1 task"),
        ({"a": one, "b": other}, "## Over 2 tasks"),
    ):
        lines = _together(over_tasks(found), found)
        assert lines[0] == heading
        assert ("of this plan only" in "".join(lines)) == (heading != "## Over 2 tasks")
        assert lines[2] == "| method | mean | interquartile mean | QGF minus it | QGF is better |"
        assert [line.split(" | ")[0] for line in lines[4:6]] == ["| flow", "| QGF"]
