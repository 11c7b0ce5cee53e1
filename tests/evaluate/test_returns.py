"""A comparison on a task that is judged by its return: tuned, reported, printed, read and drawn."""

import dataclasses
import functools
import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qgf_eqx import cli, guidance
from qgf_eqx.evaluate import Episode, References, Return, Sampler, Task, comparison
from qgf_eqx.evaluate._judge import compared, judge_of
from qgf_eqx.evaluate._runs import TrainedRun
from qgf_eqx.evaluate._tuning import Choice
from qgf_eqx.evaluate.results import format_table, read, write
from qgf_eqx.weights import LinearDecay

MEANS = {0.0: -9.0, 0.01: -8.0, 0.1: -5.0, 0.3: -3.0, 1.0: -4.0}  # by weight


@pytest.fixture
def compare(monkeypatch):
    def played(run, methods, numbers, **options):
        assert options["task"] == "toy:make_task"
        return [
            [Episode(n, False, 6, MEANS[m.weight] + (n * 7919 % 10) / 10) for n in numbers]
            for m in methods
        ]

    runs = tuple(TrainedRun(run, i, 1, "") for i, run in enumerate("ab"))
    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(
        comparison, "_seeds_of_one", lambda names: ("toy:make_task", runs[: len(names)], {})
    )

    def run(runs, **options):
        settings = {"weights": (0.1, 0.3, 1.0), "tuning_episodes": 4, "episodes": 5} | options
        return comparison.compare(runs, ("flow", "qgf"), **settings)

    return run


def test_the_weight_of_the_best_return_is_chosen_and_reported_with_an_interval(compare):
    results = compare(["a"])
    assert results.task == "line" and results.outcome == Return(References(-24.0, 0.0))
    qgf = results.row("qgf")
    assert qgf.weight == 0.3 and qgf.choice.edge is None
    (episodes,) = results.episodes["qgf"]
    returns = [e.total_reward for e in episodes]
    low, high = stats.t.interval(0.95, 4, np.mean(returns), stats.sem(returns))
    np.testing.assert_allclose(qgf.estimate[:3], (np.mean(returns), low, high))
    assert qgf.estimate.over == "episodes of one run"
    np.testing.assert_allclose(qgf.score.value, 100 * (qgf.estimate.value + 24) / 24)
    np.testing.assert_allclose(qgf.score.low, 100 * (low + 24) / 24)
    (difference,) = results.differences
    np.testing.assert_allclose(difference.estimate[:3], 6.0)


def test_the_table_of_returns_is_printed_read_again_and_drawn(compare, tmp_path, capsys):
    results = compare(["a", "b"])
    printed = format_table(results)
    assert printed.splitlines()[0].split()[:3] == ["method", "weight", "return"]
    assert "score" in printed and "%  " not in printed and "qgf - flow" in printed
    assert "Intervals are over 2 training seeds." in printed
    file = tmp_path / "e.json"
    write(results, file)
    assert format_table(read(file)) == printed
    cli.main(["plot", str(file)])
    assert (tmp_path / "e_success.png").stat().st_size > 5000
    broken = json.loads(file.read_text())
    broken["table"][0] |= {"return": 99.0, "interval": [0, 1]}
    file.write_text(json.dumps(broken))
    assert format_table(read(file)) == printed, "computed again, and not taken from the file"
    del broken["episodes"]["qgf"]
    file.write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="is not a results file"):
        read(file)


def test_an_episode_that_broke_has_the_worst_return_of_all():
    early = [Episode(0, False, 1, -1.0, "RuntimeError: it broke"), Episode(1, False, 6, -5.0)]
    late = [Episode(0, False, 6, -20.0), Episode(1, False, 6, -6.0)]
    judge = judge_of(Return(References(-24.0, 0.0)), [[early], [late]])
    assert judge.worst == -20.0 and judge.values([early]) == [[-20.0, -5.0]]
    methods = {"flow": (Choice(0.0), 10), "qgf": (Choice(0.1), 10)}
    results = compared("line", Return(), methods, {"flow": [early], "qgf": [late]})
    assert results.row("flow").errors == 1 and results.row("flow").estimate.value == -12.5
    assert "flow: 1 of 2 episodes broke, and have the worst return of all." in format_table(results)


