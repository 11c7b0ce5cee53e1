import functools
import re

import diffrax
import equinox as eqx
import jax
import jax.experimental.pallas
import jax.experimental.sparse
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


@functools.cache
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


def test_every_method_costs_its_formula_to_the_last_operation():
    width = 512
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


def pairs(n, window, stride, padding, between, apart):
    """The multiplications of one channel, one by one: input and kernel entries that meet."""
    spread = [None] * ((n - 1) * between + 1)
    spread[::between] = ["entry"] * n
    low, high = padding
    spread = [None] * low + spread[max(-low, 0) : len(spread) + min(high, 0)] + [None] * high
    reach = (window - 1) * apart + 1
    starts = range(0, len(spread) - reach + 1, stride)
    return sum(spread[o + k * apart] is not None for o in starts for k in range(window))


def test_a_convolution_multiplies_no_zeros_of_its_padding_and_dilations():
    draw = np.random.default_rng(0)
    of = lambda low, high: [int(i) for i in draw.integers(low, high, 2)]  # noqa: E731
    for trial in range(60):
        sizes, windows, strides = of(4, 8), of(1, 4), of(1, 4)
        between, apart, padding = of(1, 4), of(1, 3), [tuple(of(-1, 4)) for _ in "xy"]
        groups, batches = [(1, 1), (2, 1), (1, 2)][trial % 3]
        image, kernel = jnp.ones((4, *sizes, 2)), jnp.ones((6, 2 // groups, *windows))
        options = {"feature_group_count": groups, "batch_group_count": batches}
        options |= {"lhs_dilation": between, "rhs_dilation": apart}
        conv = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
            x, k, strides, padding, dimension_numbers=("NHWC", "OIHW", "CNHW"), **options
        )
        places = zip(sizes, windows, strides, padding, between, apart, strict=True)
        products = 4 // batches * 6 * 2 // groups * np.prod([pairs(*place) for place in places])
        assert count(conv, image, kernel) == 2 * products, (trial, options)
        if trial < 6 and products:  # as XLA counts them
            found = jax.jit(conv).lower(image, kernel).cost_analysis()["flops"]
            assert found == 2 * products


def test_a_transposed_convolution_costs_what_the_convolution_costs():
    layer = eqx.nn.ConvTranspose2d(3, 8, 2, stride=2, key=KEY)
    image = jnp.ones((3, 5, 5))
    assert count(layer, image) == 2 * 8 * 3 * (2 * 5) ** 2
    forward = eqx.nn.Conv2d(3, 8, 3, padding=1, key=KEY)
    both = count(lambda x: jax.vjp(forward, x)[1](jnp.ones((8, 5, 5))), image)
    assert both == count(forward, image)  # to the image only: the values are not needed


def test_a_complex_multiply_add_is_eight_operations():
    a, b = A.astype(complex), B.astype(complex)
    mixed = lambda x, y: jax.lax.dot_general(x, y, (((1,), (0,)), ((), ())))  # noqa: E731
    assert count(matmul, a, b) == count(mixed, A, b) == count(mixed, a, B) == 4 * COST
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1,), "VALID")  # noqa: E731
    image, kernel = jnp.ones((1, 2, 8)), jnp.ones((3, 2, 3))
    assert count(conv, image.astype(complex), kernel.astype(complex)) == 4 * count(
        conv, image, kernel
    )


def test_what_is_computed_twice_is_counted_once_through_calls_too():
    assert count(lambda x, y: x @ y + matmul(x, y), A, B) == COST
    assert count(lambda x, y: x @ y + jax.jit(matmul)(x, y), A, B) == COST
    assert count(lambda x, y: x @ y + (2 * x) @ y, A, B) == 2 * COST
    assert count(lambda x, y: jnp.sin(x @ y) + 3 * jnp.sin(x @ y), A, B) == COST
    # Equal numbers of two types are two things.
    half = lambda: jnp.ones((3, 4), jnp.bfloat16) @ B.astype(jnp.bfloat16)  # noqa: E731
    assert count(lambda: (half(), jnp.ones((3, 4)) @ B)) == 2 * COST
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


