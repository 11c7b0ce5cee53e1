"""Tasks with goals: which episode has which, from training to the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from qgf_eqx import cli
from qgf_eqx.data import DatasetError
from qgf_eqx.data.goals import Hindsight
from qgf_eqx.evaluate import Task, evaluate, load_policy, method, task_of
from qgf_eqx.evaluate._rollout import rollout
from qgf_eqx.evaluate.results import format_goals, read
from qgf_eqx.learn import load_run

pytestmark = pytest.mark.usefixtures("loose_promotion")

SMALL = ["--updates", "4", "--batch", "8", "--horizon", "2", "--width", "8", "--depth", "1"]


def to_the_goal(obs, numbers, count):
    """Actions that know the way."""
    state, goal = obs
    return jnp.clip(5 * (goal - state[:, :2]), -1, 1)


def test_an_episodes_number_chooses_its_goal():
    envs = [toy.Room() for _ in range(6)]
    found = rollout(envs, to_the_goal, range(3, 9), seed=0, record=True, goals=4)
    assert [env.begun for env in envs] == [[4], [1], [2], [3], [4], [1]]
    assert all(episode.success and len(episode.path[0]) == 2 for episode in found)
    without = toy.Room()
    rollout([without], to_the_goal, [2], seed=0)
    assert without.begun == [1]  # `reset` is given no options


def test_a_run_with_goals_from_the_command_line_to_the_table(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "table.json"
    actors = ["--actors", "flow", "gcbc", "ifql"]
    cli.main(["train", "--env", "toy:make_room", *SMALL, *actors, "--run-dir", str(run)])
    found = load_run(run)
    assert found.config.goals and found.saved.spec.goal_size == 2
    names = ["flow", "qgf", "gcbc", "ifql"]
    quick = ["--episodes", "6", "--weights", "0.1", "--processes", "1", "--steps", "2"]
    cli.main(["evaluate", str(run), "--methods", *names, *quick, "--out", str(out)])
    printed = capsys.readouterr().out
    results = read(out)
    assert results.goals == 4
    shares = format_goals(results).splitlines()
    assert shares[0].split() == ["goal", "1", "2", "3", "4"]
    assert [line.split()[0] for line in shares[1:]] == names and "\n".join(shares) in printed
    (episodes,) = results.episodes["gcbc"]
    first = [e.success for e in episodes if e.number % 4 == 0]
    assert int(shares[3].split()[1]) == round(100 * np.mean(first))
    act = load_policy(run, method("qgf", weight=0.1, steps=2))
    obs = np.zeros(3, np.float32), np.ones(2, np.float32)
    assert act(obs, jax.random.key(0)).shape == (2, 2)


def test_goals_are_of_tasks_that_have_some(capsys, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(["train", "--env", "toy:make_array_task", "--goals", "--run-dir", str(tmp_path)])
    assert "`goals` needs a task that has goals, and `line` has none" in capsys.readouterr().err


def test_a_goal_is_a_state_unless_a_task_says_otherwise():
    assert Task("room", toy.Room, goals=4).hindsight == Hindsight()
    assert Task("room", toy.Room).hindsight is None


def test_ogbenchs_goal_conditioned_tasks_are_made_by_name():
    task = task_of("pointmaze-medium-navigate-v0")
    assert task.goals == 5 and task.paths and task.hindsight == Hindsight()
    env = task.make_env()
    goals = [env.reset(seed=0, options={"task_id": k})[0][1] for k in range(1, 6)]
    assert len({tuple(np.round(goal)) for goal in goals}) == 5
    (state, goal), *_, info = env.step(env.action_space.sample())
    assert env.observation_space.contains((state, goal)) and "success" in info
    np.testing.assert_array_equal(goal, goals[-1])
    with pytest.raises(DatasetError, match="`teapot-large-v0` is no task of OGBench"):
        task_of("teapot-large-v0")


def test_the_data_of_a_goal_conditioned_task_have_no_rewards(tmp_path):
    from qgf_eqx.data import collect

    collect("pointmaze-medium-navigate-v0", tmp_path, transitions=1000, progress=False)
    task = task_of("pointmaze-medium-navigate-v0")
    found = task.data(tmp_path)
    assert found.obs.shape[1] == 2 and not found.rewards.any() and not found.terminated.any()
    assert found.episode_end.sum() == len(found.obs) // 1001


def test_a_policy_in_memory_is_evaluated_with_goals():
    found = evaluate(to_the_goal, [method("flow")], range(4), task=toy.make_room(), progress=False)
    assert [e.success for e in found[0]] == [True] * 4
