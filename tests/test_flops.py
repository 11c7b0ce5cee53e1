import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import guidance, guided_flow, guided_solve, sample
from qgf_eqx.flops import count
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

KEY = jax.random.key(0)
OBS = jax.ShapeDtypeStruct((46,), np.float32)  # cube-triple, chunks of 5 actions
SHAPE = (5, 5)
NOISE = jax.ShapeDtypeStruct(SHAPE, np.float32)
T = 10


def nets(width):
    """Only shapes: nothing is computed."""
    policy = eqx.filter_eval_shape(lambda k: VelocityMLP(46, SHAPE, width=width, key=k), KEY)
    make = lambda k: CriticMLP(46, SHAPE, width=width, key=k)  # noqa: E731
    return policy, eqx.filter_eval_shape(lambda k: Ensemble(make, 2, key=k), KEY)


def by_hand(width):
    """Forward passes of the policy and of both critics, without the observation's share of their
    first layers; and those shares, which are computed once per action. Two operations per kernel
    entry; a backward pass to the action costs the same again."""
    policy = 2 * ((25 + 9) * width + 3 * width**2 + width * 25)
    critics = 2 * 2 * (25 * width + 3 * width**2 + width)
    return policy, critics, 2 * 46 * width, 2 * 2 * 46 * width


def of_sample(width, **options):
    policy, critic = nets(width)
    return count(lambda p, q, o, k: sample(p, q, o, k, **options), policy, critic, OBS, KEY)


def of_flow(width, **options):
    policy, critic = nets(width)
    flow = lambda p, q, o, a: guided_flow(p, q, o, a, **options)  # noqa: E731
    return count(flow, policy, critic, OBS, NOISE)


@pytest.mark.parametrize("width", [512, 1024])
def test_every_method_costs_its_formula_to_the_last_operation(width):
    p, c, p_obs, c_obs = by_hand(width)
    once = p_obs + c_obs
    remaining = T * (T + 1) // 2  # of the chains, over all steps
    look = lambda k, **more: eqx.Partial(guidance.look_ahead, steps=k, **more)  # noqa: E731
    assert of_sample(width, weight=0) == T * p + p_obs
    # The sampler's own velocity is also the leap's: it is computed once.
    assert of_sample(width, guidance=guidance.ood) == T * (p + 2 * c) + once
    assert of_sample(width, guidance=guidance.qgf) == T * (p + 2 * c) + once
    assert of_sample(width, guidance=guidance.qgf_jacobian) == T * (2 * p + 2 * c) + once
    for k in (2, 4):
        assert of_sample(width, guidance=look(k)) == T * ((1 + k) * p + 2 * c) + once
        jacobian = T * ((1 + 2 * k) * p + 2 * c) + once
        assert of_sample(width, guidance=look(k, jacobian=True)) == jacobian
    chain = {"unroll": True, "guidance": guidance.qgf_chain}
    assert of_flow(width, **chain) == T * (p + 2 * c) + remaining * p + once
    bptt = chain | {"guidance": guidance.bptt}
    assert of_flow(width, **bptt) == T * (p + 2 * c) + 2 * remaining * p + once
    # Scanned, the time is not known before, and each step pays for a whole chain.
    scanned = T * (p + 2 * c) + T * T * p + once
    assert of_flow(width, guidance=guidance.qgf_chain) == scanned
    for n in (4, 16):
        assert of_sample(width, weight=0, best_of=n) == n * (T * p + c) + once
        assert of_sample(width, best_of=n) == n * (T * (p + 2 * c) + c) + once


def test_the_networks_cost_what_the_paper_says_to_four_percent():
    """GFLOP per action, width 1024, with every first layer computed in every step."""
    paper = {"flow": 0.065, "qgf": 0.323, "qgf_jacobian": 0.388, "best of 4": 0.312}
    ours = {
        "flow": of_sample(1024, weight=0),
        "qgf": of_sample(1024),
        "qgf_jacobian": of_sample(1024, guidance=guidance.qgf_jacobian),
        "best of 4": of_sample(1024, weight=0, best_of=4),
    }
    for name, gflop in paper.items():
        assert 0.96 < ours[name] / 1e9 / gflop < 1.0


