"""What breaks or is odd: NaN, weights that are none, environments that say what they must not."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from qgf_eqx import Flow
from qgf_eqx.evaluate import Goal, Return, Sampler, Task, evaluate, method
from qgf_eqx.evaluate.comparison import compare
from qgf_eqx.evaluate.results import read, write
from qgf_eqx.weights import LinearDecay, NormMatched

FLOW = Flow(lambda obs, a, t: (0.5 - a) / (1 - t), (1, 1))
PAIR = FLOW, lambda obs, action: jnp.sum(action)


def test_what_is_not_finite_is_not_blamed_on_the_environment():
    broken = lambda obs, action: jnp.nan * jnp.sum(action)  # noqa: E731
    options = {"task": "toy:make_task", "progress": False}
    ((episode,),) = evaluate((FLOW, broken), [method("qgf", weight=0.1)], [0], **options)
    assert "the method gave an action that is not finite" in episode.error


def test_a_policy_that_is_nan_is_not_the_best():
    broken = Flow(lambda obs, a, t: jnp.nan * a, (1, 1)), lambda obs, action: jnp.sum(action)
    options = {"episodes": 2, "tuning_episodes": 1, "weights": [0.3], "progress": False}
    found = compare([broken], ["flow"], task="toy:make_task", **options)  # with references
    assert found.row("flow").score.value == 0 and found.row("flow").errors == 2
    plain = Task("line", toy.Line, Return())
    with pytest.raises(ValueError, match="all episodes of all methods broke: .*not finite"):
        compare([broken], ["flow"], task=plain, **options)


def test_a_weight_that_a_file_cannot_hold_is_refused_before_it_is_played(unchecked):
    sampler = Sampler(name="mine", weight=NormMatched(0.2))
    with pytest.raises(ValueError, match="weight of `mine` must be a number or a `LinearDecay`"):
        compare([PAIR], [sampler], task="toy:make_task", episodes=1, progress=False)


@pytest.mark.parametrize(
    "weight", [np.nan, -np.inf, 1e39, True, "0.1", None, jnp.ones(2), LinearDecay(jnp.nan)]
)
def test_what_is_no_weight_is_refused_wherever_one_is_given(weight, unchecked):
    options = {"task": "toy:make_task", "episodes": 1, "progress": False}
    for give in (
        lambda: Sampler(weight=weight),
        lambda: method("qgf", weight=weight),
        lambda: compare([PAIR], ["qgf"], weights=[weight], **options),
        lambda: compare([PAIR], ["qgf"], decays=[weight], **options),
    ):
        with pytest.raises((TypeError, ValueError), match="must be .*number"):
            give()


def test_a_goal_is_true_or_false():
    act = lambda obs, numbers, count: jnp.zeros((len(numbers), 1, 1))  # noqa: E731
    play = partial(evaluate, act, [method("flow")], [0], progress=False)
    with pytest.raises(ValueError, match="what `goal` returns is 0.5, and must be true or false"):
        play(task=Task("far", toy.Line, Goal(lambda obs: 0.5)))
    ((episode,),) = play(task=Task("near", toy.Line, Goal(lambda obs: np.True_)))
    assert episode.success


def test_weights_of_arrays_are_written_and_read(tmp_path, unchecked):
    given = [np.float32(0.5), jnp.asarray(0.25), LinearDecay(jnp.asarray(0.5)), LinearDecay(1 / 3)]
    samplers = [Sampler(weight=w, name=f"w{i}") for i, w in enumerate(given)]
    options = {"task": "toy:make_task", "episodes": 2, "tuning_episodes": 2, "progress": False}
    found = compare([PAIR], samplers, **options)
    chosen = compare([PAIR], ["qgf"], weights=given[:2], decays=[0.5], **options)
    for comparison in (found, chosen):
        write(comparison, tmp_path / "r.json")
        assert read(tmp_path / "r.json").table == comparison.table
    assert [row.choice.weight for row in found.table] == [*given[:2], LinearDecay(0.5), given[3]]
    assert {row.weight for row in chosen.tuning} >= {0.5, 0.25, LinearDecay(0.5)}


def test_a_method_that_breaks_in_every_tuning_episode_is_in_the_table():
    broken = FLOW, lambda obs, action: jnp.nan * jnp.sum(action)
    options = {"episodes": 2, "tuning_episodes": 2, "weights": [0.1, 1.0], "progress": False}
    found = compare([broken], ["flow", "qgf"], task=Task("line", toy.Line, Return()), **options)
    assert found.row("qgf").errors == 2 and found.row("flow").errors == 0
    assert found.row("qgf").estimate.value <= found.row("flow").estimate.value
    with pytest.warns(RuntimeWarning, match="NaN at actions that `best-of-4` has chosen"):
        compare([broken], ["best-of-4"], task="toy:make_task", **options)


@pytest.mark.parametrize(
    ("reward", "success", "error", "message"),
    [
        (None, True, "", "the environment's reward must be one number, got None"),
        (np.array([1.0]), True, "", ""),
        (1.0, 0.5, ValueError, "`info..success..` is 0.5, and must be true or false"),
        (1.0, "yes", ValueError, "is 'yes', and must be true or false"),
        (1.0, np.True_, "", ""),
    ],
)
def test_what_an_environment_says_is_a_number_and_a_truth(reward, success, error, message):
    class Odd(toy.Line):
        def step(self, action):
            obs, _, _, truncated, _ = super().step(action)
            return obs, reward, True, truncated, {"success": success}

    task, act = Task("odd", Odd), lambda obs, numbers, count: jnp.zeros((len(numbers), 1, 1))
    options = {"task": task, "progress": False}
    if error:
        with pytest.raises(error, match=message):
            evaluate(act, [method("flow")], [0], **options)
        return
    ((episode,),) = evaluate(act, [method("flow")], [0], **options)
    assert message in episode.error and episode.success == (not message)
    assert episode.total_reward == (0.0 if message else 1.0)
