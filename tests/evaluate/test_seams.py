"""A new format and a new family of tasks are one new file each: no table has to know of them."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from toy import recorded

from qgf_eqx import cli, data
from qgf_eqx import learn as training
from qgf_eqx.data import DatasetError, collect, formats
from qgf_eqx.evaluate import Sampler, evaluate, task_of

FORMAT = """
import numpy as np
from qgf_eqx.data import Dataset

def recognises(source):
    return str(source).endswith(".rows")

def load(source):
    rows = np.loadtxt(source, np.float32)
    return Dataset(rows[:, :2], rows[:, 2:3], *rows[:, 3:].T), "read as rows"
"""

FAMILY = """
from contextlib import contextmanager
from functools import partial
import numpy as np
from qgf_eqx.data._collecting import Source
from toy import Array, recorded

class Walk(Array):
    def step(self, action):
        *seen, info = super().step(action)
        return *seen, {**info, "success": seen[1] > -0.5}

def make_env(name, **options):
    return Walk(length=int(name), **options)

def task(name):
    return {"name": f"walk-{name}", "make_env": partial(make_env, name), "data": f"walk-{name}.npz"}

def source(name):
    return Source(f"walk-{name}", int(name) + 1, partial(_maker, name), ("numpy",))

@contextmanager
def _maker(name):
    yield lambda seed, index: recorded(make_env(name))._asdict()
"""


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """Puts a module into a folder of the package, for a test."""
    put = []

    def new(package, name, source):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        put.append((package, name))

    yield new
    for package, name in put:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


@pytest.fixture
def trained_on(monkeypatch):
    """What the command line trains on, without training."""

    class Asked(Exception):
        pass

    def stop(config, dataset, run_dir, **_):
        raise Asked(dataset, run_dir)

    def of(*arguments):
        with pytest.raises(Asked) as asked:
            cli.main(["train", *arguments])
        return asked.value.args

    monkeypatch.setattr(training, "train", stop)
    return of


def test_a_new_format_is_one_new_file(tmp_path, new_file, trained_on):
    file, known = tmp_path / "own.rows", recorded()
    fields = known._replace(obs=known.obs.T, actions=known.actions.T)
    np.savetxt(file, np.vstack(fields).T)
    with pytest.raises(DatasetError, match="no known format. Known are d4rl, lerobot, minari, npz"):
        data.open_dataset(file)
    new_file(formats, "rows", FORMAT)
    dataset, _ = trained_on("--env", "toy:make_array_goal_task", "--data", str(file))
    np.testing.assert_allclose(dataset.obs, known.obs, rtol=1e-6)
    np.testing.assert_array_equal(dataset.episode_end, known.episode_end)


def test_a_new_family_of_tasks_is_one_new_file(tmp_path, new_file, trained_on):
    with pytest.raises(ValueError, match="there is no module `walk`"):
        task_of("walk:6")
    with pytest.raises(DatasetError, match="nothing is known of its family"):
        collect("walk:6", tmp_path)
    new_file(data, "walk", FAMILY)
    assert task_of("walk:6").make_env().unwrapped.length == 6

    def act(obs, numbers, count):
        return jnp.clip(obs[:, 1:] - obs[:, :1], -2, 2)[:, None] / 2

    (episodes,) = evaluate(act, [Sampler()], range(2), task="walk:6", progress=False)
    assert all(episode.success for episode in episodes)
    path = collect("walk:6", tmp_path, transitions=6, processes=1, progress=False)
    dataset, run_dir = trained_on("--env", "walk:6", "--data-dir", str(tmp_path))
    assert path.name == "walk-6.npz" and run_dir.parent.name == "walk-6"
    np.testing.assert_array_equal(dataset.obs, recorded().obs)
