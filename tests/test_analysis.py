import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import Guided, analysis, bounded, guidance, guided_flow
from qgf_eqx.analysis import (
    Diagnostics,
    choose_weight,
    diagnose,
    flow_distance,
    flow_kl,
    gradient_cosine,
    nearest_distance,
    starting_weight,
    value_gain,
    warnings_of,
)
from qgf_eqx.analytic import GaussianFlow, MixtureFlow
from qgf_eqx.weights import ClipNorm, LinearDecay


def slope(obs, action):
    return 2.0 * action[0]


def test_diagnostics_by_hand(x64):
    flow = GaussianFlow(jnp.array([0.3, -0.2]), 0.5)
    noise = jnp.array([0.4, 1.0])
    found = diagnose(
        flow,
        bounded(slope, -0.25, 0.25),
        None,
        noise,
        weight=LinearDecay(0.3),
        steps=4,
        values=lambda o, a: jnp.stack([a[0], 3 * a[0]]),
    )
    a, plain = np.asarray(noise), np.asarray(noise)
    for k in range(4):
        t, v = k / 4, np.asarray(flow(None, jnp.asarray(a), k / 4))
        g, leap = np.array([2.0, 0.0]), a + (1 - t) * v
        push = 0.3 * (1 - t) * g
        np.testing.assert_allclose(found.t[k], t)
        np.testing.assert_allclose(found.share[k], np.linalg.norm(push) / np.linalg.norm(v))
        np.testing.assert_allclose(found.cosine[k], v[0] / np.linalg.norm(v))
        np.testing.assert_allclose(found.clipped[k], np.mean(np.abs(leap) > 0.25))
        np.testing.assert_allclose(found.spread[k], abs(np.clip(leap[0], -0.25, 0.25)))
        np.testing.assert_allclose(found.value[k], 2 * np.clip(leap[0], -0.25, 0.25))
        a, plain = a + (v + push) / 4, plain + np.asarray(flow(None, jnp.asarray(plain), t)) / 4
        np.testing.assert_allclose(found.distance[k], np.sqrt(np.mean((a - plain) ** 2)))
    np.testing.assert_allclose(found.action, a)
    np.testing.assert_allclose(found.plain, plain)


def test_the_diagnosed_action_is_the_guided_flows():
    flow, noise = MixtureFlow(jnp.array([1.0, 3.0, 5.0]), 0.1), jnp.array(0.3)
    critic = lambda o, a: -((a - 3.0) ** 2)  # noqa: E731
    for estimate in (guidance.qgf, guidance.ood):
        found = diagnose(flow, critic, None, noise, guidance=estimate, weight=1.0)
        expected = guided_flow(flow, critic, None, noise, guidance=estimate, weight=1.0)
        np.testing.assert_allclose(found.action, expected, rtol=1e-6)
        assert np.isnan(found.spread).all() and (found.clipped == 0).all()


def diagnosed(weight, critic=slope):
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    noises = jax.random.normal(jax.random.key(0), (1, 200, 2))
    one = lambda n: diagnose(flow, critic, None, n, weight=weight)  # noqa: E731
    return jax.vmap(jax.vmap(one))(noises)


@pytest.mark.parametrize(("weight", "said"), [(0.001, "too weak"), (0.1, None), (3.0, "strong")])
def test_the_warning_rule_says_too_weak_and_very_strong(weight, said):
    warnings = warnings_of(diagnosed(weight))
    assert warnings == [] if said is None else said in warnings[0]


def test_the_warning_rule_sees_bounds_and_broken_critics():
    assert (
        "outside the critic's bounds" in warnings_of(diagnosed(0.1, bounded(slope, -0.1, 0.1)))[-1]
    )
    assert "not finite" in warnings_of(diagnosed(0.1, lambda o, a: jnp.nan * a[0]))[0]
    with pytest.raises(ValueError, match="two leading axes"):
        warnings_of(diagnose(GaussianFlow(jnp.zeros(2), 0.5), slope, None, jnp.zeros(2)))


def test_an_old_name_still_works_and_says_the_new_one():
    with pytest.warns(DeprecationWarning, match="`analysis.judge` is now `analysis.warnings_of`"):
        assert analysis.judge is warnings_of
    with pytest.raises(AttributeError, match=r"'qgf_eqx.analysis' has no attribute 'judges'"):
        analysis.judges  # noqa: B018


