"""Results read back: old files and new, and whatever else a file may hold."""

import copy
import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from qgf_eqx import cli, plot
from qgf_eqx.evaluate import Episode, References, Return, Success
from qgf_eqx.evaluate._judge import compared
from qgf_eqx.evaluate._runs import TrainedRun
from qgf_eqx.evaluate._tuning import Choice
from qgf_eqx.evaluate.results import as_json, beside, format_table, paths_of, read, write
from qgf_eqx.evaluate.statistics import success_rate, wilson
from qgf_eqx.weights import LinearDecay

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"
OLD = ["cube_single_task2", "cube_single_task2_again", "pointmaze_medium_task1", "best_of_cube"]


TASK = "pointmaze-medium-navigate-singletask-task1-v0"


def episodes(*successes, n=10):
    """Of some training seeds, of each of which so many succeed."""
    return [[Episode(i, i < k, 7, float(-i)) for i in range(n)] for k in successes]


def small(**choice):
    by_name = {"flow": (1, 2), "qgf": (8, 9), "best-of-4": (5, 6), "qgf-best-of-4": (9, 9)}
    found = {name: episodes(*counts) for name, counts in by_name.items()}
    methods = {name: (Choice(0.1 if "qgf" in name else 0.0, **choice), 10) for name in found}
    return compared(TASK, Success(), methods, found)


def small_file():
    """What its file holds."""
    return json.loads(json.dumps(as_json(small())))


@pytest.mark.parametrize("name", OLD)
def test_older_files_are_read_with_intervals_over_their_training_seeds(name):
    path = COMMITTED / f"{name}.json"
    old, new = json.loads(path.read_text())["table"], read(path).table
    for before, row in zip(old, new, strict=True):
        n = before["n"] // len(before["successes by run"])
        counts = before["successes by run"]
        assert row.estimate == success_rate([[i < k for i in range(n)] for k in counts])
        assert row.estimate.value == pytest.approx(before["success"]) and row.n == before["n"]
        assert (row.method, str(row.weight)) == (before["method"], str(before["weight"]))
    if name == "pointmaze_medium_task1":
        assert new[0].estimate[1:] == (*wilson(0, 50), "episodes of one run")


def test_a_file_is_read_as_it_was_written(tmp_path):
    broken = [[*episodes(3)[0][:-1], Episode(9, False, 2, -3.0, "RuntimeError: it broke")]]
    for outcome in (Success(), Return(), Return(References(-9.0, 0.0))):
        methods = {"flow": (Choice(0.0), 5), "qgf": (Choice(LinearDecay(0.2), "upper"), 5)}
        wrote = compared(TASK, outcome, methods, {"flow": episodes(2), "qgf": broken})
        runs = (TrainedRun("runs/seed0", 0, None, "ab"),)
        options = {"tuning": wrote.table[1:], "runs": runs, "trained_on": "other"}
        options |= {"reduce": "min", "about": {"machine": {"cores": 2}}}
        wrote = dataclasses.replace(wrote, **options)
        write(wrote, tmp_path / "e.json")
        found = read(tmp_path / "e.json")
        assert (found.table, found.differences) == (wrote.table, wrote.differences)
        assert found.tuning == wrote.tuning and found.runs == wrote.runs
        won, returns = [1.0] * 3 + [0.0] * 7, [float(-i) for i in range(9)] + [-9.0]
        assert found.tuning[0].outcomes == (tuple(won if outcome == Success() else returns),)
        assert (found.trained_on, found.reduce) == ("other", "min")
        held = json.loads((tmp_path / "e.json").read_text())
        assert json.loads(json.dumps(as_json(found))) == held
        assert format_table(found) == format_table(wrote)
        assert found.outcome == outcome and found.row("qgf").errors == 1
        assert "qgf: 1 of 10 episodes broke, and" in format_table(found)


def test_another_results_paths_are_not_left_beside_a_file(tmp_path):
    flow = {"flow": [[Episode(0, True, 1, 0.0, path=[[0.0, 1.0]])]]}
    with_paths = compared(TASK, Success(), {"flow": (Choice(0.0), 10)}, flow)
    write(with_paths, tmp_path / "results.json")
    assert json.loads((tmp_path / "paths.json").read_text()) == {"flow": [[[0.0, 1.0]]]}
    write(small(), tmp_path / "results.json")
    assert not (tmp_path / "paths.json").exists()


