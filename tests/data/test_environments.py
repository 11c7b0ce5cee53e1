import os
import subprocess
import sys
import tempfile

import pytest

from qgf_eqx.data import make_env
from qgf_eqx.data._environment import headless

MAZE, CUBE = "pointmaze-medium-singletask-task1-v0", "cube-single-singletask-task2-v0"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("name", [MAZE, CUBE])
def test_an_environment_leaves_no_file_and_no_descriptor(temporary, name):
    make_env(name).close()  # what is loaded once
    before = descriptors()
    for _ in range(3):
        env = make_env(name)
        env.reset(seed=0)
        env.close()
    assert descriptors() == before and not os.listdir(temporary)


def test_an_environment_that_cannot_be_made_leaves_nothing_either(temporary):
    make_env(MAZE).close()
    before = descriptors()
    with pytest.raises(TypeError):
        make_env(MAZE, no_such_option=1)
    assert descriptors() == before and not os.listdir(temporary)


def test_the_environment_variable_is_left_alone(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    for value in (None, "osmesa"):
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        if value:
            monkeypatch.setenv("MUJOCO_GL", value)
        make_env(MAZE).close()
        assert os.environ.get("MUJOCO_GL") == value
        with headless():
            assert os.environ["MUJOCO_GL"] == (value or "egl")
        assert os.environ.get("MUJOCO_GL") == value
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    with headless():
        assert "MUJOCO_GL" not in os.environ


_DRAWING = """
import os
from qgf_eqx.data import make_env
for name in ("MAZE", "CUBE"):
    make_env(name).close()
assert "MUJOCO_GL" not in os.environ
import gymnasium, mujoco
from qgf_eqx.evaluate import task_of
from qgf_eqx.film import RenderError, _rendering
try:
    assert _rendering(task_of("pointmaze-medium-navigate-singletask-task1-v0")).render().shape == (240, 320, 3)
except RenderError as error:
    raise SystemExit(f"cannot render: {error}")
assert _rendering(task_of("cube-single-play-singletask-task2-v0")).render().std() > 1
model = mujoco.MjModel.from_xml_string("<mujoco/>")  # the user's own
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
assert renderer.render().shape == (8, 8, 3)
env = gymnasium.make("CUBE", render_mode="rgb_array")
env.reset()
assert env.render().ndim == 3 and "MUJOCO_GL" not in os.environ
""".replace("MAZE", MAZE).replace("CUBE", CUBE)


def test_pictures_are_drawn_after_an_environment_was_made():
    plain = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MUJOCO_GL")}
    done = subprocess.run(
        [sys.executable, "-c", _DRAWING], env=plain, capture_output=True, text=True
    )
    if done.returncode:
        probe = "import mujoco; mujoco.GLContext(8, 8)"
        can = subprocess.run([sys.executable, "-c", probe], env={**plain, "MUJOCO_GL": "egl"})
        if can.returncode:
            pytest.skip("this machine has no EGL")
    assert done.returncode == 0, done.stderr
