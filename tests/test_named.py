"""What a name in a file can and cannot bring into the program."""

import subprocess
import sys

import pytest

from qgf_eqx import cli
from qgf_eqx._named import import_named
from qgf_eqx._run_folder import RunError
from qgf_eqx.evaluate import task_of
from qgf_eqx.learn._kinds import learner

pytestmark = pytest.mark.usefixtures("loose_promotion")


@pytest.mark.parametrize("name", ["os:abort", "os.path:join", "builtins:exit", "antigravity:fly"])
def test_parts_of_python_are_neither_imported_nor_called(name):
    """Each in a process of its own: `os:abort` would end this one."""
    code = f"from qgf_eqx.evaluate import task_of; task_of({name!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1 and "names a part of Python itself" in found.stderr, found.stderr
    with pytest.raises(RunError, match="names a part of Python itself"):
        learner(name, {})


def test_nor_are_they_where_a_module_of_ones_own_has_them_too(tmp_path, monkeypatch):
    (tmp_path / "borrowed.py").write_text("from os import abort\nfrom shutil import rmtree\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("borrowed:abort", "borrowed:rmtree"):
        with pytest.raises(ValueError, match="names a part of Python itself"):
            import_named(name)
    with pytest.raises(ValueError, match="has no `nothing`"):
        task_of("borrowed:nothing")


def test_a_run_of_such_a_name_is_refused_by_every_verb_that_needs_its_task(tmp_path, capsys):
    import gymnasium  # noqa: F401 (what `train` needs)
    import numpy as np

    from qgf_eqx.data import Dataset
    from qgf_eqx.learn import TrainConfig, learners, train

    rng, ends = np.random.default_rng(0), np.tile(np.arange(5) == 4, 8).astype(np.float32)
    rows = {"obs": rng.normal(size=(40, 3)), "actions": rng.uniform(-1, 1, (40, 2))}
    data = Dataset(*(x.astype(np.float32) for x in rows.values()), ends - 1, ends, ends)
    config = TrainConfig("os:abort", updates=1, batch=4, horizon=2, **learners(width=4, depth=1))
    train(config, data, tmp_path / "gift", progress=False)
    for verb in ("evaluate", "choose", "diagnose", "film"):
        with pytest.raises(SystemExit):
            cli.main([verb, str(tmp_path / "gift")])
        assert "names a part of Python itself" in capsys.readouterr().err
