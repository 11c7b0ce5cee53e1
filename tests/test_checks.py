"""Every argument that could be broadcast, rounded or dropped in silence is refused by its name."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_eqx
from qgf_eqx import analysis, guidance, nn, objectives, steering, weights
from qgf_eqx.analytic import GaussianFlow, MixtureFlow

FLOW = GaussianFlow(jnp.array([0.5, -0.3]), jnp.array([0.4, 0.7]))
POINT, KEY = jnp.array([0.3, -1.4]), jax.random.key(0)
WIDE, TALL = jnp.ones(3), jnp.ones((4, 2))


def peak(obs, action):
    return -jnp.sum((action - 0.2) ** 2)


class Own:
    """A critic with a gradient of its own."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, obs, action):
        return peak(obs, action)

    def action_gradient(self, obs, action):
        return self.answer


def ask(estimator, critic=peak, t=0.3, **options):
    return estimator(FLOW, critic, None, POINT, t, **options)


def gated(**options):
    return ask(guidance.gated, **{"values": lambda o, a: a, **options})


def chosen(**options):
    kept = {"weights": [0.1], "budget": 1.0, "observations": jnp.ones((2, 1)), "key": KEY}
    return analysis.choose_weight(FLOW, peak, **{**kept, **options})


def loss(**options):
    kept = {"obs": None, "action": POINT, "key": KEY}
    return objectives.flow_matching(FLOW, **{**kept, **options})


def td(**options):
    return objectives.robust_critic(lambda o, a, t: peak(o, a), peak, None, POINT, KEY, **options)


def inpainted(chunk=POINT, mask=1.0, largest=5.0):
    return steering.Inpainted(lambda o, a, t: a, chunk, mask, largest)(None, POINT, 0.5)


def small(net, **options):
    return net(
        **{"obs_size": 2, "action_shape": (2,), "width": 4, "depth": 1, "key": KEY, **options}
    )


def ensemble(answer, size=2):
    return nn.Ensemble(lambda key: lambda o, a: answer, size, key=KEY)


