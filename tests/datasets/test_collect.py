import multiprocessing
import os

import numpy as np
import ogbench
import pytest

from qgf_eqx.datasets import DatasetError, collect
from qgf_eqx.datasets import _collect as module

PUBLIC = {
    "observations": np.float32,
    "actions": np.float32,
    "terminals": np.bool_,
    "qpos": np.float32,
    "qvel": np.float32,
}


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maze")
    return collect("pointmaze-medium-navigate-v0", folder, transitions=7000, progress=False)


def test_the_file_has_the_public_format(maze):
    fields = read(maze)
    assert {name: array.dtype for name, array in fields.items()} == PUBLIC
    assert fields["observations"].shape == (7 * 1001, 2)
    np.testing.assert_array_equal(np.flatnonzero(fields["terminals"]), np.arange(1, 8) * 1001 - 1)
    assert np.abs(fields["actions"]).max() <= 1


def test_ogbench_itself_loads_it(maze):
    name = "pointmaze-medium-navigate-singletask-task1-v0"
    _, train, validation = ogbench.make_env_and_datasets(name, dataset_path=str(maze))
    assert train["observations"].shape == (7000, 2) and validation["observations"].shape == (
        1000,
        2,
    )
    assert set(train) >= {"observations", "actions", "next_observations", "rewards", "masks"}


def test_the_agent_goes_through_the_maze_and_not_through_walls(maze):
    fields = read(maze)
    step = np.diff(fields["observations"], axis=0)[~fields["terminals"][:-1]]
    assert np.abs(step).max() < 0.5  # an action moves 0.2 at most, walls push a little
    assert len({(x, y) for x, y in np.round(fields["observations"] / 4).astype(int)}) > 20


def test_episodes_do_not_depend_on_processes_or_interruptions(maze, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    real, done = module._make_shard, []

    def dies_after_one(*args):
        if done:
            raise Killed
        done.append(real(*args))
        return done[0]

    class Inline:
        def __init__(self, processes): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def close(self): ...

        def join(self): ...

        def imap_unordered(self, work, jobs):
            return map(work, jobs)

    context = type("Context", (), {"Pool": Inline})
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(module, "_make_shard", dies_after_one)
    arguments = ("pointmaze-medium-navigate-v0", tmp_path)
    with pytest.raises(Killed):
        collect(*arguments, transitions=7000, progress=False)
    (shards,) = tmp_path.iterdir()
    assert len(list(shards.iterdir())) == 1
    monkeypatch.setattr(module, "_make_shard", real)
    path = collect(*arguments, transitions=7000, progress=False)
    for name, array in read(path).items():
        np.testing.assert_array_equal(array, read(maze)[name])
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(maze.parent))


def test_another_seed_makes_other_data_and_a_finished_file_is_kept(maze):
    before = maze.stat().st_mtime_ns
    assert collect("pointmaze-medium-navigate-v0", maze.parent, transitions=7000) == maze
    assert maze.stat().st_mtime_ns == before
    with pytest.raises(DatasetError, match="exists and is .*'seed': 0.* not .*'seed': 1"):
        collect("pointmaze-medium-navigate-v0", maze.parent, transitions=7000, seed=1)
    for name in ("cube-single-play-v0.npz", "scene-play-v0-val.npz"):
        (maze.parent / name).write_bytes(b"the public one")
        with pytest.raises(DatasetError, match="not collected here"):
            collect(name.removesuffix(".npz").removesuffix("-val"), maze.parent)
        assert (maze.parent / name).read_bytes() == b"the public one"


@pytest.mark.parametrize(
    "name",
    [
        "antmaze-medium-navigate-v0",
        "pointmaze-medium-play-v0",
        "cube",
        "visual-cube-single-play-v0",
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, name):
    with pytest.raises(DatasetError, match="cannot be collected here. Collectable are"):
        collect(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "cube-double-play-v0",
        "cube-single-noisy-v0",
        "scene-noisy-v0",
        "scene-play-v0",
        "puzzle-3x3-play-v0",
        "puzzle-4x4-noisy-v0",
    ],
)
def test_manipulation_oracles_act_and_move_things(name, monkeypatch):
    """One short episode each, in this process; the whole path is run on the maze above."""
    made = module.Recipe(**{**vars(module.recipe(name)), "steps": 120})
    episode = module._episode_maker(made)(0, 3)
    again = module._episode_maker(made)(0, 3)
    has_buttons = not name.startswith("cube")
    assert set(episode) == {*PUBLIC} | ({"button_states"} if has_buttons else set())
    for field, array in episode.items():
        assert array.dtype == PUBLIC.get(field, np.int64) and len(array) == 120
        np.testing.assert_array_equal(array, again[field])
    assert episode["terminals"].nonzero()[0].tolist() == [119]
    assert np.ptp(episode["qpos"][:, :6], axis=0).max() > 0.3  # the arm moves