def test_what_nobody_uses_of_a_branch_is_not_counted():
    square, one = jnp.ones((4, 4)), 2 * 4**3

    def branches(x, y):
        yes = lambda x, y: (x @ y, x + y, y)  # noqa: E731
        no = lambda x, y: (x, x - y, jax.lax.cond(y[0, 0] > 0, yes, yes, x, x @ x)[0])  # noqa: E731
        return jax.lax.cond(x[0, 0] > 0, yes, no, x @ x @ x, y @ y)

    # Two products for the first operand, one for the second, and what is inside.
    for used, products in ((0, 2 + 1 + 1), (1, 3), (2, 2 + 1 + 2)):
        assert count(lambda x, y: branches(x, y)[used], square, square) == products * one
        assert count(jax.jit(lambda x, y: branches(x, y)[used]), square, square) == products * one
    assert count(lambda x, y: (branches(x, y), x)[1], square, square) == 0

    def step(carry, _):
        x, y, idle = carry
        new = branches(x, y)
        return (x + new[1], y, idle + new[0]), None

    scan = lambda x, y: jax.lax.scan(step, (x, y, x), length=7)[0]  # noqa: E731
    assert count(lambda x, y: scan(x, y)[0], square, square) == (7 * 2 + 1) * one  # y @ y once
    assert count(lambda x, y: scan(x, y)[1], square, square) == 0


def test_what_is_printed_is_used():
    def show(x, y):
        jax.debug.print("{}", x @ y)
        return jax.lax.scan(lambda c, _: (jax.debug.print("{}", c @ c), (c + 1, None))[1], y, length=3)[0]  # fmt: skip

    assert count(show, A, jnp.ones((4, 4))) == 2 * 3 * 4 * 4 + 3 * 2 * 4**3


def test_a_scan_of_no_rounds_costs_nothing():
    def scan(c, xs, y):
        return jax.lax.scan(lambda c, x: (c @ x @ (y @ y), None), c, xs)[0]

    for n in (0, 1, 2):  # y @ y once, if there is a round
        expected = n * 2 * (2 * 3 * 4 * 4) + (n > 0) * 2 * 4**3
        assert count(scan, A, jnp.ones((n, 4, 4)), jnp.ones((4, 4))) == expected


class Recorded:
    """A matrix that remembers which products made it: the oracle of random programs."""

    def __init__(self, made, products=frozenset()):
        self.made, self.products = made, products

    def __matmul__(self, other):
        made = ("@", self.made, other.made)
        return Recorded(made, self.products | other.products | {made})

    def __add__(self, other):
        return Recorded(("+", self.made, other.made), self.products | other.products)


def random_program(draw, scan):
    """Straight lines, calls, repetitions, dead code, and loops that use all that they carry."""
    plan = [[int(i) for i in draw.integers(0, 1000, 3)] for _ in range(12)]
    loop = [[int(i) for i in draw.integers(0, 1000, 3)] for _ in range(4)]
    length, call = int(draw.integers(1, 4)), jax.jit(lambda x, y: x @ y)

    def run(values, plan):
        values = list(values)
        for kind, i, j in plan:
            x, y = values[i % len(values)], values[j % len(values)]
            real = isinstance(x, jax.Array)
            values.append(
                x + y if kind % 3 == 0 else call(x, y) if kind % 3 == 1 and real else x @ y
            )
        return values

    def program(*inputs):
        values = run(inputs[:3], plan)
        # Where the loop reads what nothing else reads, what is outside and inside differs.
        step = lambda c: c + (c @ run([c, *inputs[3:]], loop)[-1])  # noqa: E731
        return scan(step, values[-1], length) + values[-2]

    return program


def test_random_programs_cost_the_different_products_that_their_result_needs():
    draw, one = np.random.default_rng(0), 2 * 4**3
    inputs = [jnp.full((4, 4), float(i)) for i in range(5)]

    def rounds(step, c, length):
        for _ in range(length):
            c = step(c)
        return c

    scanned = lambda f, c, n: jax.lax.scan(lambda c, _: (f(c), None), c, length=n)[0]  # noqa: E731
    for _ in range(25):
        seed = int(draw.integers(1000))
        program, oracle = (
            random_program(np.random.default_rng(seed), scan) for scan in (scanned, rounds)
        )
        expected = len(oracle(*map(Recorded, "abcde")).products)
        assert count(program, *inputs) == expected * one, seed


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


