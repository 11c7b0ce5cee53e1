import dataclasses
import re

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qgf_eqx import evaluate as module
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.evaluate import Episode, Method, difference, make_act, method, rollout, wilson


class Counter(gymnasium.Env):
    """Counts its steps; success once the summed actions reach a seeded threshold."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, limit=9, fault=None):
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,))
        self.limit, self.fault = limit, fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.sum = 0, 0.0
        self.threshold = self.np_random.uniform(2, 5) + np.random.uniform(0, 1)
        return np.array([self.sum, self.threshold]), {}

    def step(self, action):
        self.steps += 1
        self.sum += float(action[0])
        if self.fault == "raise" and self.steps == 4:
            raise RuntimeError("the simulator blew up")
        obs = np.array([self.sum, np.nan if self.fault == "nan" and self.steps == 4 else 1.0])
        success = self.sum >= self.threshold
        return obs, -1.0, success, self.steps >= self.limit, {"success": float(success)}


def full_speed(obs, numbers, count):
    return jnp.ones((len(obs), 3, 1))


def test_chunks_are_executed_until_success_or_the_limit():
    episodes = rollout([Counter(), Counter(limit=2)], full_speed, [0, 1], seed=0)
    assert episodes[0].success and 2 < episodes[0].length <= 6
    assert episodes[0].total_reward == -episodes[0].length
    assert (episodes[1].success, episodes[1].length) == (False, 2)


def test_all_randomness_of_an_episode_is_its_seed_and_number():
    together = rollout([Counter() for _ in range(3)], full_speed, [0, 1, 2], seed=0, record=True)
    alone = [rollout([Counter()], full_speed, [i], seed=0, record=True)[0] for i in (0, 1, 2)]
    assert together == alone
    assert len({tuple(e.path[0]) for e in together}) == 3
    other = rollout([Counter()], full_speed, [0], seed=1, record=True)[0]
    assert other.path[0] != together[0].path[0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("raise", "RuntimeError: the simulator blew up"), ("nan", "FloatingPointError: .* NaN")],
)
def test_an_environment_that_breaks_is_a_failure_and_reported(fault, message):
    episodes = rollout(
        [Counter(fault=fault, limit=99), Counter()],
        lambda o, n, c: 0.1 * full_speed(o, n, c),
        [0, 1],
        seed=0,
    )
    assert not episodes[0].success and episodes[0].length == (3 if fault == "raise" else 4)
    assert re.match(message, episodes[0].error)
    assert episodes[1].error == "" and episodes[1].length == 9 and not episodes[1].success


def test_the_noise_is_a_function_of_seed_episode_and_chunk_and_not_of_the_batch():
    policy = GaussianFlow(jnp.zeros((2, 1)), 0.5)
    act = make_act(policy, lambda o, a: jnp.sum(a), Method("flow"), seed=0)
    obs = jnp.zeros((3, 2))
    first = act(obs, jnp.array([4, 5, 6], jnp.uint32), 0)
    assert first.shape == (3, 2, 1) and len(np.unique(first)) == 6
    again = act(obs, jnp.array([6, 4, 5], jnp.uint32), 0)
    np.testing.assert_allclose(again, np.asarray(first)[[2, 0, 1]], rtol=1e-5)
    assert np.any(act(obs, jnp.array([4, 5, 6], jnp.uint32), 1) != first)
    other = make_act(policy, lambda o, a: jnp.sum(a), Method("flow"), seed=1)
    assert np.any(other(obs, jnp.array([4, 5, 6], jnp.uint32), 0) != first)


def test_actions_are_bounded_and_guidance_moves_them_up():
    policy = GaussianFlow(jnp.zeros((2, 1)), 0.5)
    obs, numbers = jnp.zeros((50, 2)), jnp.arange(50, dtype=jnp.uint32)
    means = []
    for m in (
        method("flow"),
        method("qgf", weight=0.5),
        method("qgf", weight=50.0),
        method("best-of-8"),
    ):
        actions = make_act(policy, lambda o, a: jnp.sum(a), m, seed=0)(obs, numbers, 0)
        assert np.abs(actions).max() <= 1
        means.append(float(actions.mean()))
    assert means[0] < means[1] < means[2] == 1 and means[3] > means[0] + 0.1


def test_methods_are_known_by_name():
    assert method("best-of-16").best_of == 16 and method("best-of-16").weight == 0
    assert method("qgf-jacobian", weight=0.2, steps=20) == Method(
        "qgf-jacobian", module.guidance.qgf_jacobian, 0.2, 1, 20
    )
    assert method("ood-best-of-4", weight=0.2) == Method(
        "ood-best-of-4", module.guidance.ood, 0.2, 4
    )
    assert method("flow-best-of-4", weight=0.2).weight == 0
    for bad in ("qfg", "best-of-0", "best-of-x", "", "qgf-best-of", "qgfbest-of-2", "-best-of-2"):
        with pytest.raises(ValueError, match="unknown method .*; known are flow, qgf, ood"):
            method(bad)


@pytest.mark.parametrize("name", ["qgf-chain", "bptt"])
def test_chain_estimators_follow_the_samplers_grid(name):
    policy = GaussianFlow(jnp.zeros((1, 1)), 0.5)
    obs, numbers = jnp.zeros((4, 2)), jnp.arange(4, dtype=jnp.uint32)
    m = method(name, weight=0.3, steps=1)
    leap = {"qgf-chain": "qgf", "bptt": "qgf-jacobian"}[name]
    critic = lambda o, a: -jnp.sum((a - 0.3) ** 2)  # noqa: E731
    long = make_act(policy, critic, m, seed=0)(obs, numbers, 0)
    short = make_act(policy, critic, method(leap, weight=0.3, steps=1), seed=0)(obs, numbers, 0)
    np.testing.assert_allclose(long, short, atol=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (3, 20), (50, 50)])
def test_the_wilson_interval_is_scipys(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(successes, n), (expected.low, expected.high), atol=1e-6)


def episodes(outcomes):
    return [Episode(i, bool(x), 1, 0.0) for i, x in enumerate(outcomes)]


def test_a_difference_is_paired_and_does_not_collapse():
    ours, theirs = episodes([1] * 50), episodes([0] * 50)
    mean, low, high = difference(ours, theirs)
    assert mean == 1 and 0.85 < low < 0.99 and high == 1
    mean, low, high = difference(ours, ours)
    assert mean == 0 and -0.08 < low < -0.01 and 0.01 < high < 0.08
    with pytest.raises(ValueError, match="not the same episodes"):
        difference(ours, [dataclasses.replace(e, number=e.number + 1) for e in ours])


def test_the_interval_of_a_difference_covers_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        _, low, high = difference(
            episodes(rng.uniform(size=60) < 0.6), episodes(rng.uniform(size=60) < 0.4)
        )
        covered += low <= 0.2 <= high
    assert 0.92 < covered / 400 <= 1
