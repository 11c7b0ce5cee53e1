"""Tasks with goals: which episode has which, from training to the table."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from qgf_eqx import bounded, cli, film, plot, sample
from qgf_eqx.data import DatasetError
from qgf_eqx.data.goals import Hindsight
from qgf_eqx.evaluate import Task, evaluate, load_policy, method, task_of
from qgf_eqx.evaluate._rollout import rollout
from qgf_eqx.evaluate.names import label
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
    names = ["flow", "qgf", "gcbc", "ifql", "qgf-on-gcbc"]
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
    obs = np.zeros(3, np.float32), np.ones(2, np.float32)
    on = method("qgf-on-gcbc", weight=0.3, steps=2)
    assert (label(on.name), on.actor, on.weighted) == ("QGF on GCBC", "gcbc", True)
    drawn = load_policy(run, on)(obs, jax.random.key(0))
    critic = bounded(lambda obs, action: jnp.min(found.values(obs, action)))
    wanted = sample(found.policy_of("gcbc"), critic, obs, jax.random.key(0), weight=0.3, steps=2)
    np.testing.assert_allclose(drawn, wanted, rtol=1e-5, atol=1e-6)
    act = load_policy(run, method("qgf", weight=0.1, steps=2))
    with pytest.raises(ValueError, match=r"must be a tuple \(state, goal\)"):
        act(np.zeros(3, np.float32), jax.random.key(0))
    obs = np.zeros(3, np.float32), np.ones(2, np.float32)
    assert act(obs, jax.random.key(0)).shape == (2, 2)


def test_a_film_has_the_goals_of_the_episodes_and_shows_them(tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "film.webp"
    cli.main(["train", "--env", "toy:make_room", *SMALL, "--run-dir", str(run)])
    drawn = []
    captioned = film._captioned
    monkeypatch.setattr(film, "_captioned", lambda *a: drawn.append(a[3]) or captioned(*a))
    flow = method("flow", steps=2)
    found = film.film(run, [flow], [6, 7], out, progress=False)
    assert [goal[0, 0, 0] for goal in drawn] == [50 * 3, 50 * 4]
    assert found[0] == evaluate(str(run), [flow], [6, 7], processes=1, progress=False)[0]


def test_the_goal_is_in_the_corner_of_a_films_pictures():
    frames = [(i, np.zeros((240, 320, 3), np.uint8)) for i in range(2)]
    for picture in film._captioned(frames, "flow: success", True, np.full_like(frames[0][1], 200)):
        seen = np.asarray(picture)[film.STRIP :]
        assert (seen[60:80, 220:300] == 200).all() and not seen[100:200, 20:200].any()


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
    with pytest.raises(DatasetError, match="`teapot-large-v0` is not a task of OGBench"):
        task_of("teapot-large-v0")


@pytest.mark.parametrize(
    "kind, width",
    [
        ("pointmaze-medium-navigate", 2),
        ("antsoccer-arena-navigate", 2),
        ("cube-double-play", 6),
        ("scene-play", 7),
        ("puzzle-3x3-play", 9),
    ],
)
def test_an_oracle_goal_is_the_part_of_a_state_that_the_task_is_about(kind, width):
    task = task_of(f"{kind}-oraclerep-v0")
    assert task.data.args[1] == f"{kind}-v0"
    with closing(task.make_env()) as env:
        (state, goal), _ = env.reset(seed=0, options={"task_id": 3})
        assert goal.shape == (width,) and env.observation_space.contains((state, goal))
        for _ in range(5):
            (state, _), *_ = env.step(env.action_space.sample())
        inner = env.unwrapped
        ball = kind.startswith("antsoccer")
        place = inner.get_agent_ball_xy()[1] if ball else getattr(inner, "get_xy", lambda: None)()
        now = inner.compute_oracle_observation() if place is None else place
        np.testing.assert_allclose(task.hindsight.of(np.asarray(state)), now, atol=1e-7)
        np.testing.assert_allclose(task.hindsight.of(jnp.asarray(state)), now, atol=1e-6)


def test_the_oracle_goals_of_a_file_are_ogbenchs(tmp_path):
    from ogbench.relabel_utils import add_oracle_reps

    from qgf_eqx.data import collect

    collect("scene-play-v0", tmp_path, transitions=1000, progress=False)
    task = task_of("scene-play-oraclerep-v0")
    with closing(task.make_env()) as env, np.load(tmp_path / "scene-play-v0.npz") as file:
        theirs = dict(file)
        add_oracle_reps("scene-v0", env, theirs)
    ours = task.hindsight.of(np.asarray(task.data(tmp_path).obs))
    np.testing.assert_allclose(ours, theirs["oracle_reps"], atol=1e-6)
    assert len(np.unique(ours[:, 3:5])) == 2  # buttons are on, or off


def test_powderworld_has_no_oracle_goals():
    with pytest.raises(DatasetError, match="OGBench has no `oraclerep` for `powderworld-easy-v0`"):
        task_of("powderworld-easy-play-oraclerep-v0")


def test_the_data_of_a_goal_conditioned_task_have_no_rewards(tmp_path):
    from qgf_eqx.data import collect

    collect("pointmaze-medium-navigate-v0", tmp_path, transitions=1000, progress=False)
    task = task_of("pointmaze-medium-navigate-v0")
    found = task.data(tmp_path)
    assert found.obs.shape[1] == 2 and not found.rewards.any() and not found.terminated.any()
    assert found.episode_end.sum() == len(found.obs) // 1001


def test_a_picture_of_a_maze_says_how_many_episodes_succeeded(tmp_path, monkeypatch):
    titles, ways = [], [[(0.0, 0.0), (4.0, 4.0)], [(1.0, 0.0), (1.0, 1.0)]]
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, text: titles.append(text))
    with closing(task_of("pointmaze-medium-navigate-v0").make_env()) as env:
        paths, success = {"flow": ways, "qgf": ways}, {"flow": [False, True]}
        plot.maze_paths(env, paths, tmp_path / "maze.png", goals=[1, 2], success=success)
    assert titles == ["flow: 1 of 2 reach the goal", "QGF"]


def test_a_policy_in_memory_is_evaluated_with_goals():
    found = evaluate(to_the_goal, [method("flow")], range(4), task=toy.make_room(), progress=False)
    assert [e.success for e in found[0]] == [True] * 4