@pytest.mark.parametrize("module", [False, True])
def test_the_strongest_weight_within_the_budget_is_chosen_in_one_trace(module):
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    traces = []

    def critic(obs, action):
        traces.append(0)
        return obs * slope(obs, action)

    grid = [0.05, 0.1, 0.2, 0.4]
    weights = [LinearDecay(w) for w in grid] if module else grid
    options = {"weights": weights, "key": jax.random.key(0)}
    observations = jnp.array([1.0, 2.0, 3.0])
    found = choose_weight(flow, critic, observations, budget=0.25, **options)
    assert np.all(np.diff(found.spent) > 0)
    assert found.spent[grid.index(getattr(found.weight, "start", found.weight))] <= 0.25
    best = weights.index(found.weight)
    assert best in (1, 2) and found.spent[best + 1] > 0.25
    assert found.error.shape == (4,) and (found.error > 0).all()
    assert len(traces) <= 2  # one trace of the gradient, whatever the weights
    assert choose_weight(flow, critic, observations, budget=0.0, **options).weight is None
    with pytest.raises(ValueError, match="weights"):
        choose_weight(flow, critic, observations, jax.random.key(0), weights=[], budget=1.0)


def spends(flow, critic, grid, **options):
    options = {"key": jax.random.key(0), "budget": 0.25, **options}
    return choose_weight(flow, critic, jnp.array([1.0, 2.0]), weights=grid, **options)


def scaled(obs, action):
    return obs * slope(obs, action)


def test_the_chosen_weight_does_not_depend_on_the_order():
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    grid = [0.05, 0.1, 0.2, 0.4, LinearDecay(0.15), LinearDecay(0.3)]
    found = spends(flow, scaled, grid)
    best = max((s, i) for i, s in enumerate(found.spent) if s <= 0.25)[1]
    assert found.weight == grid[best] and sum(found.spent <= 0.25) >= 2
    for order in ([5, 4, 3, 2, 1, 0], [2, 5, 0, 3, 1, 4]):
        again = spends(flow, scaled, [grid[i] for i in order])
        assert again.weight == found.weight
        np.testing.assert_allclose(again.spent, found.spent[order])


def test_of_weights_that_spend_the_same_the_smallest_is_chosen():
    still = lambda obs, a: 0.0 * a[0]  # noqa: E731
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    for grid in ([0.3, 0.1, 0.2], [0.1, 0.2, 0.3]):
        assert spends(flow, still, grid).weight == 0.1


def test_a_budget_is_spent_by_any_kind_of_weight_too():
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    grid = [lambda t, v, g: 0.1, lambda t, v, g: 0.05, ClipNorm(0.2, 10.0), 1]
    found = spends(flow, scaled, grid, budget=1e9)
    assert found.weight == 1 and found.spent[0] > found.spent[1]


@pytest.mark.parametrize(
    ("grid", "budget", "message"),
    [
        ([0.1, np.nan], 1.0, "`weights` must be finite, got nan"),
        ([0.1, np.inf], 1.0, "`weights` must be finite, got inf"),
        ([LinearDecay(np.nan)], 1.0, "`weights` must be finite"),
        ([0.1, 0.2, 0.1], 1.0, "`weights` has 0.1 twice"),
        ([LinearDecay(0.1), LinearDecay(0.1)], 1.0, "twice"),
        ([0.1], np.nan, r"`budget` must be in \[0, inf\]"),
        ([0.1], -1.0, r"`budget` must be in \[0, inf\]"),
    ],
)
def test_weights_and_budgets_that_cannot_be_are_refused(grid, budget, message):
    with pytest.raises(ValueError, match=message):
        spends(GaussianFlow(jnp.zeros(2), 0.5), scaled, grid, budget=budget)


@pytest.mark.parametrize("noises", [1, 0, -1])
def test_a_spread_needs_two_noises(noises):
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    with pytest.raises(ValueError, match="`noises` must be at least"):
        starting_weight(flow, slope, jnp.ones((3, 1)), jax.random.key(0), noises=noises)