NUMBER = "must be one number, got an array of shape"
REFUSED = {
    # What a critic, an ensemble or an inner estimator answers.
    "own scalar": (lambda: ask(guidance.qgf, Own(1.0)), "`critic.action_gradient` returned .* ()"),
    "own in steps": (lambda: steering.grad_step(Own(1.0), None, POINT), "`critic.action_gradient`"),
    "own bounded": (
        lambda: ask(guidance.ood_clipped, qgf_eqx.bounded(Own(WIDE))),
        "action_gradient",
    ),
    "own None": (
        lambda: ask(guidance.qgf_jacobian, Own(None)),
        "`critic.action_gradient` returned None",
    ),
    "own complex": (
        lambda: ask(guidance.bptt, Own(POINT.astype(complex))),
        "`critic.action_gradient` returned comp",
    ),
    "values scalar": (lambda: gated(values=peak), "`values` returned float32 of shape .*a vector"),
    "values matrix": (lambda: gated(values=lambda o, a: TALL), "`values` returned .* a vector"),
    "values none": (
        lambda: gated(values=lambda o, a: jnp.zeros(0)),
        "`values` returned .* a vector",
    ),
    "values integers": (
        lambda: gated(values=lambda o, a: jnp.arange(2)),
        "`values` returned int32",
    ),
    "values tuple": (lambda: gated(values=lambda o, a: (1.0, 2.0)), "`values` returned a tuple"),
    "values diagnosed": (
        lambda: analysis.diagnose(FLOW, peak, None, POINT, values=peak),
        "`values` returned .* a vector",
    ),
    "gated like": (lambda: gated(like=lambda *a: 1.0), "`like` returned an array of shape"),
    "random like": (
        lambda: ask(guidance.random_direction, key=KEY, like=lambda *a: 1.0),
        "`like` returned an array of shape",
    ),
    "diagnosed": (
        lambda: analysis.diagnose(FLOW, peak, None, POINT, guidance=lambda *a: None),
        "`guidance` returned None",
    ),
    "cosine": (
        lambda: analysis.gradient_cosine(
            FLOW, peak, None, POINT, 0.3, KEY, std=0.1, guidance=lambda *a: 1.0
        ),
        "`guidance` returned an array of shape",
    ),
    "robust": (
        lambda: ask(guidance.robust, robust_critic=lambda o, a, t: a),
        "`robust_critic` returned",
    ),
    "robust None": (
        lambda: ask(guidance.robust, robust_critic=None),
        "`robust_critic` must be cal",
    ),
    "members": (lambda: ensemble(POINT)(None, POINT), "`critic` returned an array of shape"),
    "least member": (
        lambda: qgf_eqx.action_gradient(nn.LeastMember(ensemble(POINT)), None, POINT),
        "`critic` returned an array of shape",
    ),
    "measure": (
        lambda: chosen(measure=lambda g, o, k: WIDE),
        "`measure` returned an array of shape",
    ),
    # Numbers and arrays that do not fit.
    "t": (lambda: ask(guidance.qgf, t=jnp.ones(2)), f"`t` {NUMBER}"),
    "t look ahead": (lambda: ask(guidance.look_ahead, t=jnp.ones(2)), f"`t` {NUMBER}"),
    "t chain": (lambda: ask(guidance.qgf_chain, t=jnp.ones(1)), f"`t` {NUMBER}"),
    "t curvature": (lambda: ask(guidance.curvature, t=jnp.ones(2)), f"`t` {NUMBER}"),
    "t complex": (lambda: ask(guidance.bptt, t=1j), "`t` must be real"),
    "t text": (lambda: ask(guidance.jacobian_ortho, t="x"), "`t` must be an array of numbers"),
    "dt": (
        lambda: qgf_eqx.guided_step(FLOW, peak, None, POINT, 0.3, jnp.ones(2)),
        f"`dt` {NUMBER}",
    ),
    "kappa": (lambda: gated(kappa=jnp.ones(2)), f"`kappa` {NUMBER}"),
    "std": (lambda: ask(guidance.monte_carlo, key=KEY, std=TALL), "`std` has shape .4, 2."),
    "std of t": (lambda: ask(guidance.monte_carlo, key=KEY, std=lambda t: WIDE), "`std` has shape"),
    "std smooth": (lambda: ask(guidance.jacobian_smooth, key=KEY, std=TALL), "`std` has shape"),
    "shrinkage": (lambda: ask(guidance.jacobian_regularized, shrinkage=TALL), "`shrinkage` has sh"),
    "temperature": (
        lambda: ask(guidance.curvature, temperature=jnp.ones(2)),
        f"`temperature` {NUMBER}",
    ),
    "temperature 0": (lambda: ask(guidance.monte_carlo, key=KEY, temperature=0.0), "in .0, inf"),
    "temperature fk": (
        lambda: steering.fk_steering(FLOW, peak, None, KEY, temperature=WIDE),
        f"`temperature` {NUMBER}",
    ),
    "temperature loss": (lambda: td(temperature=WIDE), f"`temperature` {NUMBER}"),
    "churn": (
        lambda: steering.fk_steering(FLOW, peak, None, KEY, churn=WIDE / 2),
        "`churn` must be one",
    ),
    "size": (lambda: steering.grad_step(peak, None, POINT, size=TALL), "`size` has shape"),
    "chunk": (lambda: inpainted(chunk=jnp.ones(1)), "`chunk` has shape .1,., but `a_t` has .2,"),
    "mask": (lambda: inpainted(mask=TALL), "`mask` has shape"),
    "largest": (lambda: inpainted(largest=TALL), f"`largest` {NUMBER}"),
    "classifier free": (
        lambda: steering.ClassifierFree(lambda o, a, t: a, TALL)(None, POINT, 0.3),
        "`weight` has shape",
    ),
    "inner weight": (
        lambda: ask(partial(qgf_eqx.guided_step, dt=0.1), weight=weights.ClipNorm(WIDE, 1.0)),
        "`weight` has shape",
    ),
    "rows": (lambda: steering.prefix_mask(3, 1.5, 0), "`committed` must be a Python int"),
    "expectile": (
        lambda: objectives.expectile_loss(jnp.ones(()), jnp.ones(3) / 2),
        f"`expectile` {NUMBER}",
    ),
    "time": (lambda: loss(time=lambda key: jnp.ones(1)), f"`time` {NUMBER}"),
    "share": (
        lambda: objectives.cfgrl(lambda o, a, t: a, 1.0, None, POINT, KEY, share=WIDE),
        f"`share` {NUMBER}",
    ),
    "rate": (lambda: objectives.polyak({"a": WIDE}, {"a": WIDE}, jnp.ones(3)), f"`rate` {NUMBER}"),
    "rate 2": (
        lambda: objectives.polyak({"a": WIDE}, {"a": WIDE}, 2),
        r"`rate` must be in \[0, 1",
    ),
    "rewards": (
        lambda: objectives.discounted_sum(jnp.ones((2, 2)), 0.9),
        "`rewards` must be a vector",
    ),
    "discount": (
        lambda: objectives.discounted_sum(jnp.ones(2), jnp.ones(2)),
        f"`discount` {NUMBER}",
    ),
    "mixture": (lambda: MixtureFlow(WIDE, 0.1, jnp.ones(1)), "`weights` has shape .1,"),
    "spreads": (lambda: MixtureFlow(WIDE, jnp.ones(2)), "`stds` has shape .2,"),
    # What is not numbers, or not enough of them.
    "action": (lambda: loss(action=jnp.arange(2)), "`action` must be an array of floats"),
    "best": (
        lambda: qgf_eqx.best(peak, None, jnp.zeros((0, 2))),
        "`actions` must have at least one",
    ),
    "critic": (
        lambda: qgf_eqx.critic(small(nn.CriticMLP), POINT, POINT.astype(complex)),
        "`action` must be real",
    ),
    "obs": (lambda: small(nn.CriticMLP)(POINT.astype(complex), POINT), "`obs` must be real"),
    "obs text": (
        lambda: small(nn.VelocityMLP)(["xyz", "uvw"], POINT, 0.3),
        "`obs` must be an array",
    ),
    "data": (
        lambda: analysis.nearest_distance(POINT, jnp.zeros((0, 2))),
        "`data` must have at least",
    ),
    "no batch": (lambda: chosen(observations=None), "`observations` must be a batch"),
    "empty batch": (
        lambda: chosen(observations=jnp.ones((0, 1))),
        "`observations` must be a batch",
    ),
    "start": (
        lambda: analysis.starting_weight(FLOW, peak, None, KEY),
        "`observations` must be a ba",
    ),
    "weights": (lambda: chosen(weights=0.1), "`weights` must be several weights"),
    "weights text": (lambda: chosen(weights=["x"]), "`weights` must be an array of numbers"),
    "budget": (lambda: chosen(budget="x"), "`budget` must be a number"),
    "obs_size": (lambda: small(nn.CriticMLP, obs_size=-1), "`obs_size` must be at least 0"),
    "width": (lambda: small(nn.VelocityMLP, width=2.0), "`width` must be a Python int"),
    "depth": (lambda: small(nn.TimedCriticMLP, depth=0), "`depth` must be at least 1"),
    "members none": (lambda: ensemble(1.0, size=0), "`size` must be at least 1"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_fit_is_refused_by_name(name, unchecked):
    call, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


DRAWS = {
    "monte_carlo": lambda key: ask(guidance.monte_carlo, key=key),
    "jacobian_smooth": lambda key: ask(guidance.jacobian_smooth, key=key),
    "random_direction": lambda key: ask(guidance.random_direction, key=key),
    "flow_matching": lambda key: loss(key=key),
    "gradient_cosine": lambda key: analysis.gradient_cosine(
        FLOW, peak, None, POINT, 0.3, key, std=0.1
    ),
    "choose_weight": lambda key: chosen(key=key),
    "starting_weight": lambda key: analysis.starting_weight(FLOW, peak, jnp.ones((2, 1)), key),
    "network": lambda key: small(nn.CriticMLP, key=key),
    "ensemble": lambda key: nn.Ensemble(lambda key: peak, 2, key=key),
    "sample": lambda key: qgf_eqx.sample(FLOW, peak, None, key, steps=1),
}


@pytest.mark.parametrize("name", list(DRAWS))
@pytest.mark.parametrize(
    "key",
    [None, 0, "k", jax.random.split(KEY), np.zeros(3, np.uint32), np.zeros((2, 2), np.uint32)],
)
def test_what_is_not_one_key_is_refused_wherever_something_is_drawn(name, key, unchecked):
    with pytest.raises((TypeError, ValueError), match="`key` (must be one key|is a batch of keys)"):
        DRAWS[name](key)


@pytest.mark.parametrize(
    "name", ["qgf", "qgf_jacobian", "bptt", "jacobian_ortho", "curvature", "zero"]
)
def test_a_point_may_be_a_list_or_of_numpy_for_every_estimator(name, unchecked):
    wanted = getattr(guidance, name)(FLOW, peak, None, POINT, 0.3)
    for point in (POINT.tolist(), np.asarray(POINT, np.float64)):
        found = getattr(guidance, name)(FLOW, peak, None, point, np.float64(0.3))
        assert isinstance(found, jax.Array) and found.dtype == jnp.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("t", [0.3, jnp.float32(0.3), np.float64(0.3)])
def test_time_of_another_precision_leaves_the_points_as_it_is(t, unchecked):
    point = jnp.zeros(2, jnp.bfloat16)
    policy = lambda o, a, t: jnp.ones_like(a) * t  # noqa: E731
    step = eqx.Partial(qgf_eqx.guided_step, dt=jnp.float32(0.1), weight=jnp.float32(0.2))
    draw = eqx.Partial(guidance.random_direction, key=KEY)
    for answer in (
        qgf_eqx.one_step(policy, None, point, t),
        qgf_eqx.denoise(policy, None, point, t),
        guidance.look_ahead(policy, peak, None, point, t),
        draw(policy, peak, None, point, t),
        step(policy, peak, None, point, t),
    ):
        assert answer.dtype == jnp.bfloat16


def test_a_moving_average_keeps_the_targets_precision():
    old, new = {"a": jnp.ones(2, jnp.bfloat16)}, {"a": jnp.zeros(2)}
    for rate in (0.25, jnp.float32(0.25)):
        found = objectives.polyak(old, new, rate)["a"]
        assert found.dtype == jnp.bfloat16 and np.all(found == 0.75)


def test_weights_to_choose_from_may_be_an_array():
    for grid in (np.array([0.1, 0.2]), jnp.array([0.1, 0.2])):
        np.testing.assert_allclose(chosen(weights=grid).weight, 0.2)


def test_what_is_not_given_of_a_chunk_may_be_nan():
    flow, mask = GaussianFlow(jnp.zeros((3, 2)), 0.5), jnp.array([[1.0], [0.5], [0.0]])
    chunk, point = jnp.ones((3, 2)), jnp.full((3, 2), 0.3)
    for t in (0.0, 0.5, 1.0):
        wanted = steering.Inpainted(flow, chunk, mask)(None, point, t)
        empty = steering.Inpainted(flow, chunk.at[2].set(jnp.nan), mask)
        np.testing.assert_array_equal(empty(None, point, t), wanted)
        slope = jax.grad(lambda a, t=t, p=empty: jnp.sum(p(None, a, t)))(point)
        assert np.isfinite(slope).all()


def test_diagnostics_of_what_is_not_guided_are_those_of_the_flow():
    broken = lambda o, a: a[0] + jnp.nan * a[1]  # noqa: E731
    mask = weights.Mask(0.1, jnp.array([1.0, 0.0]))
    found = analysis.diagnose(FLOW, broken, None, POINT, weight=mask, steps=2)
    assert np.isfinite(found.share).all() and np.isfinite(found.action).all()
