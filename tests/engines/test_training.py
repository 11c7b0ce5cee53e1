"""Two seeds that are trained at once: what a kill of one, and SIGTERM to the parent, do."""

import dataclasses
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import a_worker_is_killed, started, wait_until

from qgf_eqx import experiment
from qgf_eqx.data.ogbench import collect, dataset_name
from qgf_eqx.engines import EngineError
from qgf_eqx.learn import TrainConfig, load_run, read_metrics
from qgf_eqx.learn.actors import BC
from qgf_eqx.learn.critics import IQL

SMALL = {"critic": IQL(width=8, depth=1, critics=1), "actors": {"flow": BC(width=8, depth=1)}}
CONFIG = TrainConfig("e", updates=10**6, batch=8, horizon=2, **SMALL)


def test_a_killed_worker_of_a_training_is_an_error_and_no_hang(tmp_path, monkeypatch):
    collect(
        dataset_name(experiment.POINTMAZE.config.env),
        tmp_path,
        transitions=200,
        processes=1,
        progress=False,
    )
    monkeypatch.setattr(experiment, "collect", lambda *_, **__: None)
    config = dataclasses.replace(experiment.POINTMAZE.config, updates=10**6, **SMALL)
    two = dataclasses.replace(experiment.POINTMAZE, config=config, seeds=(0, 1))
    with a_worker_is_killed(), pytest.raises(EngineError, match="a worker process died"):
        experiment.run(two, tmp_path, tmp_path, processes=2, progress=False)


SCRIPT = """
import dataclasses
import sys
sys.path[:0] = {paths!r}
from test_train import data
from test_training import CONFIG
from qgf_eqx import experiment
from qgf_eqx.data.ogbench import collect, dataset_name
experiment.collect = lambda *_, **__: None
experiment.load = lambda *_: data()
experiment.dataset_name = lambda _: "e"
if __name__ == "__main__":
    two = dataclasses.replace(experiment.POINTMAZE, config=CONFIG, seeds=(0, 1))
    experiment.run(two, sys.argv[1], ".", processes=2, progress=False)
"""


def test_sigterm_to_the_parent_of_two_trainings_saves_both_and_exits_with_zero(tmp_path):
    here = Path(__file__).parent
    script, runs = tmp_path / "script.py", tmp_path / "runs"
    script.write_text(SCRIPT.format(paths=[str(here), str(here.parent)]))
    with started([sys.executable, script, runs]) as process:
        logs = [runs / f"seed{seed}" / "metrics.jsonl" for seed in (0, 1)]
        wait_until(lambda: all(map(read_metrics, logs)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    written = [log.read_text() for log in logs]
    assert [load_run(log.parent).config.seed for log in logs] == [0, 1]
    time.sleep(0.5)
    assert [log.read_text() for log in logs] == written  # nobody goes on