def test_the_starting_weight_is_the_flows_spread_over_the_slope():
    flow, key = GaussianFlow(jnp.array([2.0, -1.0]), 0.5), jax.random.key(0)
    observations = jnp.array([[1.0, 3.0], [2.0, -1.0]])

    def linear(obs, action):
        return obs @ action  # its mean squared slope in a dimension is 15 / 4

    def found(critic, noises=2000):
        # Euler's ten steps widen or narrow a normal law a little: compare with the flow's own.
        return starting_weight(flow, critic, observations, key, noises=noises)

    ends = jax.vmap(lambda n: guided_flow(flow, linear, None, n, weight=0))
    spread = ends(jax.random.normal(key, (4000, 2))).std(0).mean()
    np.testing.assert_allclose(found(linear), spread / (15 / 4) ** 0.5, rtol=0.03)
    np.testing.assert_allclose(
        1000 * found(lambda obs, a: 1000 * linear(obs, a) + 7.0), found(linear), rtol=1e-5
    )


def test_the_measures_of_distance_by_closed_form():
    flow = GaussianFlow(jnp.zeros(1), 0.5)
    key = jax.random.key(0)
    constant = Guided(lambda o, a, t: 0.0 * a, slope, weight=0.1)  # moves by w g = .2
    constant = eqx.tree_at(lambda g: g.policy, constant, _Still())
    np.testing.assert_allclose(flow_distance(constant, None, key), 0.2, rtol=1e-5)
    np.testing.assert_allclose(flow_kl(Guided(flow, slope, weight=0), None, key), 0, atol=1e-3)
    assert flow_kl(Guided(flow, slope, weight=0.5), None, key) > 0.1
    strong = Guided(_Still(), bounded(slope), weight=50.0)  # at the bound, wherever it began
    noise = np.asarray(jax.random.normal(key, (16, 1)))
    expected = np.sqrt(np.mean((1 - np.clip(noise, -1, 1)) ** 2))
    np.testing.assert_allclose(flow_distance(strong, None, key), expected, rtol=1e-5)


def test_the_share_at_the_bounds_by_hand():
    actions = np.array([[-1.0, 0.3], [-0.995, 2.0], [0.98, 1.98], [0.0, 2.5]])
    share = analysis.share_at_bounds(actions, np.array([-1.0, 0.0]), np.array([1.0, 2.0]))
    assert share == 4 / 8  # -1, -.995, 2 and 2.5; 1.98 is a percent of the range away
    assert analysis.share_at_bounds(np.array([0.0, 1.0])) == 0.5
    with pytest.raises(ValueError, match="`actions` is empty"):
        analysis.share_at_bounds(np.zeros((0, 2)))
    open_ended, locked = np.array([-np.inf, 0.3]), np.array([np.inf, 0.3])
    assert analysis.share_at_bounds(np.array([[5.0, 0.3]]), open_ended, locked) == 0.5
    with pytest.raises(ValueError, match="`low` must not be above `high`"):
        analysis.share_at_bounds(actions, 1.0, 0.5)


def test_the_divergence_of_large_chunks_is_estimated():
    """Moved by `w g` in each of 70 dimensions, a Gaussian flow of deviation 1 differs by
    `70 (w g)^2 / 2`."""
    flow = GaussianFlow(jnp.zeros((7, 10)), 1.0)
    guided = Guided(flow, lambda obs, action: jnp.sum(action), weight=0.1)
    found = flow_kl(guided, None, jax.random.key(0), samples=64, steps=10)
    np.testing.assert_allclose(found, 70 * 0.1**2 / 2, rtol=0.35)


class _Still:
    action_shape = (1,)

    def __call__(self, obs, a_t, t):
        return 0.0 * a_t


def test_the_cosine_under_noise_by_closed_form(x64):
    flow, key, t = GaussianFlow(jnp.array([0.3, -0.2]), 0.5), jax.random.key(0), 0.4
    a_t = jnp.array([0.4, 1.0])
    critic = lambda o, a: -jnp.sum((a - 1.0) ** 2)  # noqa: E731
    noisy = a_t + 0.3 * jax.random.normal(key, (2,))
    g, other = (flow.one_step(a, t) - 1.0 for a in (a_t, noisy))
    expected = g @ other / (np.linalg.norm(g) * np.linalg.norm(other))
    found = gradient_cosine(flow, critic, None, a_t, t, key, std=0.3)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    still = gradient_cosine(flow, critic, None, a_t, t, key, std=0.0, guidance=guidance.bptt)
    np.testing.assert_allclose(still, 1.0)


