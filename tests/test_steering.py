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
    _resample,
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 9.0}, r"`threshold` must be in \[0, 1\], got 9"),
        ({"threshold": -0.1}, r"`threshold` must be in \[0, 1\]"),
        ({"churn": jnp.nan}, r"`churn` must be in \[0, 1\]"),
        ({"temperature": 0.0}, r"`temperature` must be in \(0, inf\)"),
        ({"particles": 0}, "`particles` must be at least 1"),
    ],
)
def test_options_of_the_particles_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fk_steering(three_modes(), peak, None, jax.random.key(0), **options)


def test_particles_of_a_bare_policy_or_an_int_key_are_refused_by_name(unchecked):
    with pytest.raises(TypeError, match=r"`policy` has no `action_shape`.*`fk_steering`"):
        fk_steering(lambda o, a, t: -a, peak, None, jax.random.key(0))
    with pytest.raises(TypeError, match="`key` must be one key"):
        fk_steering(three_modes(), peak, None, 0)


def test_where_every_particle_is_worthless_one_of_known_value_is_drawn():
    policy = GaussianFlow(jnp.zeros(1), 1.0)
    critic = lambda o, a: jnp.where(a[0] < 0, jnp.nan, -jnp.inf) + 0 * a[0]  # noqa: E731
    draw = lambda key: fk_steering(policy, critic, None, key, particles=8, steps=4)  # noqa: E731
    found = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 64))
    assert np.mean(found >= 0) > 0.95  # all eight are negative once in 256


def test_a_mask_that_does_not_fit_the_chunk_is_refused(unchecked):
    policy = GaussianFlow(jnp.zeros((4, 2)), 1.0)
    inpainted = Inpainted(policy, jnp.zeros((4, 2)), jnp.ones((3, 1)))
    with pytest.raises(ValueError, match=r"`mask` has shape \(3, 1\)"):
        inpainted(None, jnp.zeros((4, 2)), 0.5)


def plain_ends(policy, key, particles, steps):
    """The plain flow from every particle's first noise, and the key of the last choice."""
    noise_key, _, pick_key = jax.random.split(key, 3)
    noises = jax.random.normal(noise_key, (particles, *policy.action_shape))
    end = lambda a: guided_flow(policy, peak, None, a, weight=0, steps=steps)  # noqa: E731
    return jax.vmap(end)(noises), pick_key


def test_below_the_threshold_nothing_is_resampled_and_the_weights_add_up_to_the_value(x64):
    """Without churn and resampling a particle is its plain flow, and its weight is exp(Q / T)."""
    policy, options = three_modes(), {"particles": 8, "steps": 5}
    walk = {"temperature": 2.0, "churn": 0.0, "threshold": 0.0}
    drawn = []
    for seed in range(8):
        key = jax.random.key(seed)
        found = fk_steering(policy, peak, None, key, **options, **walk)
        ends, pick_key = plain_ends(policy, key, **options)
        log_weight = jax.vmap(lambda a: peak(None, a) / 2.0)(ends)
        pick = jax.random.categorical(pick_key, log_weight)
        np.testing.assert_allclose(found, ends[pick], atol=1e-9)
        drawn.append(bool(pick == jnp.argmax(log_weight)))
    assert any(drawn) and not all(drawn)


def test_a_resampled_particle_takes_its_noise_along(x64):
    """Without churn every copy goes on along the plain flow of the particle it copies."""
    policy, options = three_modes(), {"particles": 8, "steps": 5}
    survivors = set()
    for seed in range(8):
        key = jax.random.key(seed)
        found = fk_steering(policy, peak, None, key, churn=0.0, threshold=1.0, **options)
        ends, _ = plain_ends(policy, key, **options)
        apart = np.abs(np.asarray(ends) - np.asarray(found))
        assert apart.min() < 1e-9
        survivors.add(int(apart.argmin()))
    assert len(survivors) > 2


def test_resampling_copies_a_particle_as_often_as_its_share_says_rounded(x64):
    """Systematic: drawn one by one, a particle of share 0.62 would be copied 3.1 times in the mean
    and not in every draw 3 or 4 times."""
    share = np.array([0.04, 0.62, 0.0, 0.13, 0.21])
    for seed in range(50):
        log_weight = jnp.log(jnp.asarray(share)) + 7.0
        chosen, after = _resample(jax.random.key(seed), log_weight, 1.0)
        copies = np.bincount(chosen, minlength=5)
        assert (np.floor(5 * share) <= copies).all() and (copies <= np.ceil(5 * share)).all()
        np.testing.assert_array_equal(after, np.zeros(5))


def test_churn_is_the_eta_of_ddim():
    """How much of its first noise a particle keeps, for a standard normal flow in three steps."""
    churn, kept = 0.9, 1.0
    for k in range(3):
        t, later = k / 3, (k + 1) / 3
        leap = t / ((1 - t) ** 2 + t**2)  # the Jacobian of the posterior mean
        full = (1 - later) * np.sqrt(1 - (t * (1 - later) / (later * (1 - t))) ** 2)
        noise = np.sqrt((1 - later) ** 2 - (churn * full) ** 2)
        kept *= later * leap + noise * (1 - t * leap) / (1 - t)

    @jax.jit
    @jax.vmap
    def first_and_last(key):
        policy, nothing = GaussianFlow(jnp.zeros(4), 1.0), lambda o, a: 0.0 * a[0]
        last = fk_steering(policy, nothing, None, key, particles=1, steps=3, churn=churn)
        return jax.random.normal(jax.random.split(key, 3)[0], (1, 4))[0], last

    first, last = first_and_last(jax.random.split(jax.random.key(0), 50_000))
    np.testing.assert_allclose(jnp.mean(first * last), kept, atol=0.006)  # 3 standard errors
