import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qgf_eqx import bounded, guidance, guided_flow, sample
from qgf_eqx.analytic import GaussianFlow, MixtureFlow
from qgf_eqx.steering import (
    ClassifierFree,
    Inpainted,
    fk_steering,
    grad_step,
    keep_best,
    prefix_mask,
)
from qgf_eqx.weights import Mask


def peak(_, action):
    return -jnp.sum((action - 3.0) ** 2)


def three_modes():
    return MixtureFlow(jnp.array([1.0, 3.0, 5.0]), 0.1)


def test_keeping_the_best_is_never_below_guidance_nor_below_the_flow():
    policy = three_modes()
    for estimate in (guidance.ood, guidance.qgf):  # the first is wrong here, the second right
        options = {"guidance": estimate, "weight": 1.0, "best_of": 2}

        @jax.jit
        @jax.vmap
        def values(key, options=options):
            guided = sample(policy, peak, None, key, **options)
            plain = sample(policy, peak, None, key, **{**options, "weight": 0})
            kept = keep_best(policy, peak, None, key, **options)
            return jnp.stack([peak(None, a) for a in (guided, plain, kept)])

        guided, plain, kept = np.asarray(values(jax.random.split(jax.random.key(0), 100))).T
        np.testing.assert_allclose(kept, np.maximum(guided, plain), atol=1e-5)
        assert np.mean(kept > guided + 0.5) > 0.3 or np.mean(kept > plain + 0.5) > 0.3


def test_grad_step_equals_the_recursion_in_numpy(x64):
    slope, bend = np.array([0.4, -1.0]), 0.6
    critic = bounded(lambda o, a: jnp.dot(a, slope) - bend / 2 * jnp.dot(a, a), -1.0, 0.4)
    a = start = np.array([0.2, -0.9])
    for _ in range(5):
        a = np.clip(a + 0.3 * (slope - bend * a), -1.0, 0.4)
    found = grad_step(critic, None, jnp.asarray(start), size=0.3, steps=5)
    np.testing.assert_allclose(found, a, atol=1e-14)


def test_grad_step_does_not_clip_what_has_no_bounds(x64):
    found = grad_step(lambda o, a: jnp.sum(a), None, jnp.array([0.9]), size=0.2, steps=2)
    np.testing.assert_allclose(found, [1.3])


def test_fk_steering_reaches_the_tilted_law():
    policy, temperature = three_modes(), 2.0
    critic = lambda o, a: 1.5 * a  # noqa: E731
    tilted = policy.tilted(jnp.array(1.5 / temperature))
    draw = lambda key: fk_steering(  # noqa: E731
        policy, critic, None, key, particles=64, temperature=temperature, steps=80
    )
    found = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)))
    masses = [np.mean(np.abs(found - m) < 1) for m in (1.0, 3.0, 5.0)]
    np.testing.assert_allclose(masses, tilted.weights, atol=0.03)
    truth = np.asarray(tilted.draw(jax.random.key(1), 100_000))
    assert stats.wasserstein_distance(found, truth) < 0.08
    plain = np.asarray(policy.draw(jax.random.key(2), 4000))
    assert stats.wasserstein_distance(plain, truth) > 0.8


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_the_walk_of_the_particles_has_the_flows_marginals(churn):
    policy = GaussianFlow(jnp.array([0.5, -1.0]), jnp.array([0.6, 0.3]))
    draw = lambda key: fk_steering(  # noqa: E731
        policy, lambda o, a: 0.0 * a[0], None, key, particles=1, steps=400, churn=churn
    )
    found = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 20_000)))
    np.testing.assert_allclose(found.mean(0), [0.5, -1.0], atol=0.02)
    np.testing.assert_allclose(np.cov(found.T), np.diag([0.36, 0.09]), atol=0.015)


def test_without_churn_one_particle_is_the_plain_flow(x64):
    policy = three_modes()
    key = jax.random.key(4)
    found = fk_steering(policy, peak, None, key, particles=1, churn=0.0, steps=7)
    noise = jax.random.normal(jax.random.split(key, 3)[0], (1,))[0]
    np.testing.assert_allclose(found, guided_flow(policy, peak, None, noise, weight=0, steps=7))