def test_values_are_those_of_the_actions_by_both_critics(x64):
    flow = GaussianFlow(jnp.zeros((2, 1)), 0.5)
    critic = bounded(lambda o, a: o * jnp.sum(a))
    other = lambda o, a: -jnp.sum((a - 0.5) ** 2)  # noqa: E731
    noises = jax.random.normal(jax.random.key(0), (2, 3, 2, 1))
    data = jnp.array([[[0.0], [0.0]], [[1.0], [1.0]]])
    observations = jnp.array([1.0, -2.0])
    found = value_gain(flow, critic, other, observations, noises, data, weight=0.7, steps=4)
    for i, obs in enumerate(observations):
        for j in range(3):
            action = guided_flow(flow, critic, obs, noises[i, j], weight=0.7, steps=4)
            action = np.clip(action, -1, 1)
            np.testing.assert_allclose(found["critic"][i, j], obs * action.sum())
            np.testing.assert_allclose(found["judge"][i, j], -((action - 0.5) ** 2).sum())
            nearest = min(np.sqrt(((action - d) ** 2).mean()) for d in np.asarray(data))
            np.testing.assert_allclose(found["distance"][i, j], nearest)


def test_the_distance_to_data_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"`data\[0\]` has shape \(1,\), but `action` has \(3,\)"):
        nearest_distance(jnp.zeros(3), jnp.zeros((5, 1)))


def test_the_spread_is_taken_where_the_bounded_critic_is_asked():
    policy = GaussianFlow(jnp.full(1, 3.0), 0.1)  # its leaps end near 3
    values = lambda o, a: jnp.stack([a[0], 3 * a[0]])  # noqa: E731
    critic = bounded(lambda o, a: jnp.min(values(o, a)))
    found = diagnose(policy, critic, None, jnp.zeros(1), weight=0.1, values=values)
    np.testing.assert_allclose(found.spread, 1.0, rtol=1e-6)  # members 1 and 3


def test_cosines_and_shares_are_kept_for_gradients_of_any_size():
    policy = GaussianFlow(jnp.array([0.3, -0.7]), 0.5)
    for scale in (1e-25, 1.0, 1e25):
        critic = lambda o, a, scale=scale: scale * a[0]  # noqa: E731
        found = diagnose(policy, critic, None, jnp.array([0.2, 0.4]), weight=1 / scale)
        assert np.isfinite(found.cosine).all() and np.isfinite(found.share).all()
        assert np.all(np.abs(found.cosine) > 1e-3)


def test_the_error_of_a_weights_measure_is_that_of_the_mean():
    """A measure that is the observation itself: its spread over the root of the number."""
    observations = jnp.asarray(np.random.default_rng(0).normal(size=100), jnp.float32)
    found = choose_weight(
        GaussianFlow(jnp.zeros(2), 0.5),
        slope,
        observations,
        jax.random.key(0),
        weights=[1.0, 2.0],
        budget=9.0,
        measure=lambda guided, obs, key: guided.weight * obs,
    )
    np.testing.assert_allclose(
        found.spent, np.mean(np.asarray(observations)) * np.array([1, 2]), rtol=1e-4
    )
    standard = np.std(np.asarray(observations), ddof=1) / 10 * np.array([1, 2])
    np.testing.assert_allclose(found.error, standard, rtol=0.01)


def judged(moved, *, clipped=(0.0, 0.0)):
    """Two observations whose plain actions are far apart, each with a spread of 1 over its noises,
    and actions that are moved by a part of it."""
    shape = (2, 2, 2)  # observations, noises, steps
    plain = jnp.array([[9.0, 11.0], [-11.0, -9.0]])
    rest = {name: jnp.zeros(shape) for name in ("share", "cosine", "spread", "value", "distance")}
    steps = {"t": jnp.zeros(shape), "clipped": jnp.broadcast_to(jnp.asarray(clipped), shape)}
    return warnings_of(Diagnostics(**steps, **rest, action=plain + moved, plain=plain))


def test_the_limits_of_the_warnings_are_shares_of_the_spread_over_the_noises():
    assert "far too weak: actions move by 0.09" in judged(0.09)[0]
    assert judged(0.11) == [] and judged(0.99) == []
    assert "strong: actions move by 1.01" in judged(1.01)[0]


def test_only_what_is_clipped_in_the_end_is_warned_of():
    assert judged(0.5, clipped=(1.0, 0.2)) == []
    assert judged(0.5, clipped=(0.0, 0.3))[0].startswith("30% of the dimensions")