@functools.cache
def small_policy():
    """Of zeros: what it is compiled to does not depend on them."""
    policy = eqx.filter_eval_shape(lambda k: VelocityMLP(46, SHAPE, width=32, key=k), KEY)
    is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)  # noqa: E731
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if is_shape(x) else x, policy)


hoisted = pytest.mark.skipif(
    jax.__version_info__ < (0, 10, 2), reason="its XLA leaves the observation's share in the loop"
)


@hoisted
def test_xla_takes_the_observations_share_out_of_the_loop():
    policy = small_policy()
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


@hoisted
@pytest.mark.parametrize("name", list(PASSES))
def test_xla_runs_in_each_step_what_is_counted_and_no_more(name):
    policy = small_policy()
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


def test_a_checkpointed_gradient_costs_its_second_forward_pass():
    loss = lambda x, y: jnp.sum(jnp.sin(jnp.sin(x @ y) @ y))  # noqa: E731
    square, one = jnp.ones((4, 4)), 2 * 4**3
    assert count(jax.value_and_grad(loss), square, square) == 4 * one
    both = jax.value_and_grad(jax.checkpoint(loss))
    assert count(both, square, square) == 6 * one
    # Nobody asks for the value: only the second of the forward passes is there.
    assert count(jax.grad(jax.checkpoint(loss)), square, square) == 4 * one


@pytest.mark.parametrize(
    ("fn", "rounds"),
    [
        (lambda x: jax.lax.fori_loop(0, 5, lambda i, c: c @ c, x), 5),
        (lambda x: jax.lax.map(lambda y: y @ y, jnp.stack([x, 2 * x, x + 1])), 3),
        (lambda x: jax.lax.map(lambda i: i * x @ (x + i), jnp.arange(7.0), batch_size=2), 7),
        (lambda x: jax.lax.associative_scan(jnp.matmul, jnp.stack([x + i for i in range(4)])), 4),
        (lambda x: jax.jvp(relu_product, (x,), (2 * x,)), 2),
        (lambda x: jax.vjp(square_product, x)[1](x), 1),
        (lambda x: jnp.linalg.matrix_power(x, 4), 2),
        (lambda x: jax.lax.dot_general(x, x, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32), 1),
        (lambda x: vmapped_by_hand(x), 1),
        (lambda x: jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x), 1),
    ],
)  # fmt: skip
def test_products_in_loops_and_calls(fn, rounds):
    assert count(fn, jnp.ones((4, 4))) == rounds * 2 * 4**3


@jax.custom_jvp
def relu_product(x):
    return x @ x


relu_product.defjvp(lambda x, t: (relu_product(*x), t[0] @ (2 * x[0])))


@jax.custom_vjp
def square_product(x):
    return x @ x @ x @ x


square_product.defvjp(lambda x: (square_product(x), x), lambda x, g: (g @ x,))


@jax.custom_batching.custom_vmap
def vmapped_by_hand(x):
    return x @ x


vmapped_by_hand.def_vmap(lambda n, batched, x: (x @ x, True))


