"""Tasks of one's own: a dict as observation, other bounds, three ways to be judged."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Line, make_goal_task, make_task, near

from qgf_eqx import Flow, data, guidance
from qgf_eqx.data._environment import seed_everything
from qgf_eqx.evaluate import (
    Goal,
    References,
    Return,
    Sampler,
    Success,
    Task,
    evaluate,
    rollout,
    task_of,
)
from qgf_eqx.evaluate.names import method
from qgf_eqx.evaluate.task import dataset_of


def steps_to(goal_share):
    """Towards the goal, in chunks of two; the bounds are the environment's."""

    def act(obs, numbers, count):
        left = goal_share * (obs["goal"] - obs["place"])
        return jnp.stack([left, 0 * left], axis=1)

    return act


POLICY = Flow(lambda obs, a_t, t: -a_t, action_shape=(2, 1))


def towards(obs, action):
    """A critic that wants the point at the goal after its chunk."""
    return -jnp.sum((obs["goal"] - obs["place"] - jnp.sum(action, axis=0)) ** 2)


def test_an_episode_is_judged_by_a_goal_or_its_return_and_actions_are_clipped_to_the_bounds():
    (there,) = rollout([Line()], steps_to(1.0), [0], seed=0, outcome=Goal(near))
    assert there.success and there.length == 6 and not there.error
    (away,) = rollout([Line()], steps_to(-1.0), [0], seed=0, outcome=Goal(near))
    assert not away.success and away.total_reward < there.total_reward
    (by_return,) = rollout([Line()], steps_to(1.0), [0], seed=0, outcome=Return())
    assert by_return.total_reward == there.total_reward and not by_return.success


def test_a_single_action_is_a_chunk_of_one():
    (chunked,) = rollout(
        [Line()], lambda o, n, c: jnp.ones((1, 1, 1)), [0], seed=0, outcome=Return()
    )
    (single,) = rollout([Line()], lambda o, n, c: jnp.ones((1, 1)), [0], seed=0, outcome=Return())
    assert chunked == single
    for wrong in ((1, 2), (1, 1, 1, 1), (1, 0, 1)):
        with pytest.raises(ValueError, match="the policy makes actions of shape"):
            rollout([Line()], lambda o, n, c, w=wrong: jnp.ones(w), [0], seed=0, outcome=Return())


def test_an_environment_that_breaks_at_its_reset_takes_the_place_of_no_other():
    class Broken(Line):
        def reset(self, **options):
            raise RuntimeError("no")

    act, options = steps_to(1.0), {"seed": 0, "outcome": Goal(near)}
    broken, whole = rollout([Broken(), Line()], act, [0, 1], **options)
    assert broken.error == "RuntimeError: no" and broken.length == 0
    assert whole == rollout([Line()], act, [1], **options)[0]
    assert rollout([Broken()], act, [0], **options)[0].error


@pytest.mark.parametrize("source", [(POLICY, towards), steps_to(1.0)])
def test_a_policy_and_critic_or_an_act_function_are_evaluated_without_a_run(source):
    samplers = [method("flow", steps=2), method("qgf", weight=0.5, steps=2)]
    flow, guided = evaluate(source, samplers, range(3), task=make_task(), progress=False)
    assert [e.number for e in flow] == [0, 1, 2]
    returns = [np.mean([e.total_reward for e in es]) for es in (flow, guided)]
    assert returns[1] > returns[0] + 2 if isinstance(source, tuple) else returns[1] == returns[0]
    (named,) = evaluate(source, samplers[:1], range(3), task="toy:make_task", progress=False)
    assert named == flow
    with pytest.raises(ValueError, match="`task` is missing"):
        evaluate(source, samplers, range(3))


def test_a_missing_outcome_is_an_error_before_the_first_episode():
    seen = []

    def act(obs, numbers, count):
        seen.append(count)
        return jnp.zeros((len(numbers), 1, 1))

    task = Task("line", Line)  # by `info["success"]`, which it does not report
    with pytest.raises(ValueError, match=r'Line.*does not report `info\["success"\]`.*`Goal`'):
        evaluate(act, [Sampler()], range(2), task=task, progress=False)
    assert not seen


class Made(Line):
    """As MetaWorld's: what `reset` draws depends on how the environment was made, and no more."""

    made = 0

    def __init__(self, seed=7, **options):
        super().__init__(**options)
        self.drawn = np.random.default_rng(seed)
        Made.made += 1

    def reset(self, *, seed=None, options=None):
        super().reset()
        self.goal = float(self.drawn.uniform(3, 5))
        return self._seen(), {}


def starts(task, count):
    seen = []

    def act(obs, numbers, chunk):
        seen.extend(np.ravel(obs["goal"]).tolist() if chunk == 0 else [])
        return jnp.zeros((len(numbers), 1, 1))

    evaluate(act, [Sampler()], range(count), task=task, progress=False)
    return seen


