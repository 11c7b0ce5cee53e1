"""Cells on a SLURM of one node and on a Ray cluster of two, really run; they skip where they can't."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cells
import pytest

from qgf_eqx.engines import EngineError, Ray, Slurm

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The engine for jobs of a folder, on this machine's own SLURM."""
    pytest.importorskip("submitit")
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("starting a SLURM needs root on Linux")
    started = subprocess.run([HERE / "slurm.sh"], capture_output=True, text=True, timeout=300)
    if started.returncode or "ready" not in started.stdout:
        pytest.skip(f"no SLURM here: {started.stderr[-200:]}")
    setup = [f"export PYTHONPATH={HERE}:{HERE.parent}:{HERE.parent / 'evaluate'}"]
    options = {"timeout_min": 10, "cpus_per_task": 1, "slurm_setup": setup}
    return Slurm(tmp_path_factory.mktemp("jobs"), options, "slurm")


@pytest.fixture(scope="module")
def ray_cluster():
    """Two nodes on loopback, of one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent / "evaluate")))
    os.environ["PYTHONPATH"] = paths
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module", params=["slurm", "ray"])
def engine(request):
    if request.param == "slurm":
        return request.getfixturevalue("slurm")
    return Ray(request.getfixturevalue("ray_cluster").address)


def test_every_cell_comes_once_with_its_result(engine):
    assert sorted(engine.map(cells.square, range(5))) == [(x, x * x) for x in range(5)]
    assert list(engine.map(cells.square, [])) == []


def test_what_a_cell_raises_reaches_the_caller(engine):
    with pytest.raises((LookupError, EngineError), match="no such cell"):
        list(engine.map(cells.raise_or_sleep, ["raise"]))


def test_a_cell_whose_process_is_killed_is_run_again(engine, tmp_path):
    found = list(engine.map(cells.die_once, [str(tmp_path / "a"), str(tmp_path / "b")]))
    assert sorted(result for _, result in found) == ["a again", "b again"]


def test_a_cell_that_dies_each_time_is_an_error(engine):
    begin = time.monotonic()
    with pytest.raises(EngineError, match="what was saved is kept"):
        list(type(engine)(**{**vars(engine), "retries": 0}).map(cells.die, ["x"]))
    assert time.monotonic() - begin < 120