def test_the_other_estimators_cost_what_their_docstrings_say():
    p, c, p_obs, c_obs = by_hand(512)
    head = 2 * 512 * 25
    for estimate, extra in (
        (guidance.zero, -2 * c),
        (eqx.Partial(guidance.random_direction, key=KEY), 0),
        (eqx.Partial(guidance.jacobian_regularized, shrinkage=0.3), p),
        # The noisy leaps themselves are not needed, and all send the same gradient back.
        (eqx.Partial(guidance.jacobian_smooth, key=KEY, samples=8), 8 * 2 * p - (8 + 7) * head),
        (eqx.Partial(guidance.monte_carlo, key=KEY, samples=8), 7 * 2 * c),
        # A Hessian product needs no value: neither of its two passes goes through the last layer.
        # Conjugate gradients take 7 inner products of 25 numbers.
        (
            eqx.Partial(guidance.curvature, iterations=3),
            4 * p + 3 * 2 * (c - 2 * 2 * 512) + 7 * 2 * 25,
        ),
    ):
        found = of_flow(512, guidance=estimate, steps=1)
        # `curvature` asks at a time of its own in the first step, so it shares no forward pass.
        shared = p if getattr(estimate, "func", None) is guidance.curvature else 0
        once = p_obs + (c_obs if estimate is not guidance.zero else 0)
        assert found == p + 2 * c + extra + shared + once, estimate


def test_ten_steps_cost_ten_times_one_but_for_the_observations_share():
    _, _, p_obs, c_obs = by_hand(512)
    for options, once in (
        ({"weight": 0}, p_obs),
        ({}, p_obs + c_obs),
        ({"guidance": guidance.qgf_jacobian}, p_obs + c_obs),
    ):
        ten, one = (of_flow(512, steps=n, **options) for n in (10, 1))
        assert ten - once == 10 * (one - once)
        assert of_flow(512, unroll=True, **options) == ten


@pytest.mark.parametrize("name", ["flow", "qgf", "qgf_jacobian"])
def test_it_is_within_five_percent_of_xlas_count_of_an_unrolled_program(name):
    options = {"weight": 0} if name == "flow" else {"guidance": getattr(guidance, name)}
    arrays, static = eqx.partition(nets(512), lambda x: isinstance(x, jax.ShapeDtypeStruct))

    def act(unroll):
        def flow(arrays, obs, noise):
            policy, critic = eqx.combine(arrays, static)
            return guided_flow(policy, critic, obs, noise, steps=3, unroll=unroll, **options)

        return jax.jit(flow).lower(arrays, OBS, NOISE).compile().cost_analysis()["flops"]

    ours = of_flow(512, steps=3, **options)
    assert abs(act(unroll=True) / ours - 1) < 0.05
    assert act(unroll=False) < 0.45 * ours  # it counts the body of a scan once


def matmul(x, y):
    return x @ y


A, B = jnp.ones((3, 4)), jnp.ones((4, 5))
COST = 2 * 3 * 4 * 5


def test_products_scans_and_batches():
    assert count(matmul, A, B) == COST
    assert count(jax.jit(matmul), A, B) == COST
    assert count(jax.vmap(matmul), jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5))) == 7 * COST
    assert count(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), A, length=6)[0], jnp.ones((4, 4))) == 6 * 2 * 3 * 4 * 4  # fmt: skip
    assert count(lambda x: jnp.sin(x), A) == 0


def test_a_convolution_costs_its_multiply_adds():
    image, kernel = jnp.ones((2, 6, 10, 10)), jnp.ones((8, 3, 3, 3))
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", feature_group_count=2)  # noqa: E731
    assert count(conv, image, kernel) == 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)


def test_what_is_computed_twice_is_counted_once_through_calls_too():
    assert count(lambda x, y: x @ y + matmul(x, y), A, B) == COST
    assert count(lambda x, y: x @ y + jax.jit(matmul)(x, y), A, B) == COST
    assert count(lambda x, y: x @ y + (2 * x) @ y, A, B) == 2 * COST
    assert count(lambda x, y: jnp.sin(x @ y) + 3 * jnp.sin(x @ y), A, B) == COST
    constants = [np.ones((4, 5), np.float32), np.full((4, 5), 2, np.float32)]
    assert count(lambda x: x @ constants[0] + x @ constants[1], A) == 2 * COST