def test_fk_steering_resamples_only_what_has_value_and_keeps_bounds():
    policy = GaussianFlow(jnp.zeros(2), 3.0)
    critic = bounded(lambda o, a: jnp.where(a[0] > 0, jnp.nan, 0.0))
    draw = lambda key: fk_steering(policy, critic, None, key, particles=16)  # noqa: E731
    found = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 50)))
    assert (found[:, 0] <= 0).all() and (np.abs(found) <= 1).all()


class Conditioned:
    """A flow to N(condition, .5)."""

    action_shape = (2,)

    def __call__(self, obs, a_t, t):
        obs, condition = obs
        return GaussianFlow(jnp.ones(2) * condition * obs["sign"], 0.5)(None, a_t, t)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_classifier_free_guidance_mixes_the_two_velocities(x64, weight):
    obs, a_t, t = {"sign": jnp.array(-1.0)}, jnp.array([0.3, 0.1]), 0.4
    plain, better = (Conditioned()((obs, c), a_t, t) for c in (0.0, 1.0))
    found = ClassifierFree(Conditioned(), weight)(obs, a_t, t)
    np.testing.assert_allclose(found, plain + weight * (better - plain), atol=1e-14)


def test_classifier_free_guidance_is_a_policy():
    obs = {"sign": jnp.array(1.0)}
    keys = jax.random.split(jax.random.key(0), 500)
    policy = ClassifierFree(Conditioned(), 1.0)
    draw = lambda key: sample(policy, peak, obs, key, weight=0)  # noqa: E731
    np.testing.assert_allclose(jax.vmap(draw)(keys).mean(0), [1.0, 1.0], atol=0.1)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.97, 1.0])
def test_inpainting_equals_its_closed_form(x64, t):
    flow = GaussianFlow(jnp.full((3, 2), 0.2), 0.5)
    chunk, mask = jnp.arange(6.0).reshape(3, 2), jnp.array([[1.0], [0.5], [0.0]])
    a_t = jnp.linspace(-1, 1, 6).reshape(3, 2)
    odds = (t**2 + (1 - t) ** 2) / (t * (1 - t)) if 0 < t < 1 else np.inf
    pull = flow.one_step_jacobian(t) * mask * (chunk - flow.one_step(a_t, t))
    expected = flow(None, a_t, t) + min(odds, 5.0) * pull
    found = Inpainted(flow, chunk, mask)(None, a_t, t)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_inpainting_holds_the_prefix_while_the_critic_guides_the_rest():
    flow = GaussianFlow(jnp.zeros((4, 2)), 1.0)
    chunk = jnp.full((4, 2), 0.8)
    mask = prefix_mask(4, committed=2, executed=2)
    critic = lambda o, a: -jnp.sum((a + 1.0) ** 2)  # noqa: E731
    draw = jax.jit(
        jax.vmap(
            lambda key: sample(
                Inpainted(flow, chunk, mask), critic, None, key, weight=Mask(0.7, 1 - mask)
            )
        )
    )
    actions = np.asarray(draw(jax.random.split(jax.random.key(0), 200)))
    free = jax.vmap(lambda key: sample(flow, critic, None, key, weight=0.7))
    alone = np.asarray(free(jax.random.split(jax.random.key(0), 200)))
    assert np.abs(actions[:, :2] - 0.8).mean() < 0.2
    assert np.abs(alone[:, :2] - 0.8).mean() > 1.0
    np.testing.assert_allclose(actions[:, 2:], alone[:, 2:], atol=1e-5)


def test_the_soft_mask_by_hand():
    mask = np.asarray(prefix_mask(6, committed=2, executed=2))[:, 0]
    c = np.array([2, 1]) / 3
    np.testing.assert_allclose(mask, [1, 1, *(c * np.expm1(c) / np.expm1(1)), 0, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="horizon"):
        prefix_mask(6, committed=4, executed=3)
