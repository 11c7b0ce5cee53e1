"""A batch divided among four devices of one process, and among two processes: what one device gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from qgf_eqx import cli
from qgf_eqx.learn import RunError, load_run, read_metrics
from qgf_eqx.learn._devices import on

pytestmark = pytest.mark.usefixtures("loose_promotion")

HERE = str(Path(__file__).parents[1] / "evaluate")
RUN = ["train", "--env", "toy:make_array_task", "--updates", "6", "--batch", "8", "--horizon", "2"]
RUN += ["--width", "8", "--depth", "1", "--actors", "flow", "fql-3", "--save-every", "4", "--quiet"]
RUN += ["--normalise-obs", "standardise"]


def command(folder, *more, devices=1):
    code = (
        f"import sys; sys.path.insert(0, {HERE!r}); from qgf_eqx import cli; cli.main(sys.argv[1:])"
    )
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *RUN, "--run-dir", str(folder), *more],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        cli.main([*RUN, "--run-dir", str(folder)])
    return folder


def finish(*processes):
    """They must end well."""
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]


def assert_as(folder, alone):
    arrays = lambda run: jax.tree.leaves(eqx.filter(load_run(run).saved.state, eqx.is_array))  # noqa: E731
    for one, other in zip(arrays(folder), arrays(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    ours, theirs = (read_metrics(run / "metrics.jsonl") for run in (folder, alone))
    for one, other in zip(ours, theirs, strict=True):
        rate = "updates_per_second"
        assert {**one, rate: 0} == pytest.approx({**other, rate: 0}, rel=1e-4)


def test_four_devices_are_one_and_a_run_goes_on_on_another_number(alone, tmp_path):
    finish(command(tmp_path, "--devices", "4", "--updates", "4", devices=4))
    finish(command(tmp_path, "--devices", "all", devices=2))
    assert_as(tmp_path, alone)


def test_two_processes_are_one_and_the_first_alone_writes(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = ["--coordinator", f"127.0.0.1:{port}", "--hosts", "2"]
    folders = [tmp_path / str(i) for i in range(2)]
    finish(*(command(folders[i], *hosts, "--host", str(i), devices=2) for i in range(2)))
    assert_as(folders[0], alone)
    assert not folders[1].exists()


def test_what_cannot_be_divided_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    with pytest.raises(RunError, match="`batch` must be a multiple of .* devices, 2, got 3"):
        on(jax.devices()[:1] * 2).check(3)
    for more, said in (
        (["--devices", "99"], "`devices` must be at most"),
        (["--hosts", "2"], "`coordinator` is missing"),
        (["--devices", "2", "--processes", "2"], "`devices` are of one process"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main([*RUN, "--run-dir", str(tmp_path / "r"), *more])
        assert left.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
