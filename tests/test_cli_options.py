"""The options that verbs share, on a small task of one's own."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from qgf_eqx import cli
from qgf_eqx.cli._options import Common, Grid
from qgf_eqx.weights import LinearDecay

pytestmark = pytest.mark.usefixtures("loose_promotion")

HERE = Path(__file__).parent
SMALL = ["--updates", "4", "--batch", "8", "--width", "8", "--depth", "2", "--horizon", "2"]
QUICK = ["--methods", "flow", "--episodes", "2", "--steps", "1", "--processes", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, loose_promotion):
    """Two seeds, trained by one command."""
    sys.path.append(str(HERE / "evaluate"))
    folder = tmp_path_factory.mktemp("options")
    arguments = ["--seeds", "0", "1", "--processes", "1", "--run-dir", str(folder)]
    cli.main(["train", "--env", "toy:make_array_task", *SMALL, *arguments])
    yield [folder / "seed0", folder / "seed1"]
    sys.path.remove(str(HERE / "evaluate"))


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"], ["--version"]])
def test_help_and_version_do_not_wait_for_jax(arguments):
    code = "import sys, qgf_eqx_cli\nsys.argv[1:] = sys.argv[1:]\ntry: qgf_eqx_cli.main()\n"
    code += "except SystemExit as stop: assert not stop.code\n"
    code += "print([m for m in ('jax', 'scipy', 'matplotlib', 'ogbench') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert found.stdout.rstrip().endswith("[]"), (found.stdout, found.stderr)
    if arguments == ["--version"]:
        assert found.stdout.startswith(f"qgf_eqx {version('qgf_eqx')}\n")


def test_the_library_is_whole_once_a_verb_runs():
    found = subprocess.run(
        [sys.executable, "-m", "qgf_eqx_cli", "methods"], capture_output=True, text=True
    )
    assert found.returncode == 0 and found.stdout.startswith("flow "), found.stderr


def test_several_seeds_are_trained_by_one_command_and_compared(runs, capsys):
    assert [json.loads((run / "config.json").read_text())["seed"] for run in runs] == [0, 1]
    cli.main(["evaluate", *map(str, runs), *QUICK])
    assert "Intervals are over 2 training seeds." in capsys.readouterr().out


def test_the_result_as_json_is_all_that_is_printed(runs, capsys):
    cli.main(["evaluate", *map(str, runs), *QUICK, "--json"])
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["table"][0]["method"] == "flow" and found["training seeds"] == [0, 1]
    assert printed.err == ""
    cli.main(["methods", "--json"])
    assert json.loads(capsys.readouterr().out)["qgf"]["weight"] is True


def test_quiet_prints_the_table_and_no_remark(runs, capsys):
    cli.main(["evaluate", *map(str, runs), *QUICK, "--quiet"])
    printed = capsys.readouterr()
    assert "95 % interval" in printed.out and "The results are in" not in printed.out
    assert printed.err == ""


def test_a_run_is_trained_again_from_its_own_config(runs, tmp_path, capsys):
    config = str(runs[0] / "config.json")
    cli.main(["train", "--config", config, "--updates", "6", "--run-dir", str(tmp_path / "a")])
    found = json.loads((tmp_path / "a" / "config.json").read_text())
    assert found == json.loads(Path(config).read_text()) | {"updates": 6}
    bad = tmp_path / "bad.json"
    bad.write_text('{"env": "e", "colour": 3}')
    for file, said in ((str(bad), "unknown setting `colour`"), ("nowhere", "`config` must be a")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", f"--config={file}"])
        assert stop.value.code == 2 and said in capsys.readouterr().err


def test_a_seed_that_is_named_twice_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--env", "pointmaze-medium-navigate-singletask-v0", "--seeds", "1", "1"])
    assert stop.value.code == 2 and "names a seed twice" in capsys.readouterr().err


def test_weights_are_auto_or_numbers():
    assert Grid().options == {"weights": None, "decays": [], "extensions": None}
    found = Grid((0.1,), (0.5,), 2).options
    assert found == {"weights": [0.1], "decays": [LinearDecay(0.5)], "extensions": 2}
    with pytest.raises(ValueError, match="auto or numbers, and not both"):
        _ = Grid(("auto", 0.1)).options


def test_a_device_is_chosen_before_jax_looks(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delitem(sys.modules, "jax")
    import os

    for device, platform in (("auto", ""), ("cpu", "cpu"), ("gpu", "cuda")):
        Common(device=device).begin()
        assert os.environ["JAX_PLATFORMS"] == platform


def test_a_weight_is_chosen_from_a_grid_that_nobody_gave(runs, capsys):
    arguments = ["--episodes", "2", "--steps", "1", "--processes", "1", "--extensions", "0"]
    cli.main(["choose", str(runs[0]), *arguments])
    rows = capsys.readouterr().out.splitlines()
    weights = [float(row.split()[0]) for row in rows[:5]]
    assert weights[-1] / weights[0] == pytest.approx(100, rel=0.2)


def test_a_task_is_found_in_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text((HERE / "evaluate" / "toy.py").read_text())
    arguments = ["--env", "mine:make_array_task", *SMALL, "--run-dir", "run"]
    code = "import sys, qgf_eqx_cli; sys.path.remove(''); qgf_eqx_cli.main()"  # as the script does
    found = subprocess.run(
        [sys.executable, "-c", code, "train", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0 and (tmp_path / "run" / "config.json").exists(), found.stderr
