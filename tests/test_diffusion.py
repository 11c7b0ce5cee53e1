"""A diffusion model as a flow, against Gaussians whose posterior is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import Diffusion, bounded, sample
from qgf_eqx.analytic import GaussianFlow

MEAN, STD = np.array([0.3, -0.5]), np.array([0.2, 1.5])
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def flow():
    return GaussianFlow(MEAN, STD)


def model(predicts):
    """The best prediction for data N(mean, std^2), and any step between two."""

    def predict(obs, x, k):
        share = jnp.interp(jnp.asarray(k, float), jnp.arange(1000.0), jnp.asarray(ABAR, float))
        signal, noise = jnp.sqrt(share), jnp.sqrt(1 - share)
        var = signal**2 * STD**2 + noise**2
        action = MEAN + signal * STD**2 / var * (x - signal * MEAN)
        eps = noise / var * (x - signal * MEAN)
        return {"noise": eps, "action": action, "v": signal * eps - noise * action}[predicts]

    return predict


@pytest.mark.parametrize("predicts", ["noise", "action", "v"])
@pytest.mark.parametrize("t", [0.02, 0.1, 0.4, 0.7, 0.9])
def test_the_velocity_is_the_flows(predicts, t, x64):
    a_t = jnp.array([0.7, -1.1])
    wanted = flow()(None, a_t, t)
    between = Diffusion(model(predicts), ABAR, (2,), predicts=predicts, whole=False)
    np.testing.assert_allclose(between(None, a_t, t), wanted, rtol=1e-3)
    whole = Diffusion(model(predicts), ABAR, (2,), predicts=predicts)
    np.testing.assert_allclose(whole(None, a_t, t), wanted, rtol=3e-2)


@pytest.mark.parametrize("predicts", ["noise", "action", "v"])
def test_at_both_ends_it_is_finite_and_near_the_flows(predicts, x64):
    policy = Diffusion(model(predicts), ABAR, (2,), predicts=predicts)
    for t, close in ((0.0, 0.05), (1.0, 0.15)):
        a_t = jnp.array([0.4, -0.9])
        np.testing.assert_allclose(policy(None, a_t, t), flow()(None, a_t, t), atol=close)


def test_sampled_and_guided_it_is_the_flow_of_the_same_data():
    critic = bounded(lambda obs, a: jnp.sum(a), -9.0, 9.0)
    policy = Diffusion(model("noise"), ABAR, (2,), whole=False)
    for weight in (0.0, 0.3):
        for key in jax.random.split(jax.random.key(0), 5):
            found, wanted = (
                sample(p, critic, None, key, weight=weight, steps=20) for p in (policy, flow())
            )
            np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_a_predicted_action_is_clipped():
    policy = Diffusion(lambda obs, x, k: 0 * x, ABAR, (2,), clip=1.0)
    a_t, t = jnp.array([0.1, -0.8]), 0.2
    size = np.sqrt(0.2**2 + 0.8**2)
    x = np.array([0.1, -0.8]) / size
    action = np.clip(x / (0.2 / size), -1, 1)  # the first is inside, the second beyond
    eps = (x - 0.2 / size * action) / (0.8 / size)
    np.testing.assert_allclose(policy(None, a_t, t), action - eps, rtol=1e-4)
    assert abs(action[0]) < 1 and action[1] == -1


def test_whole_steps_are_integers_and_the_cleanest_is_0():
    asked = []

    def see(obs, x, k):
        asked.append((int(k), jnp.asarray(k).dtype.kind))
        return x

    policy = Diffusion(see, ABAR, (2,))
    for t in (0.0, 1.0):
        policy(None, jnp.zeros(2), t)
    assert asked == [(999, "i"), (0, "i")]


class Given:
    def __call__(self, obs, x, k):
        return x

    def given(self, obs):
        return lambda _, x, k: x * obs


def test_what_is_given_once_is_handed_on():
    policy = Diffusion(Given(), ABAR, (2,)).given(3.0)
    assert policy.model(None, jnp.ones(()), 0) == 3.0 and policy.action_shape == (2,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alphas_bar": ABAR[::-1]}, "`alphas_bar` must be one number for each step"),
        ({"alphas_bar": [1.0, 0.5]}, "`alphas_bar` must be one number"),
        ({"alphas_bar": [0.9]}, "`alphas_bar` must be one number"),
        ({"alphas_bar": [0.9, 0.0], "predicts": "noise"}, "`alphas_bar` ends at 0"),
        ({"predicts": "score"}, "`predicts` must be one of noise, action, v, got 'score'"),
    ],
)
def test_what_is_no_schedule_is_named(wrong, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Diffusion(**{"model": model("v"), "alphas_bar": ABAR, "action_shape": (2,)} | wrong)
