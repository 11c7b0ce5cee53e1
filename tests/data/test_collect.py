import os
import shutil
import sys
from contextlib import closing
from functools import partial

import numpy as np
import ogbench
import pytest
from processes import a_worker_is_killed, started, wait_until

from qgf_eqx.data import DatasetError, collect, make_env
from qgf_eqx.data import _collecting as machinery
from qgf_eqx.data.ogbench import _collect as module
from qgf_eqx.engines import EngineError

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
    name = "pointmaze-medium-navigate-v0"
    return collect(name, folder, transitions=7000, processes=1, progress=False)


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

    real, done = machinery._make_shard, []

    def dies_after_one(*args):
        if done:
            raise Killed
        done.append(real(*args))

    monkeypatch.setattr(machinery, "_make_shard", dies_after_one)
    arguments = ("pointmaze-medium-navigate-v0", tmp_path)
    with pytest.raises(Killed):
        collect(*arguments, transitions=7000, processes=1, progress=False)
    (shards,) = tmp_path.iterdir()
    assert len(list(shards.glob("*.npz"))) == 1
    monkeypatch.setattr(machinery, "_make_shard", real)
    path = collect(*arguments, transitions=7000, processes=2, progress=False)
    assert path.read_bytes() == maze.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(maze.parent))


SCRIPT = """
import sys
from qgf_eqx.data import collect
if __name__ == "__main__":
    collect("pointmaze-medium-navigate-v0", sys.argv[1], transitions=7000, processes=2)
"""


