import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import denoise, guided_flow, one_step
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.nn import VelocityMLP

FLOW = {"mean": np.array([0.3, -0.7]), "std": np.array([0.2, 0.9])}
POINT = np.array([0.9, -0.4])


def unasked(obs, action):
    raise AssertionError("the plain flow asked the critic")


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_one_step_reaches_the_posterior_mean(x64, t):
    flow = GaussianFlow(**FLOW)
    leap = one_step(flow, None, jnp.asarray(POINT), t)
    np.testing.assert_allclose(leap, flow.one_step(jnp.asarray(POINT), t), atol=1e-14)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 10, 40])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.55, 1.0])
def test_the_scan_equals_diffrax_euler(x64, t, steps, traced):
    flow = GaussianFlow(**FLOW)

    def both(t):
        a = jnp.asarray(POINT)
        solver = diffrax.Euler()
        return (
            denoise(flow, None, a, t, steps=steps),
            denoise(flow, None, a, t, steps=steps, solver=solver),
        )

    hand, borrowed = jax.jit(both)(t) if traced else both(t)
    np.testing.assert_allclose(hand, borrowed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 0.9])
def test_a_traced_time_changes_nothing(t):
    policy = VelocityMLP(0, (2,), width=16, depth=2, key=jax.random.key(0))
    a = jnp.asarray(POINT, jnp.float32)
    known = denoise(policy, None, a, t, steps=10)
    traced = jax.jit(lambda t: denoise(policy, None, a, t, steps=10))(t)
    np.testing.assert_allclose(known, traced, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 10, 20, 40, 160])
def test_in_float32_the_grid_has_as_many_steps_as_it_should(steps):
    flow = GaussianFlow(0.0, 1.0)
    for k in {0, 1, steps // 3, steps // 2, steps - 1} & set(range(steps)):
        jaxpr = jax.make_jaxpr(lambda a, t=k / steps: denoise(flow, None, a, t, steps=steps))(0.5)
        (scan,) = (e for e in jaxpr.eqns if e.primitive.name == "scan")
        assert scan.params["length"] == steps - k


def test_the_order_of_euler_is_one(x64):
    flow = GaussianFlow(**FLOW)
    exact = denoise(flow, None, jnp.asarray(POINT), 0.0, steps=100, solver=diffrax.Dopri8())
    np.testing.assert_allclose(exact, flow.ode(jnp.asarray(POINT), 0.0), atol=1e-12)
    counts = np.array([10, 20, 40, 80, 160])
    errors = [
        np.linalg.norm(denoise(flow, None, jnp.asarray(POINT), 0.0, steps=int(n)) - exact)
        for n in counts
    ]
    order = -np.polyfit(np.log(counts[1:]), np.log(errors[1:]), 1)[0]
    assert abs(order - 1) < 0.05


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_from_time_zero_it_is_the_plain_flow_bit_for_bit(steps):
    policy = VelocityMLP(0, (2,), width=16, depth=2, key=jax.random.key(0))
    noise = jnp.asarray(POINT, jnp.float32)
    plain = guided_flow(policy, unasked, None, noise, weight=0, steps=steps)
    np.testing.assert_array_equal(denoise(policy, None, noise, 0.0, steps=steps), plain)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "3", None])
def test_bad_steps_are_refused_by_name(unchecked, bad):
    with pytest.raises((TypeError, ValueError), match="`steps` must be"):
        denoise(GaussianFlow(**FLOW), None, jnp.zeros(2), 0.0, steps=bad)


def test_traced_steps_are_refused_by_name(unchecked):
    with pytest.raises(TypeError, match="`steps` is traced"):
        jax.jit(lambda n: denoise(GaussianFlow(**FLOW), None, jnp.zeros(2), 0.0, steps=n))(3)


@pytest.mark.parametrize("t", [0, 0.0, 0.3, 1.0])
def test_a_float32_action_stays_float32_under_x64(x64, t):
    noise = jnp.ones(2, jnp.float32)
    flow = GaussianFlow(jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32))
    assert denoise(flow, None, noise, t).dtype == jnp.float32
    traced = jax.vmap(lambda t: denoise(flow, None, noise, t))(jnp.array([0.0, 0.3]))
    assert traced.dtype == jnp.float32


def test_an_adjoint_without_a_solver_is_refused(unchecked):
    with pytest.raises(ValueError, match="`adjoint` says how a `solver`"):
        adjoint = diffrax.DirectAdjoint()
        denoise(GaussianFlow(**FLOW), None, jnp.zeros(2), 0.0, adjoint=adjoint)
