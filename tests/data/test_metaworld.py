"""Meta-World, in an environment of its own: `pip install -e '.[test,metaworld]'`, then
`pytest tests/data/test_metaworld.py`."""

import numpy as np
import pytest

from qgf_eqx.data import DatasetError, collect, metaworld, open_dataset
from qgf_eqx.data._environment import headless
from qgf_eqx.evaluate import Success
from qgf_eqx.evaluate.task import check_widths, task_of

pytest.importorskip("metaworld")


def test_there_are_fifty_tasks_and_another_is_refused():
    assert len(metaworld._metaworld()[1]) == 50
    with pytest.raises(DatasetError, match="no task `push`. It has .*push-v3"):
        metaworld.make_env("push")


def test_the_start_is_a_function_of_the_seed_alone():
    env, other = metaworld.make_env("push-v3"), metaworld.make_env("push-v3")
    first = env.reset(seed=1)[0]
    assert np.abs(first - env.reset(seed=2)[0]).max() > 0.01
    for _ in range(30):
        env.step(env.action_space.sample())
    np.testing.assert_array_equal(env.reset(seed=1)[0], first)
    np.testing.assert_array_equal(other.reset(seed=1)[0], first)


def test_an_episode_ends_with_success_or_after_two_hundred_steps():
    env = metaworld.make_env("push-v3")
    expert, (obs, _) = metaworld._metaworld()[1]["push-v3"](), env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        obs, reward, terminated, truncated, info = env.step(
            np.clip(metaworld._expert_action(expert, obs), -1, 1)
        )
        rewards.append(reward)
    assert info["success"] and not truncated and 20 < len(rewards) < 120
    assert rewards[-1] == 0 and set(rewards[:-1]) == {-1}
    env.reset(seed=0)
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(200)]
    assert ends == [(False, False)] * 199 + [(False, True)]


def test_collected_episodes_are_read_whole_and_resumed_to_the_same_bytes(tmp_path):
    options = {"transitions": 2000, "progress": False}
    path = collect("metaworld:push-v3", tmp_path / "one", processes=1, **options)
    assert path.name == "metaworld-push-v3.npz"
    again = collect("metaworld:push-v3", tmp_path / "two", processes=2, **options)
    assert again.read_bytes() == path.read_bytes()
    dataset, _ = open_dataset(path)
    assert dataset.obs.shape[1:] == (39,) and dataset.actions.shape[1:] == (4,)
    ends = np.flatnonzero(dataset.episode_end)
    assert len(ends) == 10 and ends[-1] == len(dataset.rewards) - 1
    succeeded = np.flatnonzero(dataset.terminated)
    assert 0 < len(succeeded) < 10 and set(succeeded + 1) <= set(ends)
    assert (dataset.rewards[ends] == 0).all()  # of a row without a successor
    steps = dataset.episode_end == 0
    np.testing.assert_array_equal(np.flatnonzero((dataset.rewards == 0) & steps), succeeded)
    check_widths(task_of("metaworld:push-v3"), dataset)


def test_a_task_is_known_by_its_name():
    task = task_of("metaworld:push-v3")
    assert task.name == "metaworld-push-v3" and isinstance(task.outcome, Success)


def test_it_is_drawn():
    with headless():
        env = metaworld.make_env("push-v3", render_mode="rgb_array")
        env.reset(seed=0)
        picture = env.render()
        env.close()
    assert picture.shape == (480, 480, 3) and picture.std() > 10
