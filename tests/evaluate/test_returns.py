"""A comparison on a task that is judged by its return: tuned, reported, printed, read and drawn."""

import json

import numpy as np
import pytest
from scipy import stats

from qgf_eqx import cli
from qgf_eqx.evaluate import Episode, References, Return, Task, comparison
from qgf_eqx.evaluate import _judge as judge
from qgf_eqx.evaluate.results import format_table, read

MEANS = {0.0: -9.0, 0.1: -5.0, 0.3: -3.0, 1.0: -4.0}  # by weight


@pytest.fixture
def compared(monkeypatch):
    def played(run, methods, numbers, **options):
        assert options["task"] == "toy:make_task"
        return [
            [Episode(n, False, 6, MEANS[m.weight] + (n * 7919 % 10) / 10) for n in numbers]
            for m in methods
        ]

    sources = [{"folder": run, "training seed": i} for i, run in enumerate("ab")]
    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(
        comparison, "_sources", lambda runs: ("toy:make_task", sources[: len(runs)])
    )
    monkeypatch.setattr(comparison, "_known", lambda runs, sources: [(run, "") for run in runs])

    def compare(runs, **options):
        settings = {"weights": (0.1, 0.3, 1.0), "tuning_episodes": 4, "episodes": 5} | options
        return comparison.compare(runs, ("flow", "qgf"), **settings)[0]

    return compare


def test_the_weight_of_the_best_return_is_chosen_and_reported_with_an_interval(compared):
    results = compared("a")
    assert results["task"] == "line" and results["judged by"] == "return"
    flow, qgf = results["table"]
    assert qgf["weight"] == 0.3 and qgf["edge"] is None
    (raw,) = results["episodes"]["qgf"]
    returns = raw["return"]
    low, high = stats.t.interval(0.95, 4, np.mean(returns), stats.sem(returns))
    np.testing.assert_allclose((qgf["return"], *qgf["interval"]), (np.mean(returns), low, high))
    assert qgf["over"] == "episodes of one run"
    np.testing.assert_allclose(qgf["normalised score"], 100 * (qgf["return"] + 24) / 24)
    (difference,) = results["differences"]
    np.testing.assert_allclose([difference["difference"], *difference["interval"]], 6.0)


def test_the_table_of_returns_is_printed_read_again_and_drawn(compared, tmp_path, capsys):
    results = compared("ab")
    printed = format_table(results)
    assert printed.splitlines()[0].split()[:3] == ["method", "weight", "return"]
    assert "score" in printed and "%  " not in printed and "qgf - flow" in printed
    assert "Intervals are over 2 training seeds." in printed
    file = tmp_path / "e.json"
    file.write_text(json.dumps(results))
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
    by_return = judge.judge_of(Task("line", print, Return(References(-24.0, 0.0))))
    early = [Episode(0, False, 1, -1.0, "RuntimeError: it broke"), Episode(1, False, 6, -5.0)]
    late = [Episode(0, False, 6, -20.0), Episode(1, False, 6, -6.0)]
    worst = judge.worst_return([[early], [late]])
    assert worst == -20.0 and by_return.values([early], worst) == [[-20.0, -5.0]]
    (row,) = comparison._rows(by_return, {comparison.method("flow"): [early]})
    assert row["errors"] == 1
    assert "1 episode broke" in format_table({"table": [row], "differences": []})


def test_one_return_has_no_interval(compared):
    for options, name in (({"episodes": 1}, "`episodes`"), ({"tuning_episodes": 1}, "`tuning_")):
        with pytest.raises(ValueError, match=f"{name}.*at least 2"):
            compared("a", **options)
