from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_eqx
from qgf_eqx import action_gradient, bounded, critic, velocity
from qgf_eqx._fields import straight_through_clip


def square(_, action):
    return jnp.sum(action**2)


def test_bounded_clips_to_each_dimensions_bounds():
    q = bounded(square, low=jnp.array([-1.0, -0.5]), high=2.0)
    action = jnp.array([-3.0, -3.0])
    assert q(None, action) == 1 + 0.25
    np.testing.assert_array_equal(q.to_bounds(action), [-1.0, -0.5])
    np.testing.assert_array_equal(q.to_bounds(jnp.array([jnp.nan, 9.0])), [np.nan, 2.0])


def test_bounds_are_not_rounded_to_whole_numbers_where_the_actions_are(unchecked):
    assert critic(bounded(square, -0.5, 2.5), None, jnp.array([1, -1])) == 1 + 0.25


def test_the_gradient_is_taken_at_the_clipped_point():
    q = bounded(square)
    np.testing.assert_array_equal(action_gradient(q, None, jnp.array([3.0, 0.5])), [2.0, 1.0])
    hard = bounded(square, clip=jnp.clip)
    np.testing.assert_array_equal(action_gradient(hard, None, jnp.array([3.0, 0.5])), [0.0, 1.0])


def test_bounds_are_not_trained():
    q = bounded(square, clip=jnp.clip)
    low, high = jax.grad(
        lambda bounds: bounded(square, *bounds, clip=jnp.clip)(None, jnp.array([3.0]))
    )((q.low, q.high))
    assert low == 0 and high == 0


def test_answers_are_cast_to_the_actions_dtype(x64):
    action = jnp.zeros(2, jnp.float32)
    assert velocity(lambda o, a, t: np.ones(2), None, action, 0.5).dtype == jnp.float32
    assert critic(lambda o, a: 3.0, None, action).dtype == jnp.float32


def test_wrong_shapes_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"`policy` returned a velocity of shape \(3,\)"):
        velocity(lambda o, a, t: jnp.zeros(3), None, jnp.zeros(2), 0.5)
    with pytest.raises(ValueError, match=r"`critic` returned an array of shape \(1,\)"):
        critic(lambda o, a: jnp.zeros(1), None, jnp.zeros(2))


def notes(error):
    return [n for n in error.value.__notes__ if "raised this when it was asked" in n]


def test_what_a_foreign_callable_raises_says_who_was_asked_and_with_what_shapes():
    policy = qgf_eqx.Flow(lambda obs, a_t, t: jnp.concatenate([obs["x"], a_t]), (2,))
    batch = {"x": jnp.zeros((8, 3))}
    for act in (qgf_eqx.sample, jax.jit(qgf_eqx.sample, static_argnums=(0, 1))):
        with pytest.raises(TypeError, match="concatenate") as error:
            act(policy, lambda obs, a: jnp.sum(a), batch, jax.random.key(0))
        (note,) = notes(error)
        assert note.startswith("`policy` raised this") and "{'x': (8, 3)}, a_t: (2,)" in note
        assert "jax.vmap" in note
    called = lambda a: jax.pure_callback(np.negative, a, a, vmap_method="broadcast_all")  # noqa: E731
    policy = qgf_eqx.Flow(lambda obs, a_t, t: called(a_t), (2,))
    options = {"guidance": qgf_eqx.guidance.qgf_jacobian}
    with pytest.raises(ValueError, match="do not support JVP") as error:
        qgf_eqx.sample(policy, lambda obs, a: jnp.sum(a), None, jax.random.key(0), **options)
    (note,) = notes(error)
    assert "`policy` raised" in note and "`qgf` and `ood` need none" in note
    with pytest.raises(KeyError) as error:
        qgf_eqx.critic(qgf_eqx.bounded(lambda obs, a: obs["y"]), batch, jnp.zeros(2))
    (note,) = notes(error)
    assert note.startswith("`critic` raised this") and "action: (2,)" in note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic": None}, "`critic` must be callable, got None"),
        ({"guidance": "qgf"}, "`guidance` must be a function, such as .*, got 'qgf'"),
        ({"weight": None}, "`weight` must be a number, an array or a function .*, got None"),
        ({"weight": "0.1"}, "`weight` must be a number, an array or a function .*, got '0.1'"),
    ],
)
def test_what_is_no_choice_is_refused_by_name(options, message, unchecked):
    given = {"critic": lambda obs, a: jnp.sum(a)} | options
    policy = qgf_eqx.Flow(lambda obs, a_t, t: -a_t, (2,))
    with pytest.raises(TypeError, match=message):
        qgf_eqx.sample(policy, given.pop("critic"), None, jax.random.key(0), **given)


