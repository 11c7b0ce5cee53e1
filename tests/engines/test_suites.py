"""A suite on a SLURM of one node and on a Ray cluster of two, of which one is lost in the middle: the
report is that of one machine, byte for byte."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from test_clusters import HERE, ray_cluster, slurm  # noqa: F401 (fixtures)

from qgf_eqx.engines import Ray
from qgf_eqx.suite import cells_of, read_plan, run_suite, write_report

sys.path.append(str(HERE.parent / "evaluate"))  # for `toy`
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("loose_promotion"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),  # of a cluster that is started
]

PLAN = """
name = "small"
seeds = [0, 1, 2]
methods = ["flow", "qgf", "best-of-4"]
episodes = 5
tuning_budget = 6
weights = [0.1, 1.0]

[train]
updates = 400
batch = 8
horizon = 2
learners = { width = 8, depth = 1 }

[[tasks]]
env = "toy:make_array_task"

[[tasks]]
env = "toy:make_room"
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "small.toml"
    path.write_text(PLAN)
    return read_plan(path)


@pytest.fixture(scope="module")
def local(plan, tmp_path_factory, loose_promotion):
    """The report of this machine."""
    out = tmp_path_factory.mktemp("local")
    run_suite(plan, out, processes=1, progress=False)
    return write_report(plan, out).read_bytes()


def once_training(out, kill):
    """Kills once, as soon as a training has begun; returns what it has killed."""
    killed = []

    def watch():
        until = time.monotonic() + 120
        while time.monotonic() < until and not list(out.glob("train/*/seed*/config.json")):
            time.sleep(0.05)
        killed.extend(kill())

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, killed


def slurm_workers():
    """The processes of jobs that are training now: one of them is killed."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line, environ = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"submitit" in line and b"SLURM_JOB_ID" in environ and b"python" in line:
            os.kill(int(process.name), signal.SIGKILL)
            return [int(process.name)]
    return []


def test_a_job_of_slurm_is_killed_and_the_report_is_the_same(plan, local, slurm, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    thread, killed = once_training(out, slurm_workers)
    run_suite(plan, out, engine=slurm, progress=False)
    thread.join()
    assert killed and all(cell.path.exists() for cell in cells_of(plan, out))
    assert write_report(plan, out).read_bytes() == local


def test_a_node_of_ray_is_lost_and_the_report_is_the_same(plan, local, ray_cluster, tmp_path):  # noqa: F811
    out, other = tmp_path / "out", ray_cluster.add_node(num_cpus=1)

    def lose():
        ray_cluster.remove_node(other, allow_graceful=False)
        return ["a node"]

    thread, killed = once_training(out, lose)
    run_suite(plan, out, engine=Ray(ray_cluster.address), progress=False)
    thread.join()
    assert killed and all(cell.path.exists() for cell in cells_of(plan, out))
    assert write_report(plan, out).read_bytes() == local