def test_two_episodes_start_in_two_states_whatever_the_environments_seed_is():
    assert len(set(starts(make_task(), 12))) == 12
    fresh = Task("made", Made, Return(), new_env_each_episode=True)
    found = starts(fresh, 12)
    assert len(set(found)) == 12 and starts(fresh, 12) == found


def test_a_task_that_needs_a_new_environment_each_episode_and_does_not_say_so_is_warned_of():
    with pytest.warns(RuntimeWarning, match="start in one state.*`new_env_each_episode"):
        starts(Task("made", Made, Return()), 12)


FAMILIES = ["pointmaze-medium-navigate-singletask-v0", "antmaze-medium-navigate-singletask-v0"]
FAMILIES += ["cube-single-play-singletask-v0", "scene-play-singletask-v0"]
FAMILIES += ["puzzle-3x3-play-singletask-v0"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_start_states_of_ogbenchs_families_differ(name):
    made = [task_of(name).make_env() for _ in range(2)]
    of = lambda env, n: env.reset(seed=seed_everything(env, 0, n))[0].tolist()  # noqa: E731
    first, second = of(made[0], 0), of(made[1], 1)
    assert first != second and of(made[1], 0) == first
    for env in made:
        env.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere:make_task", "there is no module `nowhere`"),
        ("toy:nothing", "the module `toy` has no `nothing`"),
        (":x", "must read `package.module:make_task`"),
        ("cube-single", "`cube-single` is not a task of OGBench. Use a name like"),
    ],
)
def test_a_name_that_is_no_task_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        task_of(text)
    with pytest.raises(TypeError, match=r"`toy:near` must|missing 1 required"):
        task_of("toy:near")


def test_a_task_says_what_is_wrong_with_it():
    with pytest.raises(ValueError, match="`name` must be"):
        Task("a b", Line)
    with pytest.raises(ValueError, match="`references` must be finite"):
        Return(References(1.0, 1.0))
    assert task_of("toy:make_goal_task") == make_goal_task()
    assert make_task().by_return and not Task("line", Line, Success()).by_return


def test_options_by_a_partial_are_evaluated():
    """Such a sampler cannot be hashed; a partial of a partial gets the sampler's steps too."""
    for partial in (eqx.Partial, functools.partial, jax.tree_util.Partial):
        look = Sampler(partial(guidance.look_ahead, steps=2), 0.5, name="look", steps=2)
        options = {"task": make_task(), "progress": False}
        (found,) = evaluate((POLICY, towards), [look], range(2), **options)
        named = method("look-ahead-2", weight=0.5, steps=2)
        assert found == evaluate((POLICY, towards), [named], range(2), **options)[0]
    nested = Sampler(eqx.Partial(eqx.Partial(guidance.qgf_chain)), steps=7).guidance
    assert nested.func.keywords["steps"] == 7
    kept = Sampler(eqx.Partial(eqx.Partial(guidance.qgf_chain, steps=3)), steps=7).guidance
    assert kept.func.keywords["steps"] == 3


def test_paths_are_of_rows_of_numbers_and_a_dict_is_said_before_the_first_episode():
    with pytest.raises(ValueError, match="`record` keeps the first two numbers"):
        rollout([Line()], steps_to(1.0), [0], seed=0, outcome=Goal(near), record=True)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("raise ValueError('the config is missing')", ValueError, "^the config is missing"),
        ("import json\njson.nothing", AttributeError, "nothing"),
        ("import no_such_module", ModuleNotFoundError, "no_such_module"),
        ("x = 1", ValueError, "has no `make_task`"),
    ],
)
def test_what_a_tasks_own_module_raises_is_not_hidden(tmp_path, monkeypatch, text, kind, message):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"mine_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(kind, match=message):
        task_of(f"{name}:make_task")


def test_the_validation_data_of_a_file_are_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "open_dataset", lambda source, **_: (source, ""))
    task = Task("line", print, data="line.npz")
    for split, name in (("train", "line"), ("val", "line")):
        assert dataset_of(task, tmp_path, split=split) == tmp_path / f"{name}.npz"
    for name in ("line", "line-val"):
        (tmp_path / f"{name}.npz").touch()
    assert dataset_of(task, tmp_path) == tmp_path / "line.npz"
    assert dataset_of(task, tmp_path, split="val") == tmp_path / "line-val.npz"
    here = Task("line", print, data=str(tmp_path / "line.npz"))
    assert dataset_of(here, "elsewhere", split="val") == tmp_path / "line-val.npz"
    assert (
        dataset_of(Task("line", print, data="D4RL/pen/human-v2"), tmp_path) == "D4RL/pen/human-v2"
    )
    with pytest.raises(ValueError, match="`split` must be `train` or `val`, got 'vall'"):
        dataset_of(task, tmp_path, split="vall")
    given = Task("line", print, data=lambda **options: options)
    assert dataset_of(given, tmp_path)["split"] == "train"
