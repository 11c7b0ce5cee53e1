import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_eqx
from qgf_eqx import action_gradient, bounded, critic, velocity


def square(_, action):
    return jnp.sum(action**2)


def test_bounded_clips_to_each_dimensions_bounds():
    q = bounded(square, low=jnp.array([-1.0, -0.5]), high=2.0)
    action = jnp.array([-3.0, -3.0])
    assert q(None, action) == 1 + 0.25
    np.testing.assert_array_equal(q.to_bounds(action), [-1.0, -0.5])
    np.testing.assert_array_equal(q.to_bounds(jnp.array([jnp.nan, 9.0])), [np.nan, 2.0])


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


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (0.0, 0.0), (jnp.array([0.0, 2.0]), 1.0)])
def test_bounds_the_wrong_way_round_are_refused(low, high):
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        bounded(lambda obs, a: jnp.sum(a), low, high)
