"""The parts of the cost benchmark: the plain formulations compute what the library computes, and
the methods read what they say."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.cost import lean, plain
from benchmarks.cost.measure import Program, refusal
from benchmarks.cost.methods import METHODS, OBS, make_nets
from benchmarks.cost.report import shown
from qgf_eqx import guidance, guided_flow, sample
from qgf_eqx.data import Dataset, make_chunk, read_rows
from qgf_eqx.evaluate.names import METHODS as TABLE
from qgf_eqx.flops import count
from qgf_eqx.learn import Spec, TrainConfig, _updates, learners, loop, update_team
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

SHAPE, WEIGHT, STEPS = (2, 3), 0.3, 3


def bptt(policy, critic, obs, key):
    noise = jax.random.normal(jax.random.fold_in(key, 0), SHAPE)
    options = {"guidance": eqx.Partial(guidance.bptt, steps=STEPS), "unroll": True, **guided}
    return guided_flow(policy, critic, obs, noise, **options)


steps = {"steps": STEPS}
guided = {"weight": WEIGHT, **steps}
CASES = {
    "flow": (partial(sample, weight=0, **steps), partial(plain.flow, **steps)),
    "ood": (partial(sample, guidance=guidance.ood, **guided), partial(plain.ood, **guided)),
    "qgf": (partial(sample, **guided), partial(plain.qgf, **guided)),
    "qgf-jacobian": (
        partial(sample, guidance=guidance.qgf_jacobian, **guided),
        partial(plain.qgf_jacobian, **guided),
    ),
    "bptt": (bptt, partial(plain.bptt, **guided)),
    "best-of-4": (
        partial(sample, weight=0, best_of=4, **steps),
        partial(plain.best_of, plain.flow, 4, **steps),
    ),
    "qgf-best-of-4": (
        partial(sample, best_of=4, **guided),
        partial(plain.best_of, plain.qgf, 4, **guided),
    ),
}


@eqx.filter_jit
def small_nets():
    policy_key, critic_key, obs_key = jax.random.split(jax.random.key(0), 3)
    size = {"width": 8, "depth": 2}
    policy = VelocityMLP(7, SHAPE, **size, key=policy_key)
    critic = Ensemble(lambda k: CriticMLP(7, SHAPE, **size, key=k), 2, key=critic_key)
    return policy, critic, jax.random.normal(obs_key, (7,))


LEAN = {
    "flow": partial(lean.flow, **steps),
    "best-of-4": partial(lean.best_of, lean.flow, 4, **steps),
    "qgf-best-of-4": partial(lean.best_of, lean.qgf, 4, **guided),
    **{n: partial(lean.SAMPLERS[n], **guided) for n in ("ood", "qgf", "qgf-jacobian")},
}
ALL = [*CASES, *(f"lean {name}" for name in LEAN)]


def both(name):
    policy, critic, obs = small_nets()
    kind, _, lean_name = name.rpartition(" ")
    ours, theirs = CASES[lean_name]
    theirs = LEAN[lean_name] if kind else theirs
    act = lambda f, q: np.asarray(eqx.filter_jit(f)(policy, q, obs, jax.random.key(1)))  # noqa: E731
    return act(ours, critic), act(theirs, plain.stack(critic))


@pytest.mark.parametrize("name", ALL)
def test_a_plain_or_lean_sampler_is_the_librarys(name):
    ours, theirs = both(name)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize("name", ALL)
def test_in_float64_the_two_agree_to_nine_digits(name, x64):
    ours, theirs = both(name)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9 * np.abs(ours).max())


def kernel_entries(net):
    """Of one network, or of all members of an ensemble."""
    is_dense = lambda x: hasattr(x, "kernel")  # noqa: E731
    layers = [x for x in jax.tree.leaves(net, is_leaf=is_dense) if is_dense(x)]
    return sum(layer.kernel.size for layer in layers)


def test_the_methods_are_those_of_the_table_in_its_order():
    labels = [shown(name) for name in METHODS]  # an error if one is not known
    assert labels[0] == "flow" and labels[-1] == "QGF + best-of-16"
    assert [name for name in TABLE if name in METHODS] == [
        name for name in METHODS if name in TABLE
    ]
    assert set(lean.SAMPLERS) < set(plain.SAMPLERS) < set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_passes_of_a_method_are_its_flops(name):
    method = METHODS[name]
    nets = eqx.filter_eval_shape(make_nets, method.passes, 256, False)
    act = partial(method.act, unroll=False)
    found = count(act, nets, jax.ShapeDtypeStruct((OBS,), np.float32), jax.random.key(0))
    entries = [n * kernel_entries(getattr(nets, net)) for net, n in method.passes.items()]
    # The observation's share of the first layers is computed once and not in every pass.
    assert 0.9 < found / (2 * method.rows * sum(entries)) < 1.001


def test_what_is_too_slow_or_too_large_is_refused_with_a_reason():
    small = Program(step=None, facts={}, bytes=1000)
    assert refusal(small, estimate=1.0, seconds=10.0) is None
    assert "three calls" in refusal(small, estimate=4.0, seconds=10.0)
    assert "GB" in refusal(small._replace(bytes=10**15), estimate=1.0, seconds=10.0)


def fake_data():
    rng = np.random.default_rng(0)
    return Dataset(
        rng.normal(size=(60, 7)).astype(float),
        rng.uniform(-1, 1, (60, 5)),
        -rng.uniform(0, 3, 60),
        (np.arange(60) == 47).astype(float),
        (np.arange(60) % 20 == 19).astype(float),
    )


@eqx.filter_jit
def cut(data, starts, gamma):
    rows = read_rows(jax.tree.map(jnp.asarray, data), jnp.asarray(starts), 5)
    return jax.vmap(partial(make_chunk, gamma=gamma))(rows)


def test_the_plain_chunks_are_the_librarys(x64):
    data = fake_data()
    for ours, theirs in zip(
        cut(data, np.arange(60), 0.99)[:6], plain.chunks(data, np.arange(60), 5, 0.99), strict=True
    ):
        np.testing.assert_allclose(theirs, ours, rtol=1e-12)


def test_a_plain_update_is_the_librarys(x64, loose_promotion):
    config, spec = TrainConfig("none", batch=8, **learners(width=8, depth=2)), Spec(7, (5, 5))
    state = eqx.filter_jit(lambda: _updates.init(config, spec))()
    library_update = eqx.filter_jit(partial(update_team, config.team, spec))
    nets = plain.stacked(state)
    data = fake_data()
    optimizer_state = plain.init_optimizer(nets, config)
    for step in range(3):
        starts = np.arange(step, step + 8)
        key = jax.random.key(step)
        state, _ = library_update(state, cut(data, starts, 0.999), key)
        batch = plain.chunks(data, starts, 5, 0.999)
        nets, optimizer_state = plain.update(
            nets, optimizer_state, batch, loop._key_of(key, "flow"), config
        )
    ours = plain.stacked(state)
    for one, other in zip(
        *(jax.tree.leaves(eqx.filter(n, eqx.is_array)) for n in (ours, nets)), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9)