@pytest.mark.parametrize("shape", [2, "2", (2.5, "a"), None])
def test_a_shape_of_actions_that_is_none_is_refused(shape):
    with pytest.raises(TypeError, match="`action_shape` must be a tuple of integers"):
        qgf_eqx.Flow(lambda obs, a_t, t: -a_t, shape)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, -1.0), (0.0, jnp.nan), (jnp.array([0.0, 2.0]), 1.0)]
)
def test_bounds_the_wrong_way_round_are_refused(low, high):
    with pytest.raises(ValueError, match="`low` must not be above `high`"):
        bounded(lambda obs, a: jnp.sum(a), low, high)


def test_bounds_that_fit_neither_each_other_nor_the_action_are_refused(unchecked):
    with pytest.raises(
        ValueError, match="`low` and `high` must be numbers, or arrays of one shape"
    ):
        bounded(square, jnp.zeros(2), jnp.ones(3))
    with pytest.raises(ValueError, match="`low` and `high` must be numbers"):
        bounded(square, "a", 1.0)
    for low, high, name in ((jnp.zeros(3), 1.0, "low"), (0.0, jnp.ones(3), "high")):
        critic = bounded(square, low, high)
        for ask in (critic, critic.action_gradient):
            with pytest.raises(ValueError, match=rf"`{name}` has shape \(3,\), which does not"):
                ask(None, jnp.zeros(2))


def test_a_locked_dimension_always_has_its_value():
    critic = bounded(square, jnp.array([-1.0, 0.3]), jnp.array([1.0, 0.3]))
    policy = qgf_eqx.Flow(lambda obs, a_t, t: -a_t, (2,))
    action = qgf_eqx.sample(policy, critic, None, jax.random.key(0))
    assert action[1] == np.float32(0.3)
    np.testing.assert_allclose(critic(None, jnp.array([0.5, 7.0])), 0.25 + 0.09)


@pytest.mark.parametrize("clip", [None, jnp.clip])
@pytest.mark.parametrize("point", [(0.5, -0.2), (3.0, 0.5), (3.0, -2.0)])
def test_the_derivative_of_the_gradient_is_that_of_the_field_inside_and_outside(x64, clip, point):
    def q(_, a):
        return jnp.sin(a[0]) * jnp.cos(2 * a[1]) + a[0] * a[1] ** 3

    critic = bounded(q) if clip is None else bounded(q, clip=clip)
    own = bounded(Own(q)) if clip is None else bounded(Own(q), clip=clip)
    point, step = jnp.array(point), 1e-5
    fields = {
        "own": lambda a: action_gradient(own, None, a),
        "the estimator's": lambda a: action_gradient(critic, None, a),
        "autodiff's": jax.grad(lambda a: critic(None, a)),
        "under jit and a scan": jax.jit(
            lambda a: jax.lax.scan(
                lambda c, _: (jax.grad(lambda b: critic(None, b))(a), 0), a, None, 1
            )[0]
        ),
    }
    for name, field in fields.items():
        differences = [
            (field(point + e) - field(point - e)) / (2 * step) for e in step * jnp.eye(2)
        ]
        for derivative in (jax.jacfwd(field), jax.jacrev(field)):
            found = derivative(point)
            np.testing.assert_allclose(found, np.array(differences).T, atol=1e-8, err_msg=name)
    outside = np.abs(np.asarray(point)) > 1
    assert np.all(np.asarray(jax.jacfwd(fields["own"])(point))[:, outside] == 0)


class Own(eqx.Module):
    """A critic with a gradient of its own."""

    q: Callable

    def __call__(self, obs, action):
        return self.q(obs, action)

    def action_gradient(self, obs, action):
        return jax.grad(lambda a: self.q(obs, a))(action)


@pytest.mark.parametrize("a_t", [jnp.array([1, 2]), jnp.array([True, False]), jnp.array([1j, 0j])])
def test_a_point_that_is_not_floats_is_refused_and_not_rounded(a_t, unchecked):
    policy, q = lambda o, a, t: jnp.zeros(a.shape), lambda o, a: jnp.zeros(())
    asks = [
        lambda: velocity(policy, None, a_t, 0.5),
        lambda: qgf_eqx.one_step(policy, None, a_t, 0.5),
        lambda: qgf_eqx.denoise(policy, None, a_t, 0.5),
        lambda: qgf_eqx.guided_step(policy, q, None, a_t, 0.5, 0.1),
        lambda: qgf_eqx.Guided(policy, q)(None, a_t, 0.5),
        lambda: qgf_eqx.guidance.qgf(policy, q, None, a_t, 0.5),
        lambda: qgf_eqx.guidance.qgf_jacobian(policy, q, None, a_t, 0.5),
        lambda: qgf_eqx.guidance.look_ahead(policy, q, None, a_t, 0.5),
        lambda: qgf_eqx.guidance.ood(policy, q, None, a_t, 0.5),
        lambda: qgf_eqx.guidance.bptt(policy, q, None, a_t, 0.5),
        lambda: qgf_eqx.steering.grad_step(q, None, a_t),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match="must be an array of floats, got"):
            ask()


