"""Results read back: old files and new, and whatever else a file may hold."""

import copy
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from qgf_eqx import cli, plot
from qgf_eqx.evaluate.results import beside, differences, format_table, paths_of, read, summarise
from qgf_eqx.evaluate.statistics import success_rate, wilson

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"
OLD = ["cube_single_task2", "cube_single_task2_again", "pointmaze_medium_task1", "best_of_cube"]


def outcomes(*successes, n=10):
    return [[True] * k + [False] * (n - k) for k in successes]


def small(**extra):
    by_name = {"flow": outcomes(1, 2), "qgf": outcomes(8, 9), "best-of-4": outcomes(5, 6)}
    by_name["qgf-best-of-4"] = outcomes(9, 9)
    rows = [
        {"method": name, "weight": 0.1 if "qgf" in name else 0.0, **summarise(found), **extra}
        for name, found in by_name.items()
    ]
    task = "pointmaze-medium-navigate-singletask-task1-v0"
    return {"task": task, "table": rows, "differences": differences(by_name)}


@pytest.mark.parametrize("name", OLD)
def test_older_files_are_read_with_intervals_over_their_training_seeds(name):
    path = COMMITTED / f"{name}.json"
    old, new = json.loads(path.read_text())["table"], read(path)["table"]
    for before, row in zip(old, new, strict=True):
        n = before["n"] // len(before["successes by run"])
        expected = success_rate(outcomes(*before["successes by run"], n=n))
        assert row["interval"] == [expected.low, expected.high] and row["over"] == expected.over
        assert row["success"] == pytest.approx(before["success"]) and row["n"] == before["n"]
    if name == "pointmaze_medium_task1":
        assert new[0]["interval"] == list(wilson(0, 50)) and "one run" in new[0]["over"]


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
    one = {"table": [{"method": "qgf", "weight": 1.0, **summarise(outcomes(3))}], "differences": []}
    assert "do not cover other training seeds." in format_table(one)


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
        plot.pyplot.close(figure)
        drawn.append(path)
        return path

    monkeypatch.setattr(plot, "_save", close)
    return drawn


def test_a_malformed_result_is_one_sentence(tmp_path, monkeypatch, capsys):
    drawn = not_saved(monkeypatch)
    file, codes = tmp_path / "e.json", []
    content = small()
    content["table"] = content["table"][1:3]
    every = list(mutants({"task": content["task"], "table": content["table"]}))
    for mutant in random.Random(0).sample(every, len(every) // 3):
        file.write_text(json.dumps(mutant))
        codes.append(plotted(file, capsys))
    assert codes.count(0) > 15 and codes.count(2) > 40 and len(drawn) >= codes.count(0)


def test_what_is_accepted_can_be_drawn(tmp_path, capsys):
    file, codes = tmp_path / "e.json", []
    every = [m for m in mutants(small()) if isinstance(m, dict)]
    for mutant in random.Random(0).sample(every, 15):
        file.write_text(json.dumps(mutant))
        codes.append(plotted(file, capsys))
    assert 0 in codes and 2 in codes


def test_malformed_paths_are_one_sentence(tmp_path, monkeypatch, capsys):
    not_saved(monkeypatch)
    file = tmp_path / "e.json"
    file.write_text(json.dumps(small()))
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
    file.write_text(json.dumps(small()))
    paths_of(file).write_bytes(content)
    assert plotted(file, capsys) == 2


def test_rates_are_computed_again_and_not_taken_from_the_file(tmp_path):
    content = small()
    content["table"][0] |= {"success": 0.99, "interval": [0.9, 1.0], "over": "the moon"}
    file = tmp_path / "e.json"
    file.write_text(json.dumps(content))
    row = read(file)["table"][0]
    np.testing.assert_allclose(row["success"], 0.15)
    assert row["over"] == "training seeds"