CELLS = jnp.linspace(0.1, 0.9, 12).reshape(3, 4)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.nn.softmax(jax.nn.gelu(jax.nn.silu(x)) + jax.scipy.special.gammaln(x)),
        lambda x: jax.grad(lambda x: jnp.sum(jnp.cumprod(jnp.cumsum(x)) + jnp.std(x)))(x),
        lambda x: jnp.sort(x)[jnp.argmax(x[:, 0])] + jnp.median(x) + jnp.quantile(x, 0.3),
        lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (2, 2), (1, 1), "VALID"),
        lambda x: jax.grad(lambda x: eqx.nn.MaxPool2d(2)(x[None]).sum())(x),
        lambda x: jax.grad(lambda x: eqx.nn.AvgPool2d(2)(x[None]).sum())(x),
        lambda x: x.at[0].add(1).at[1].mul(2).at[2].max(x[0]) + jnp.roll(x, 1) + jnp.pad(x, 0),
        lambda x: jnp.where(x > 0.5, jnp.round(x), jnp.nan_to_num(x)) % 3 // 2,
        lambda x: jnp.real(jnp.conj(jnp.exp(x.astype(complex)))) + jnp.abs(x) + jnp.arctan2(x, x),
        lambda x: jnp.polyval(x[0], x) + jax.scipy.special.ndtri(x),
        lambda x: jax.random.normal(jax.random.fold_in(KEY, 3), (3,)) + jax.random.gamma(KEY, 2.0),
        lambda x: (jax.random.categorical(KEY, x), jax.random.permutation(KEY, 3)),
        lambda x: jax.random.normal(jax.random.key(0, impl="rbg"), (3,)),
        lambda x: (*jax.lax.top_k(x, 2), jax.lax.optimization_barrier(x), jax.nn.logsumexp(x)),
        lambda x: jax.vmap(lambda y: y - jax.lax.pmean(y, "i"), axis_name="i")(x),
    ],
)
def test_what_has_no_products_costs_nothing(fn):
    assert count(fn, CELLS) == 0


def sparse_product(x):
    return jax.experimental.sparse.BCOO.fromdense(jnp.eye(4), nse=4) @ x


def scaled_product(x):
    wide, scale = jnp.ones((1, 4, 32)), jnp.ones((1, 4, 1))
    return jax.nn.scaled_matmul(wide, wide, scale, scale)


def sharded_product(x):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
    spec = jax.sharding.PartitionSpec("i")
    return jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)(x)


def kernel_product(x):
    kernel = lambda x, out: out.__setitem__(..., x[...] @ x[...])  # noqa: E731
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.experimental.pallas.pallas_call(kernel, out_shape=shape)(x)


def called_back(x):
    return jax.pure_callback(lambda x: x @ x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (sparse_product, "bcoo_dot_general"),
        (scaled_product, "scaled_matmul"),
        (sharded_product, "shard_map"),
        (kernel_product, "pallas_call"),
        (called_back, "pure_callback"),
        (lambda x: jax.lax.ragged_dot(x, x[None], jnp.array([4])), "ragged_dot"),
        (lambda x: jax.scipy.sparse.linalg.cg(lambda v: x @ v, x[0])[0], "custom_linear_solve"),
        (jax.scipy.linalg.lu, "lu"),
        (jnp.linalg.eigh, "eigh"),
        (jnp.fft.fft, "fft"),
        (lambda x: jax.lax.scan(lambda c, _: (sparse_product(c), None), x, length=3), "bcoo"),
        (lambda x: jax.lax.cond(x[0, 0] > 0, sparse_product, jnp.sin, x), "bcoo"),
    ],
)
def test_what_is_not_known_is_an_error_that_names_it(fn, name):
    with pytest.raises(ValueError, match=f"`{name}.*cannot be counted: it is not known"):
        count(fn, jnp.ones((4, 4)))
    assert count(lambda x: (fn(x), jnp.sin(x))[1], jnp.ones((4, 4))) == 0  # nobody uses it


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


def test_of_a_checkpointed_gradient_only_what_is_used_is_counted():
    """The gradients in two factors, of which one is used: the other's products are not run."""

    @jax.checkpoint
    def block(x, y):
        return jnp.sum(jnp.sin(x @ x)) + jnp.sum(jnp.sin(y @ y @ y))

    square = jnp.ones((4, 4))
    one = 2 * 4**3
    gradients = jax.grad(block, argnums=(0, 1))
    # The product again, for the cosine, and two for its derivative; of y the triple product has
    # two products forward and four backward.
    assert count(lambda x, y: gradients(x, y)[0], square, square) == 3 * one
    assert count(lambda x, y: gradients(x, y)[1], square, square) == 6 * one
    assert count(gradients, square, square) == 9 * one