def test_one_return_has_no_interval(compare):
    for options, name in (({"episodes": 1}, "`episodes`"), ({"tuning_episodes": 1}, "`tuning_")):
        with pytest.raises(ValueError, match=f"{name}.*at least 2"):
            compare(["a"], **options)


def test_a_weight_whose_episodes_broke_loses_once_a_worse_return_is_known(monkeypatch):
    """Round one knows no return below -20; round two does, and all are counted again."""
    totals = {0.0: -9.0, 0.1: -30.0, 1.0: -1.0, 10.0: -200.0}

    def played(run, methods, numbers, **options):
        return [
            [
                Episode(n, False, 6, totals[m.weight], "broke" * (m.weight == 1.0 and n > 1))
                for n in numbers
            ]
            for m in methods
        ]

    runs = (TrainedRun("a", 0, 1, ""),)
    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(comparison, "_seeds_of_one", lambda _: ("toy:make_task", runs, {}))
    found = comparison.tune_weight(["a"], "qgf", weights=(0.1, 1.0), episodes=4, extensions=1)
    assert found.weight == 0.1
    by_weight = {row.weight: row.estimate.value for row in found.tuning}
    assert by_weight[found.weight] == max(by_weight.values()) and by_weight[1.0] == -100.5


def test_a_sampler_and_a_task_of_ones_own_are_compared(monkeypatch):
    """With options by `eqx.Partial`, which cannot be hashed, and a reduction without a name."""
    samplers = []

    def played(run, methods, numbers, **options):
        samplers.extend(methods)
        assert options["task"] is task
        return [[Episode(n, n % 2 == 0, 6, -1.0) for n in numbers] for m in methods]

    task = Task("own", print)
    runs = (TrainedRun("a", 0, 1, ""),)
    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(comparison, "_seeds_of_one", lambda _: ("toy:make_task", runs, {}))
    mine = Sampler(eqx.Partial(guidance.look_ahead, steps=3), name="mine")
    options = {"task": task, "tuning_episodes": 2, "episodes": 2, "weights": (0.1, 0.2)}
    options["reduce"] = functools.partial(jnp.quantile, q=0.2)
    found = comparison.compare(["a"], ("flow", mine), extensions=0, **options)
    assert found.task == "own" and found.trained_on == "toy:make_task"
    assert [row.weight for row in found.table] == [0.0, 0.1] and "quantile" in found.reduce
    assert {m.weight for m in samplers if m.name == "mine"} == {0.1, 0.2}
    fixed = dataclasses.replace(mine, weight=0.5)
    assert comparison.compare(["a"], (fixed,), **options).row("mine").weight == 0.5
    with pytest.raises(ValueError, match="must each have a name"):
        comparison.compare(["a"], (Sampler(),), **options)


def test_decays_are_tried_beside_a_grid_that_nobody_gave(monkeypatch):
    tried = []

    def played(run, methods, numbers, **options):
        tried.extend(m.weight for m in methods)
        return [[Episode(n, False, 6, -1.0) for n in numbers] for m in methods]

    runs = (TrainedRun("a", 0, 1, ""),)
    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(comparison, "_seeds_of_one", lambda _: ("toy:make_task", runs, {}))
    monkeypatch.setattr(comparison, "start_of", lambda *_: 1.0)
    monkeypatch.setattr(comparison, "grid_around", lambda _: [2.0, 4.0])
    decays = [LinearDecay(0.3)]
    comparison.tune_weight(["a"], "qgf", decays=decays, episodes=2, extensions=0)
    assert tried == [2.0, 4.0, LinearDecay(0.3)]
    tried.clear()
    comparison.compare(["a"], ["qgf"], weights=(), decays=decays, tuning_episodes=2, episodes=2)
    assert tried == [LinearDecay(0.3)]  # a single one is used as it is


def test_a_budget_gives_every_method_as_many_tuning_episodes(compare):
    """However many weights it has; and its grid does not go on."""
    results = compare(["a", "b"], weights=(0.01, 0.1, 0.3), tuning_budget=7)
    assert {row.weight: row.n for row in results.tuning} == {0.01: 4, 0.1: 4, 0.3: 4}
    assert results.row("qgf").weight == 0.3 and results.row("qgf").choice.edge == "upper"
    with pytest.raises(ValueError, match="`tuning_budget` must be at least 3, an episode for each"):
        compare(["a"], tuning_budget=2)
    with pytest.raises(ValueError, match="`tuning_budget`"):
        compare(["a"], tuning_budget=0)
