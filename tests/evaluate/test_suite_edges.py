# ruff: noqa: F811 (fixtures)
"""Suites where something is not as it should be: other data, lost workers, tasks unlike each other."""

import dataclasses
import json
import multiprocessing
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from test_results import small
from test_suite import PLAN, done, file  # noqa: F401

from qgf_eqx import cli
from qgf_eqx._files import take_turns
from qgf_eqx.engines import EngineError
from qgf_eqx.evaluate import Return
from qgf_eqx.evaluate._judge import compared
from qgf_eqx.evaluate._rollout import Episode
from qgf_eqx.evaluate._tuning import Choice
from qgf_eqx.evaluate.task import References
from qgf_eqx.suite import SuiteError, _plan, _run, cells_of, read_plan, run_suite, write_report
from qgf_eqx.suite._cells import DataCell, PlayCell, TrainCell
from qgf_eqx.suite._report import _has_scores, outcomes_of

pytestmark = pytest.mark.usefixtures("loose_promotion")


def cells(plan, out, kind):
    return [cell for cell in cells_of(plan, out) if isinstance(cell, kind)]


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "copy")


def test_tasks_without_a_method_in_common_have_a_report(file, copy):
    plan = read_plan(file)
    for cell in cells(plan, copy, PlayCell):
        if (cell.method == "qgf") == ("room" in cell.study.label):
            cell.path.unlink()
    text = write_report(plan, copy).read_text()
    assert "![success](success.png)" in text and "## Over" not in text
    assert not (copy / "over_tasks.png").exists()


def test_a_report_names_the_versions_of_its_results_and_keeps_other_pictures(file, copy):
    plan = read_plan(file)
    first, *_ = cells(plan, copy, PlayCell)
    content = json.loads(first.path.read_text())
    content["versions"] = {"jax": "0.0.1"}
    first.path.write_text(json.dumps(content))
    (copy / "holiday.png").write_bytes(b"mine")
    text = write_report(plan, copy).read_text()
    assert text.count("Versions: ") == 2 and "Versions: jax 0.0.1." in text
    assert (copy / "holiday.png").read_bytes() == b"mine" and "holiday" not in text


def test_an_episode_that_broke_is_the_worst_over_tasks_too():
    def runs(*rewards):
        return [[Episode(i, False, 9, r, error) for i, (r, error) in enumerate(rewards)]]

    episodes = {"flow": runs((-9.0, ""), (-5.0, "")), "qgf": runs((-1.0, "it broke"), (-3.0, ""))}
    rows = {name: (Choice(0.0), 10) for name in episodes}
    found = compared("own", Return(References(-10.0, 0.0)), rows, episodes)
    assert outcomes_of(found) == {"flow": [[0.1, 0.5]], "qgf": [[0.1, 0.7]]}
    assert _has_scores(found) and _has_scores(small())
    assert not _has_scores(compared("own", Return(), rows, episodes))


def test_another_number_of_transitions_is_asked_of_the_data_again(file, done):
    before = cells(read_plan(file), done, DataCell)
    file.write_text(PLAN.replace("episodes = 3", "episodes = 3\ntransitions = 1_000_000"))
    after = cells(read_plan(file), done, DataCell)
    assert all(cell.path.exists() for cell in before)
    assert not any(cell.path.exists() for cell in after)


def test_other_data_than_the_suite_began_with_are_refused(file, done):
    first, *_ = cells(read_plan(file), done, TrainCell)
    assert set(first.identity) > {"obs", "actions"}
    with pytest.raises(SuiteError, match="not those that this suite began with"):
        _run._train(dataclasses.replace(first, identity={**first.identity, "obs": "others"}))


def test_a_training_that_was_told_to_end_does_not_look_like_success(
    file, done, tmp_path, monkeypatch
):
    first, *_ = cells(read_plan(file), done, TrainCell)
    missing = dataclasses.replace(first, path=tmp_path / "train" / "a.json")

    def saved(cell):
        raise SystemExit(0)

    monkeypatch.setitem(_run._RESULTS, TrainCell, saved)
    with pytest.raises(SystemExit) as stop:
        _run.do(tmp_path, missing)
    assert stop.value.code == 128 + signal.SIGTERM


def test_a_result_that_is_not_here_is_a_failure(file, tmp_path):
    """As where workers of a cluster have another folder under this name."""
    seen = []

    def elsewhere(function, cells):
        seen.extend(cells)
        return ((cell, "") for cell in cells)

    with pytest.raises(SuiteError, match="which all workers must reach"):
        engine = SimpleNamespace(map=elsewhere)
        run_suite(read_plan(file), tmp_path / "out", engine=engine, progress=False)
    assert all(cell.study.data_dir.startswith("/") and cell.path.is_absolute() for cell in seen)


def test_a_worker_that_dies_leaves_a_report_of_what_was_done(file, copy, capsys, monkeypatch):
    def died(*_, **__):
        raise EngineError("a worker process died.")

    monkeypatch.setattr("qgf_eqx.suite.run_suite", died)
    (copy / "report.md").unlink(missing_ok=True)
    with pytest.raises(SystemExit):
        cli.main(["suite", "run", str(file), "--out", str(copy)])
    assert "a worker process died" in capsys.readouterr().err and (copy / "report.md").exists()


def test_tasks_with_the_same_data_are_not_collected_at_once(tmp_path):
    alone = [_run._alone(cell) for cell in cells(read_plan("cpu"), tmp_path, DataCell)]
    assert len(alone) == 6 and len(set(alone)) == 5  # two tasks of cube-single


def hold(path, what, began, seconds):
    with take_turns(path, what):
        began.put((what, time.monotonic()))
        time.sleep(seconds)


def test_turns_are_taken_by_name_and_end_with_their_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    began = context.Queue()
    first = context.Process(target=hold, args=(tmp_path / "locks", "a", began, 600))
    first.start()
    began.get(timeout=120)
    others = [
        context.Process(target=hold, args=(tmp_path / "locks", what, began, 0)) for what in "ab"
    ]
    for process in others:
        process.start()
    assert began.get(timeout=120)[0] == "b", "another name does not wait"
    time.sleep(1)
    assert began.empty()
    first.kill()
    assert began.get(timeout=120)[0] == "a"
    for process in (first, *others):
        process.join(120)


def test_a_method_that_tries_other_weights_is_played_again(file, done, monkeypatch):
    """The weights that are tried by default are the library's, and are not in the plan."""
    plan = PLAN.replace("weights = [0.1, 1.0]\n", "").replace("budget = 4", "budget = 6")
    file.write_text(plan)

    def named():
        return {cell.method: cell.path for cell in cells(read_plan(file), done, PlayCell)}

    before = named()
    monkeypatch.setattr(_plan, "FACTORS", (0.5, 1.0))
    after = named()
    assert {name for name in before if before[name] != after[name]} == {"qgf"}


def test_the_seconds_of_a_training_are_those_of_all_its_updates(file, done):
    first, *_ = cells(read_plan(file), done, TrainCell)
    text = (first.runs[0] / "metrics.jsonl").read_text()
    lines = list(map(json.loads, text.splitlines()))
    steps = np.diff([0, *(line["step"] for line in lines)])
    wanted = sum(steps / [line["updates_per_second"] for line in lines])
    assert json.loads(first.path.read_text())["seconds"] == pytest.approx(wanted, abs=0.1)