def test_a_killed_collection_goes_on_with_its_shards_to_the_same_bytes(maze, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = tmp_path / "data"
    with started([sys.executable, tmp_path / "script.py", folder]):
        shards = wait_until(lambda: list(folder.glob("*.shards/*.npz")))
    assert shards[0].exists() and not (folder / maze.name).exists()
    before, after, real = shards[0].stat().st_mtime_ns, [], machinery._merge

    def merge(source, parts, *arguments):
        after.extend(part.stat().st_mtime_ns for part in parts if part == shards[0])
        real(source, parts, *arguments)

    monkeypatch.setattr(machinery, "_merge", merge)
    options = {"transitions": 7000, "processes": 1, "progress": False}
    path = collect("pointmaze-medium-navigate-v0", folder, **options)
    assert after == [before] and path.read_bytes() == maze.read_bytes()
    assert sorted(os.listdir(folder)) == sorted(os.listdir(maze.parent))


def test_a_second_collection_is_refused_and_leftovers_are_cleared(maze, tmp_path, monkeypatch):
    def again(*_):
        assert not list(tmp_path.glob(".*.tmp"))
        with pytest.raises(DatasetError, match="another process collects into"):
            collect(maze.stem, tmp_path, transitions=1, processes=1, progress=False)
        raise InterruptedError

    monkeypatch.setattr(machinery, "_make_shard", again)
    (tmp_path / f".{maze.stem}-val.npz.123.tmp").touch()
    with pytest.raises(InterruptedError):
        collect(maze.stem, tmp_path, transitions=1, processes=1, progress=False)


def test_a_killed_worker_of_a_collection_is_an_error_and_no_hang(tmp_path):
    at_work = a_worker_is_killed(lambda: list(tmp_path.glob("*.shards/*.npz")))
    with at_work, pytest.raises(EngineError, match="a worker process died"):
        collect("pointmaze-medium-navigate-v0", tmp_path, processes=2, progress=False)
    assert list(tmp_path.glob("*.shards/*.npz"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transitions": 0}, "`transitions` must be at least 1, got 0"),
        ({"transitions": 1.5}, "`transitions` must be a Python int, got 1.5"),
        ({"transitions": True}, "`transitions` must be a Python int, got True"),
        (
            {"transitions": 10**9 + 1},
            "`transitions` must be at most 1,000,000,000, got 1,000,000,001",
        ),
        ({"transitions": 10**30}, "`transitions` must be at most"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"seed": 0.0}, "`seed` must be a Python int, got 0.0"),
        ({"processes": 0}, "`processes` must be at least 1, got 0"),
        ({"processes": 2.5}, "`processes` must be an int, got 2.5"),
    ],
)
def test_wrong_counts_are_named_before_anything_is_made(tmp_path, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        collect("pointmaze-medium-navigate-v0", tmp_path / "data", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_way_to_a_goal_depends_on_the_two_cells_alone():
    """So that it need not be searched for at every step: OGBench's answer, anywhere in a cell."""
    with closing(make_env("pointmaze-medium-v0")) as env:
        env.reset(seed=0)
        maze, rng = env.unwrapped, np.random.default_rng(0)
        cells, _ = module._cells(maze.maze_map)
        subgoal_of = module._subgoals(maze)
        for _ in range(200):
            start, goal = (maze.ij_to_xy(cells[rng.integers(len(cells))]) for _ in range(2))
            start, goal = (np.add(xy, rng.uniform(-1.9, 1.9, 2)) for xy in (start, goal))
            wanted, _ = maze.get_oracle_subgoal(start, goal)
            np.testing.assert_array_equal(subgoal_of(start, goal), wanted)


def test_a_file_that_is_gone_is_made_again(maze, tmp_path):
    for gone, kept in [("-val", ""), ("", "-val")]:
        folder = tmp_path / f"without{gone}"
        shutil.copytree(maze.parent, folder)
        name = "pointmaze-medium-navigate-v0"
        made, other = (folder / f"{name}{suffix}.npz" for suffix in (gone, kept))
        expected, before = made.read_bytes(), other.stat().st_mtime_ns
        made.unlink()
        collect(name, folder, transitions=7000, processes=1, progress=False)
        assert made.read_bytes() == expected and other.stat().st_mtime_ns == before
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            p.name for p in maze.parent.iterdir()
        )


def test_a_damaged_shard_is_one_sentence(tmp_path):
    options = {"transitions": 1000, "processes": 1, "progress": False}
    name = "pointmaze-medium-navigate-v0"
    for i, content in enumerate([b"", b"PK\x03\x04", b"no zip"]):
        shard = tmp_path / str(i) / f"{name}.seed0.shards" / "00000000.1.npz"
        shard.parent.mkdir(parents=True)
        shard.write_bytes(content)
        with pytest.raises(DatasetError, match=f"{shard} is damaged .*Delete it and run again"):
            collect(name, tmp_path / str(i), **options)
        shard.unlink()
        assert collect(name, tmp_path / str(i), **options).exists()


@pytest.mark.parametrize("content", ["[]", "1", "{}", "no", "[" * 10**5, '{"dataset": []}'])
def test_a_record_of_anything_is_not_of_this_collection(tmp_path, content):
    (tmp_path / "cube-single-play-v0.npz").write_bytes(b"")
    (tmp_path / "cube-single-play-v0.collected.json").write_text(content)
    with pytest.raises(DatasetError, match="not collected here"):
        collect("cube-single-play-v0", tmp_path)


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
    with closing(module._make_env(made)) as env:
        episode = module._episode_maker(env, made)(0, 3)
    with closing(module._make_env(made)) as env:
        again = module._episode_maker(env, made)(0, 3)
    has_buttons = not name.startswith("cube")
    assert set(episode) == {*PUBLIC} | ({"button_states"} if has_buttons else set())
    for field, array in episode.items():
        assert array.dtype == PUBLIC.get(field, np.int64) and len(array) == 120
        np.testing.assert_array_equal(array, again[field])
    assert episode["terminals"].nonzero()[0].tolist() == [119]
    assert np.ptp(episode["qpos"][:, :6], axis=0).max() > 0.3  # the arm moves


def test_the_validation_episodes_are_none_of_the_training_episodes(maze):
    trained, held_out = (
        read(maze.with_name(f"pointmaze-medium-navigate-v0{end}.npz"))["observations"]
        for end in ("", "-val")
    )
    trained, held_out = (rows.reshape(-1, 1001, 2)[:, 0] for rows in (trained, held_out))
    assert not (trained[:, None] == held_out[None]).all(-1).any()


def test_an_episodes_start_goals_and_noise_are_those_of_its_seed_and_index():
    options = {"terminate_at_goal": False, "max_episode_steps": 300}
    env = make_env("pointmaze-medium-v0", **options)
    run = partial(module._navigate, env, module._subgoals(env.unwrapped))
    first, again, other_index, other_seed = (run(*x) for x in ((0, 3), (0, 3), (0, 4), (1, 3)))
    np.testing.assert_array_equal(first["actions"], again["actions"])
    for other in (other_index, other_seed):
        noise = np.corrcoef(first["actions"].ravel(), other["actions"].ravel())[0, 1]
        assert np.any(first["actions"] != other["actions"]) and abs(noise) < 0.5
        moved = np.abs(first["observations"][0] - other["observations"][0]).max()
        assert moved > 1  # of cells 4 wide


def test_the_mazes_agent_is_as_noisy_as_ogbenchs(maze):
    """The published noise of 0.5 on every component of a direction of length 1."""
    fields = read(maze)
    # The walls are parallel to the axes, and so is most of the way: across it there is noise alone.
    actions = fields["actions"].reshape(7, 1001, 2)
    across = np.abs(actions).min(-1).ravel()
    assert 0.2 < np.median(across) < 0.35
    assert 0.05 < np.mean(np.abs(actions) == 1) < 0.6  # clipped


def test_goals_of_the_maze_are_all_free_cells_but_straight_corridors():
    maze_map = np.array(
        [
            [1, 1, 1, 1, 1, 1],
            [1, 0, 0, 0, 0, 1],
            [1, 1, 1, 0, 1, 1],
            [1, 1, 1, 0, 1, 1],
            [1, 1, 1, 0, 1, 1],
            [1, 1, 1, 1, 1, 1],
        ]
    )
    cells, goals = module._cells(maze_map)
    assert len(cells) == 7 and set(cells) - set(goals) == {(1, 2), (2, 3), (3, 3)}