def test_other_episodes_are_not_paired_and_an_unknown_row_is_said(tmp_path):
    content = small_file()
    content["episodes"]["flow"][0]["numbers"] = "500..509"
    (tmp_path / "e.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not the same"):
        read(tmp_path / "e.json")
    with pytest.raises(KeyError, match="`ood` is none of flow, qgf"):
        small().row("ood")


def test_a_file_has_all_that_a_result_holds():
    runs = (TrainedRun("runs/seed0", 0, 100, "ab"), TrainedRun("runs/seed1", 1, None, "cd"))
    found = small_file()
    assert found["table"][1] == {
        "method": "qgf",
        "weight": 0.1,
        "edge": None,
        "tied": False,
        "steps": 10,
        "success": pytest.approx(0.85),
        "interval": found["table"][1]["interval"],
        "over": "training seeds",
        "successes": 17,
        "n": 20,
        "training seeds": 2,
        "successes by run": [8, 9],
        "errors": 0,
    }
    difference = found["differences"][0]
    assert difference | {"interval": 0} == {
        "of": "qgf", "and": "flow", "difference": pytest.approx(0.7), "interval": 0,
        "over": "training seeds",
    }  # fmt: skip
    assert found["episodes"]["flow"][0]["success"] == "1000000000"
    options = {"outcome": Return(References(-9.0, 0.0)), "runs": runs, "trained_on": "other"}
    options |= {"reduce": "min", "about": {"machine": "here"}}
    found = as_json(dataclasses.replace(small(), **options))
    assert found["judged by"] == "return" and found["references"] == [-9.0, 0.0]
    assert found["trained on"] == "other" and found["critics reduced by"] == "min"
    assert found["runs"][1] == {
        "folder": "runs/seed1", "training seed": 1, "updates": None, "checkpoint sha256": "cd",
    }  # fmt: skip
    assert found["training seeds"] == [0, 1] and found["machine"] == "here"


@pytest.mark.parametrize("name", OLD)
def test_older_files_are_plotted(name, tmp_path, capsys):
    file = tmp_path / "e.json"
    file.write_bytes((COMMITTED / f"{name}.json").read_bytes())
    cli.main(["plot", str(file)])
    assert (tmp_path / "e_success.png").stat().st_size > 5000
    assert (tmp_path / "e_best_of.png").exists() == (name == "best_of_cube")


def test_files_of_a_result_are_named_after_it():
    assert str(paths_of("a/results.json")) == "a/paths.json"
    assert str(paths_of("a/e.json")) == "a/e_paths.json"
    assert str(beside("results_2.json", "success.png")) == "results_2_success.png"


def test_the_table_says_what_n_and_the_intervals_are():
    text = format_table(small())
    assert "10 x 2" in text and text.splitlines()[1].startswith("flow")
    assert "n = episodes x training seeds. Intervals are over 2 training seeds." in text
    assert "*" not in text and "qgf - flow" in text and "+70.0 points" in text
    one = compared(TASK, Success(), {"qgf": (Choice(1.0), 10)}, {"qgf": episodes(3)})
    assert "do not cover other training seeds." in format_table(one)


def test_the_table_marks_what_is_ahead_and_says_which_weights_were_tried():
    found, choice = small(), lambda row, weight: dataclasses.replace(row, choice=Choice(weight))
    tuning = [choice(row, w) for row in found.table[1::2] for w in (1.0, 0.1, LinearDecay(0.3))]
    text = format_table(dataclasses.replace(found, tuning=tuple(tuning)))
    ahead = [line.split()[0] for line in text.splitlines() if line.endswith("<")]
    assert ahead == ["qgf-best-of-4"]
    assert "Weights tried for qgf, qgf-best-of-4: 0.1, 0.3 (1-t), 1." in text


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"edge": "upper"}, "the weight is the largest that was tried; a larger one may be better"),
        ({"edge": "lower"}, "the weight is the smallest that was tried; a smaller one may be"),
        ({"tied": True}, "all weights that were tried did equally well"),
    ],
)
def test_a_weight_at_the_edge_is_marked_in_the_table(extra, said):
    text = format_table(small(**extra))
    assert f"* qgf: {said}" in text and "0.1*" in text


