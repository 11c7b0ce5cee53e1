"""The figures show the numbers they are given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from qgf_eqx import plot
from qgf_eqx.evaluate import Episode, comparison
from qgf_eqx.evaluate._runs import TrainedRun

SUCCESSES = {"flow": 4, "qgf": 14, "best-of-4": 6, "best-of-2": 5}


@pytest.fixture
def results(monkeypatch):
    """Of twenty episodes a method, of which some are said to have succeeded."""

    def played(run, methods, numbers, **options):
        return [
            [Episode(n, k < SUCCESSES[m.name], 1, 0.0) for k, n in enumerate(numbers)]
            for m in methods
        ]

    task = "cube-single-play-singletask-task1-v0"
    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(
        comparison, "_seeds_of_one", lambda _: (task, (TrainedRun("a", 0, 1, ""),), {})
    )
    options = {"weights": (0.1,), "tuning_episodes": 0, "episodes": 20}
    return comparison.compare(["a"], tuple(SUCCESSES), **options)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, before they are pictures."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    return figures


def ends(container):
    """The ends of error bars."""
    return np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])


def intervals(results, *names):
    return [results.row(name).estimate.scaled(100.0)[1:3] for name in names]


def test_bars_are_percent_and_reach_from_the_lower_end_to_the_upper(results, drawn, tmp_path):
    plot.success_bars(results, tmp_path / "success.png")
    (axes,) = drawn[0].axes
    errors, heights = axes.containers
    np.testing.assert_allclose([bar.get_height() for bar in heights], [20, 70, 30, 25])
    np.testing.assert_allclose(ends(errors), intervals(results, *SUCCESSES))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["flow", "QGF\nw = 0.1", "best-of-4", "best-of-2"]
    assert results.task in axes.get_title() and "20" in axes.get_title()


def test_best_of_is_drawn_over_the_number_of_candidates(results, drawn, tmp_path):
    plot.best_of(results, tmp_path / "best_of.png")
    (axes,) = drawn[0].axes
    flow, guided = axes.containers
    np.testing.assert_allclose(flow.lines[0].get_xydata(), [[1, 20], [2, 25], [4, 30]])
    np.testing.assert_allclose(ends(flow), intervals(results, "flow", "best-of-2", "best-of-4"))
    np.testing.assert_allclose(guided.lines[0].get_xydata(), [[1, 70]])
    np.testing.assert_allclose(ends(guided), intervals(results, "qgf"))


@pytest.mark.parametrize("name", ["example", "instability", "noise", "value"])
def test_the_old_names_still_work_and_say_the_new_ones(name):
    with pytest.warns(DeprecationWarning, match=f"`plot.{name}` is now `plot.draw_{name}`"):
        assert getattr(plot, name) is getattr(plot, f"draw_{name}")