def test_lists_and_float64_of_numpy_are_points_too(unchecked):
    policy = lambda o, a, t: 0.5 * a  # noqa: E731
    for a_t in (np.array([1.0, 2.0]), [1.0, 2.0]):
        np.testing.assert_allclose(qgf_eqx.one_step(policy, None, a_t, 0.5), [1.25, 2.5])


@pytest.mark.parametrize(
    ("policy", "q", "error", "message"),
    [
        (
            lambda o, a, t: (a, a),
            square,
            TypeError,
            "`policy` returned a tuple; it must be one array",
        ),
        (lambda o, a, t: {"v": a}, square, TypeError, "`policy` returned a dict"),
        (lambda o, a, t: None, square, TypeError, "`policy` returned None"),
        (lambda o, a, t: a.astype(complex), square, ValueError, "`policy` returned complex64"),
        (lambda o, a, t: a, lambda o, a: (a[0], 0), TypeError, "`critic` returned a tuple"),
        (lambda o, a, t: a, lambda o, a: [a[0]], TypeError, "`critic` returned a list"),
        (
            lambda o, a, t: a,
            lambda o, a: a[0].astype(complex),
            ValueError,
            "`critic` returned complex64",
        ),
    ],
)
def test_an_answer_that_is_not_one_array_is_refused(policy, q, error, message, unchecked):
    with pytest.raises(error, match=message):
        qgf_eqx.guided_step(policy, q, None, jnp.zeros(2), 0.5, 0.1)


@pytest.mark.parametrize("g", [(jnp.zeros(2), 0), None, [0.0, 0.0]])
def test_an_estimator_that_returns_something_else_is_refused(g, unchecked):
    policy = lambda o, a, t: a  # noqa: E731
    with pytest.raises(TypeError, match="`guidance` returned"):
        qgf_eqx.guided_step(policy, square, None, jnp.zeros(2), 0.5, 0.1, guidance=lambda *_: g)


def test_a_point_of_another_shape_than_the_policys_actions_is_refused(unchecked):
    policy = qgf_eqx.Flow(lambda o, a, t: -a, (2,))
    for ask in (velocity, qgf_eqx.one_step, qgf_eqx.denoise):
        with pytest.raises(
            ValueError, match=r"`a_t` has shape \(5, 2\), but `policy.action_shape`"
        ):
            ask(policy, None, jnp.zeros((5, 2)), 0.5)
    with pytest.raises(ValueError, match=r"`a_t` has shape \(5, 2\)"):
        qgf_eqx.guided_flow(policy, square, None, jnp.zeros((5, 2)))


def test_swapped_networks_are_told_so(unchecked):
    policy = qgf_eqx.nn.VelocityMLP(2, (3,), width=8, depth=1, key=jax.random.key(0))
    q = qgf_eqx.nn.CriticMLP(2, (3,), width=8, depth=1, key=jax.random.key(1))
    with pytest.raises(TypeError) as error:
        qgf_eqx.sample(q, policy, jnp.zeros(2), jax.random.key(0))
    (note,) = notes(error)
    assert "are the two swapped?" in note


def test_an_action_shape_with_a_negative_size_is_refused():
    for make in (
        lambda: qgf_eqx.Flow(lambda o, a, t: a, (2, -1)),
        lambda: qgf_eqx.nn.VelocityMLP(2, (-3,), key=jax.random.key(0)),
        lambda: qgf_eqx.nn.CriticMLP(2, (-3,), key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match="`action_shape` must not hold a negative size"):
            make()


def test_differentiating_through_the_clip_is_differentiating_at_the_clipped_point():
    """By `jax.grad` of the critic itself, which does not go through its `action_gradient`."""
    slopes = {}
    for clip in (straight_through_clip, jnp.clip):
        q = bounded(square, clip=clip)
        slopes[clip] = jax.grad(lambda a, q=q: q(None, a))(jnp.array([0.3, 5.0, -2.0]))
    np.testing.assert_allclose(slopes[straight_through_clip], [0.6, 2.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(slopes[jnp.clip], [0.6, 0.0, 0.0], rtol=1e-6)


def test_a_guided_policy_of_a_network_is_a_policy_at_one_observation_too():
    # Its network at one observation has no `action_shape`, which nobody needs by then.
    network = qgf_eqx.nn.VelocityMLP(2, (3,), width=8, depth=2, key=jax.random.key(0))
    critic = qgf_eqx.bounded(lambda obs, action: jnp.sum(action))
    obs, a_t = jnp.ones(2), jnp.ones(3)
    guided = qgf_eqx.Guided(network, critic, weight=0.1)
    found = qgf_eqx.denoise(guided, obs, a_t, 0.0, steps=3)
    expected = qgf_eqx.guided_flow(network, critic, obs, a_t, weight=0.1, steps=3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert jnp.isfinite(qgf_eqx.likelihood.log_prob(guided, obs, a_t, steps=2))
