"""Metrics and evaluations that are seen while a training goes on."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import toy

from qgf_eqx import cli
from qgf_eqx.evaluate import evaluate, method
from qgf_eqx.evaluate.periodic import FIRST, Periodic
from qgf_eqx.learn import TrainConfig, learners, read_metrics, tracker, train, train_seeds

pytestmark = pytest.mark.usefixtures("loose_promotion")

SMALL = {"width": 8, "depth": 1}
CONFIG = TrainConfig(
    "toy:make_array_task", updates=8, batch=8, horizon=2, **learners("iql", ["flow"], **SMALL)
)
OPTIONS = {"updates_per_call": 2, "save_every": 4, "progress": False}


@pytest.fixture
def data():
    return toy.recorded()


def read_events(folder):
    """The scalars in TensorBoard's files: records of a length, its checksum, the event, and its
    checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events*"), key=os.path.getmtime):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + length :]
    return found


def test_tensorboard_has_every_line_of_every_seed(data, tmp_path):
    with tracker("tensorboard", CONFIG.as_dict()) as track:
        train_seeds(CONFIG, [0, 1], data, tmp_path, track=track, **OPTIONS)
    for seed in (0, 1):
        run = tmp_path / f"seed{seed}"
        lines = read_metrics(run / "metrics.jsonl")
        wanted = {(x["step"], k): v for x in lines for k, v in x.items() if k != "step"}
        found = {(step, tag): value for step, tag, value in read_events(run / "tensorboard")}
        assert found.keys() == wanted.keys() and len(lines) == 4
        np.testing.assert_allclose([found[key] for key in wanted], list(wanted.values()), rtol=1e-6)


def test_a_line_of_an_evaluation_is_tracked_and_kept_and_written_once(data, tmp_path):
    asked, seen = [], []

    def on_save(folder, step):
        assert (folder / "checkpoint.safetensors").exists()
        asked.append(step)
        return {"flow/success": step / 10} if step != 4 else None

    options = {**OPTIONS, "on_save": on_save, "track": lambda folder, line: seen.append(line)}
    train(CONFIG, data, tmp_path, **options)
    assert asked == [4, 8] and seen[-1] == {"step": 8, "flow/success": 0.8}
    assert read_metrics(tmp_path / "evaluations.jsonl") == [seen[-1]]
    train(CONFIG, data, tmp_path, **options)  # finished, and evaluated
    assert asked == [4, 8]
    (tmp_path / "evaluations.jsonl").unlink()  # killed between the checkpoint and its evaluation
    train(CONFIG, data, tmp_path, **options)
    assert asked == [4, 8, 8] and len(read_metrics(tmp_path / "evaluations.jsonl")) == 1


def test_evaluations_after_the_checkpoint_are_dropped_and_change_no_bit(data, tmp_path):
    alone = train(CONFIG, data, tmp_path / "alone", **OPTIONS).read_bytes()
    run = tmp_path / "seen"
    run.mkdir()
    (run / "evaluations.jsonl").write_text('{"step": 4, "x": 1.0}\n')  # of no checkpoint here
    periodic = Periodic(4, 8, ("flow", "qgf"), episodes=3)
    path = train(CONFIG, data, run, on_save=periodic, **OPTIONS)
    assert path.read_bytes() == alone
    lines = read_metrics(run / "evaluations.jsonl")
    assert [line["step"] for line in lines] == [4, 8]
    weight = lines[1]["weight"]
    samplers = [method("flow"), method("qgf", weight=weight)]
    found = evaluate(run, samplers, range(FIRST, FIRST + 3), processes=1, progress=False)
    means = [sum(e.total_reward for e in episodes) / 3 for episodes in found]
    assert [lines[1]["flow/return"], lines[1]["qgf/return"]] == pytest.approx(means)
    assert weight > 0


def test_it_plays_when_it_is_due_and_after_the_last_update(monkeypatch):
    from qgf_eqx.evaluate import periodic

    asked = []
    monkeypatch.setattr(periodic, "as_source", lambda run: asked.append(run) or 1 / 0)
    for step in range(1, 11):
        try:
            assert Periodic(4, 10)(Path(str(step)), step) is None
        except ZeroDivisionError:
            pass
    assert asked == [Path(str(step)) for step in (4, 8, 10)]


def test_wrong_settings_are_named():
    for options, message in (
        ({"every": 0}, "`every`"),
        ({"episodes": 0}, "`episodes`"),
        ({"methods": ("qfg",)}, "unknown method `qfg`"),
    ):
        with pytest.raises(ValueError, match=message):
            Periodic(**{"every": 1, "updates": 2, **options})
    with pytest.raises(ValueError, match="`name` must be one of tensorboard, wandb, trackio"):
        with tracker("mlflow", {}):
            pass


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'qgf_eqx\[tensorboard\]'"):
        with tracker("tensorboard", {}):
            pass


TRAIN = [
    "train",
    "--env",
    "toy:make_array_task",
    "--updates",
    "6",
    "--batch",
    "8",
    "--horizon",
    "2",
]
TRAIN += ["--width", "8", "--depth", "1", "--quiet"]


def test_from_the_command_line(tmp_path, capsys):
    watching = ["--track", "tensorboard", "--evaluate-every", "3", "--evaluate-episodes", "2"]
    watching += ["--evaluate-methods", "flow"]
    cli.main([*TRAIN, "--run-dir", str(tmp_path / "run"), *watching])
    lines = read_metrics(tmp_path / "run" / "evaluations.jsonl")
    assert [line["step"] for line in lines] == [3, 6] and "flow/return" in lines[0]
    tags = {tag for _, tag, _ in read_events(tmp_path / "run" / "tensorboard")}
    assert tags >= {"flow/return", "flow/flow_loss"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evaluate-every", "3", "--save-every", "2"], "multiple of `save_every`, 2, got 3"),
        (["--evaluate-every", "0"], "`every`"),
        (["--evaluate-every", "3", "--evaluate-methods", "fql"], "no actor `fql` is trained"),
        (["--evaluate-every", "3", "--evaluate-methods", "fqll"], "unknown method `fqll`"),
    ],
)
def test_wrong_options_end_before_the_training(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        cli.main([*TRAIN, "--run-dir", str(tmp_path / "run"), *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_wandb_gets_the_lines_without_a_network(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with tracker("wandb", CONFIG.as_dict()) as track:
        train(CONFIG, data, tmp_path / "run", track=track, **OPTIONS)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert content.count(b"flow/flow_loss") >= 4 and b"toy:make_array_task" in content


def test_trackio_gets_the_lines_and_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    import sqlite3

    for updates in (4, 8):
        with tracker("trackio", CONFIG.as_dict()) as track:
            train(CONFIG, data, tmp_path / f"run{updates}", track=track, **OPTIONS)
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as found:
        rows = found.execute("select run_name, step, metrics from metrics").fetchall()
    assert len(rows) == 8 and "flow/flow_loss" in json.loads(rows[0][2])
