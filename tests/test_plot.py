"""The figures show the numbers they are given."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

from qgf_eqx import plot
from qgf_eqx.evaluate import Episode, comparison
from qgf_eqx.evaluate._runs import TrainedRun
from qgf_eqx.evaluate.statistics import Estimate

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


MEANS = {
    "flow": Estimate(0.2, 0.1, 0.4, ""),
    "best-of-4": Estimate(0.3, 0.2, 0.5, ""),
    "best-of-2": Estimate(0.25, 0.2, 0.3, ""),
    "qgf": Estimate(0.7, 0.5, 0.8, ""),
}


def test_means_over_tasks_are_bars_and_points_by_candidates_and_by_cost(drawn, tmp_path):
    plot.over_tasks(MEANS, tmp_path / "a.png")
    errors, heights = drawn[0].axes[0].containers
    np.testing.assert_allclose([bar.get_height() for bar in heights], [20, 30, 25, 70])
    np.testing.assert_allclose(ends(errors), [[10, 40], [20, 50], [20, 30], [50, 80]])
    plot.best_of_over_tasks(MEANS, tmp_path / "b.png")
    flow, guided = drawn[1].axes[0].containers
    np.testing.assert_allclose(flow.lines[0].get_xydata(), [[1, 20], [2, 25], [4, 30]])
    np.testing.assert_allclose(guided.lines[0].get_xydata(), [[1, 70]])
    plot.cost_against_score(MEANS, {"flow": 0.5, "qgf": 2.0}, tmp_path / "c.png")
    axes = drawn[2].axes[0]
    points = [container.lines[0].get_xydata()[0] for container in axes.containers]
    np.testing.assert_allclose(points, [[2, 70], [0.5, 20]])  # the best first
    assert axes.get_legend_handles_labels()[1] == ["QGF", "flow"]


def test_entries_of_a_task_are_a_line_for_each_method_that_all_have(results, drawn, tmp_path):
    less = dataclasses.replace(results, table=results.table[:2])
    plot.entries({"cube": {"width 8": results, "width 16": less}}, tmp_path / "e.png")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "cube" and len(axes.containers) == 2
    assert axes.get_legend_handles_labels()[1] == ["flow", "QGF"]
    np.testing.assert_allclose(axes.containers[1].lines[0].get_ydata(), [70, 70])


def test_tasks_have_a_panel_each_in_rows_that_fit_on_a_screen(results, drawn):
    plot.task_bars({str(i): results for i in range(9)}, "tasks.svg")
    (figure,) = drawn
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == list("012345678")
    np.testing.assert_allclose([bar.get_height() for bar in shown[8].patches], [20, 70, 30, 25])
    assert figure.get_size_inches()[0] <= 14 < figure.get_size_inches()[0] + 0.35 * 4 + 1


@pytest.mark.parametrize(("count", "panels"), [(6, 1), (7, 7)])
def test_profiles_of_many_methods_have_a_panel_each(drawn, count, panels):
    shares = [Estimate(share, share - 0.1, share + 0.1, "episodes") for share in (1.0, 0.5, 0.0)]
    names = ["flow", "qgf", "ood", "bptt", "fql", "edp", "qam"][:count]
    plot.profiles(dict.fromkeys(names, shares), [0.0, 0.4, 0.8], "profiles.svg")
    (figure,) = drawn
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == panels
    for axes in shown:
        assert len(axes.lines) == count and len(axes.collections) == count // panels