JUNK = [None, True, -1, 0.5, 10**400, 1e999, float("nan"), "", "$\\frac$", [], {}, [[]], {"a": 1}]
JUNK += ["best-of-" + "9" * 400, [None] * 200, [[1, 2], 3], {"method": "qgf"}, ["x", "y"], "\ud800"]


def places(tree, at=()):
    yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, part in items if isinstance(tree, dict | list) else ():
        if isinstance(part, dict | list):
            yield from places(part, (*at, key))
        else:
            yield (*at, key)


def mutants(tree):
    """The tree with each of its parts left out, or replaced by each of what JSON can hold."""
    for at, junk in itertools.product(places(tree), [*JUNK, "left out"]):
        if not at:
            yield junk
            continue
        found = copy.deepcopy(tree)
        parent = found
        for key in at[:-1]:
            parent = parent[key]
        if junk == "left out":
            del parent[at[-1]]
        else:
            parent[at[-1]] = junk
        yield found


def plotted(path, capsys):
    """0, or the code and that one sentence was said."""
    try:
        cli.main(["plot", str(path)])
    except SystemExit as stop:
        said = capsys.readouterr().err
        assert stop.code == 2 and said.startswith("qgf-eqx: ") and said.count("\n") == 1, said
        assert str(path.name) in said or "paths" in said
        return 2
    return 0


def not_saved(monkeypatch):
    """Figures are made and not written, which takes long; the list of their paths."""
    drawn = []

    def close(figure, path):
        drawn.append(path)
        return path

    monkeypatch.setattr(plot, "_save", close)
    return drawn


def test_a_malformed_result_is_one_sentence(tmp_path, monkeypatch, capsys):
    drawn = not_saved(monkeypatch)
    file, codes = tmp_path / "e.json", []
    content = small_file()
    parts = {"task": TASK, "table": content["table"][1:3], "episodes": content["episodes"]}
    for name in ("flow", "qgf-best-of-4"):
        del parts["episodes"][name]
    every = list(mutants(parts))
    for mutant in random.Random(0).sample(every, len(every) // 6):
        file.write_text(json.dumps(mutant))
        codes.append(plotted(file, capsys))
    assert codes.count(0) > 15 and codes.count(2) > 40 and len(drawn) >= codes.count(0)


def test_what_is_accepted_can_be_drawn(tmp_path, capsys):
    file, codes = tmp_path / "e.json", []
    every = [m for m in mutants(small_file()) if isinstance(m, dict)]
    for mutant in random.Random(0).sample(every, 15):
        file.write_text(json.dumps(mutant))
        codes.append(plotted(file, capsys))
    assert 0 in codes and 2 in codes


def test_malformed_paths_are_one_sentence(tmp_path, monkeypatch, capsys):
    not_saved(monkeypatch)
    file = tmp_path / "e.json"
    write(small(), file)
    codes = []
    for mutant in mutants({"flow": [[[0.0, 1.0]]]}):
        paths_of(file).write_text(json.dumps(mutant))
        codes.append(plotted(file, capsys))
    assert codes.count(0) > 3 and codes.count(2) > 80


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"\x00" * 100, b"[" * 200_000, b'{"table": [1', b"\x93NUMPY"],
    ids=["empty", "UTF-16", "zeros", "nested", "cut", "NumPy"],
)
def test_what_is_not_json_is_one_sentence(tmp_path, capsys, content):
    file = tmp_path / "e.json"
    file.write_bytes(content)
    assert plotted(file, capsys) == 2
    write(small(), file)
    paths_of(file).write_bytes(content)
    assert plotted(file, capsys) == 2


def test_rates_are_computed_again_and_not_taken_from_the_file(tmp_path):
    content = small_file()
    content["table"][0] |= {"success": 0.99, "interval": [0.9, 1.0], "over": "the moon"}
    file = tmp_path / "e.json"
    file.write_text(json.dumps(content))
    found = read(file).row("flow").estimate
    np.testing.assert_allclose(found.value, 0.15)
    assert found.over == "training seeds"