def test_what_nobody_uses_is_not_counted():
    assert count(lambda x, y: (x @ y, x)[1], A, B) == 0

    def scan(x, y):
        # Of two carries and an output only the first carry is used, and it needs the second.
        def step(carry, _):
            used, needed, idle = carry
            return (used + jnp.sum(needed), needed @ y, idle @ y @ y), needed @ y @ y @ y

        return jax.lax.scan(step, (jnp.zeros(()), x, x), length=3)

    square = jnp.ones((4, 4))
    one = 2 * 3 * 4 * 4
    assert count(lambda x, y: scan(x, y)[0][0], A, square) == 3 * one
    assert count(lambda x, y: scan(x, y)[0][2], A, square) == 3 * 2 * one
    assert count(lambda x, y: scan(x, y)[1], A, square) == 3 * 3 * one


def test_what_does_not_change_in_a_loop_is_counted_once_however_deep():
    square = jnp.ones((4, 4))
    one = 2 * 4**3

    def nested(x, fixed):
        def inner(c, _):
            return c @ (fixed @ fixed) + x @ x, None

        def outer(c, _):
            return jax.lax.scan(inner, c @ x, length=3)[0], None

        return jax.lax.scan(outer, x, length=5)[0]

    # In all the rounds c @ (...) and c @ x; once what depends on neither carry.
    assert count(nested, square, square) == (5 * 3 + 5 + 2) * one


def test_xla_takes_the_observations_share_out_of_the_loop():
    policy = VelocityMLP(46, SHAPE, width=32, key=KEY)
    flow = lambda p, o, a: guided_flow(p, lambda o, a: jnp.sum(a), o, a, weight=0)  # noqa: E731
    program = eqx.filter_jit(flow).lower(policy, jnp.ones(46), jnp.ones(SHAPE)).compile()
    main = program.compiled.as_text().split("ENTRY")[1]
    assert len(re.findall(r"= \S+ (?:dot|custom-call)\(", main)) == 1  # the others are in the loop


# Forward and backward passes of the policy in the body of the loop.
PASSES = {
    "ood": (1, 0),
    "qgf": (1, 0),
    "qgf_jacobian": (1, 1),
    "jacobian_regularized": (1, 1),
}


@pytest.mark.parametrize("name", list(PASSES))
def test_xla_runs_in_each_step_what_is_counted_and_no_more(name):
    policy = VelocityMLP(46, SHAPE, width=32, key=KEY)
    critic = lambda o, a: jnp.sum(jnp.sin(a))  # noqa: E731

    def flow(p, o, a):
        return guided_flow(p, critic, o, a, guidance=getattr(guidance, name), weight=0.1)

    program = eqx.filter_jit(flow).lower(policy, jnp.ones(46), jnp.ones(SHAPE)).compile()
    loop = program.compiled.as_text().split("ENTRY")[0]
    forward, backward = PASSES[name]
    assert len(re.findall(r"= \S+ (?:dot|custom-call)\(", loop)) == 5 * (forward + backward)


def test_the_dearest_branch_counts():
    branches = lambda x, y: jax.lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: (x @ y) @ (y.T @ y))  # noqa: E731
    assert count(branches, A, B) == COST + 2 * 5 * 4 * 5 + 2 * 3 * 5 * 5


def test_a_checkpointed_chain_costs_one_forward_and_one_backward_pass():
    weights = jnp.ones((4, 4))

    def loss(x):
        step = jax.checkpoint(
            lambda c, _: (jnp.tanh(c @ weights), None),
            policy=jax.checkpoint_policies.dots_saveable,
        )
        return jnp.sum(jax.lax.scan(step, x, length=5)[0])

    assert count(jax.grad(loss), A) == 5 * 2 * (2 * 3 * 4 * 4)


def test_what_cannot_be_counted_is_refused_by_name():
    def loop(x):
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c @ jnp.ones((4, 4)), x)

    with pytest.raises(ValueError, match="`while` cannot be counted"):
        count(loop, A)
    assert count(lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c + 1, x), A) == 0
    with pytest.raises(ValueError, match="`svd` cannot be counted"):
        count(jnp.linalg.svd, A)
    policy, critic = nets(512)
    solve = lambda p, q, o, a: guided_solve(p, q, o, a, solver=diffrax.Euler())  # noqa: E731
    with pytest.raises(ValueError, match="fixed length"):
        count(solve, policy, critic, OBS, NOISE)
