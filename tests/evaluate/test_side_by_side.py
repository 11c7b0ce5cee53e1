"""Methods and weights beside each other."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import bounded, flops, sample
from qgf_eqx.analysis import starting_weight
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.deploy.latency import measure_latency
from qgf_eqx.evaluate._auto import FACTORS
from qgf_eqx.evaluate.sampler import Sampler
from qgf_eqx.evaluate.side_by_side import side_by_side
from qgf_eqx.weights import LinearDecay

POLICY = GaussianFlow(jnp.zeros(2), 0.5)
CRITIC = bounded(lambda obs, a: obs @ a)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def observations():
    return jax.random.normal(jax.random.key(1), (5, 2))


def test_a_row_is_the_mean_over_actions_that_are_drawn_by_hand(observations):
    judge = lambda obs, a: -jnp.sum((a - obs) ** 2)  # noqa: E731
    options = {"weights": (0.1, 0.4), "judge": judge, "noises": 3, "steps": 4}
    found = side_by_side(POLICY, CRITIC, observations, KEY, **options).rows
    assert [(r.method, r.weight) for r in found] == [("flow", 0), ("qgf", 0.1), ("qgf", 0.4), ("best-of-4", 0)]  # fmt: skip
    keys = jax.random.split(KEY, (5, 3))

    def drawn(**how):
        return np.array([[sample(POLICY, CRITIC, o, k, steps=4, **how) for k in ks] for o, ks in zip(observations, keys, strict=True)])  # fmt: skip

    plain = drawn(weight=0)
    spread = np.sqrt(np.mean((plain - plain.mean(1, keepdims=True)) ** 2))
    for row, actions in zip(found, (plain, drawn(weight=0.1), drawn(weight=0.4), drawn(weight=0, best_of=4)), strict=True):  # fmt: skip
        obs = np.asarray(observations)[:, None]
        np.testing.assert_allclose(row.value, np.mean(np.sum(obs * actions, -1)), rtol=1e-4)
        wanted = np.mean(-np.sum((actions - obs) ** 2, -1))
        np.testing.assert_allclose(row.judged, wanted, rtol=1e-4)
        apart = np.sqrt(np.mean((actions - plain) ** 2)) / spread
        np.testing.assert_allclose(row.distance, apart, rtol=1e-4, atol=1e-6)
    one = lambda key: sample(POLICY, CRITIC, observations[0], key, weight=0.1, steps=4)  # noqa: E731
    assert found[1].mflop == flops.count(one, KEY) / 1e6


def test_it_is_printed_with_its_numbers_and_without_what_is_not_there(observations):
    text = str(side_by_side(POLICY, CRITIC, observations, KEY, weights=[0.1], noises=2))
    lines = text.splitlines()
    assert lines[0].split() == ["method", "weight", "value", "distance", "MFLOP"]
    assert lines[1].split()[:2] == ["flow", "-"] and lines[1].split()[3] == "0.00"
    assert lines[2].split()[:2] == ["QGF", "0.1"]
    first = float(starting_weight(POLICY, CRITIC, observations, KEY))
    found = side_by_side(POLICY, CRITIC, observations, KEY, methods=["qgf"], noises=2)
    around = [row.weight / first for row in found.rows]
    assert np.allclose(around, FACTORS, rtol=0.3)
    crowded = side_by_side(
        POLICY, lambda o, a: -123456.7 * a[0], observations, KEY, weights=[0.0123]
    )
    assert all(len(line.split()) == 5 for line in str(crowded).splitlines()[:-1])


def test_samplers_keep_their_weights_and_any_weight_is_a_row(observations):
    decay = LinearDecay(0.3)
    own = [Sampler(name="mine", weight=0.2), Sampler(name="decay", weight=decay, weighted=False)]
    options = {"noises": 2, "weights": (0.2, decay)}
    mine, decays, *named = side_by_side(
        POLICY, CRITIC, observations, KEY, methods=[*own, "qgf"], **options
    ).rows
    assert [row.weight for row in (mine, decays, *named)] == [0.2, decay, 0.2, decay]
    assert mine.value == named[0].value and decays.value == named[1].value != mine.value


def test_the_distance_to_the_data_is_that_to_the_nearest(observations):
    plain = np.array([[sample(POLICY, CRITIC, o, k, weight=0) for k in ks] for o, ks in zip(observations, jax.random.split(KEY, (5, 2)), strict=True)])  # fmt: skip
    ask = partial(side_by_side, POLICY, CRITIC, observations, KEY, methods=["flow"], noises=2)
    assert ask(data=plain).rows[0].to_data < 1e-6
    rows = plain.reshape(-1, *plain.shape[2:])[:3] + 1
    spread = np.sqrt(np.mean((plain - plain.mean(1, keepdims=True)) ** 2))
    apart = np.sqrt(np.mean((plain[:, :, None] - rows) ** 2, -1)).min(-1).mean() / spread
    found = ask(data=rows)
    assert found.rows[0].to_data == pytest.approx(apart, rel=1e-4) and "to data" in str(found)
    with pytest.raises(ValueError, match=r"`data` must be of shape \(rows, 2\).*got \(3, 5\)"):
        ask(data=np.zeros((3, 5)))


def test_wrong_arguments_are_named(observations):
    with pytest.raises(ValueError, match="`noises` must be at least 2"):
        side_by_side(POLICY, CRITIC, observations, KEY, noises=1)
    with pytest.raises(ValueError, match="unknown method `qfg`"):
        side_by_side(POLICY, CRITIC, observations, KEY, methods=["qfg"])


def test_latency_is_in_milliseconds_and_the_first_call_stands_apart():
    calls = []

    def act(x):
        calls.append(x)
        time.sleep(0.05 if len(calls) == 1 else 0.005)
        return jnp.zeros(2)

    found = measure_latency(act, 7, calls=20)
    assert calls == [7] * 21 and found.calls == 20
    assert found.first >= 50 and 5 <= found.p50 <= found.p95 <= found.p99 <= found.most
    assert f"p50 {found.p50:.2f} ms" in str(found)
    with pytest.raises(ValueError, match="`calls`"):
        measure_latency(act, 7, calls=0)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_data_are_for_all_observations_or_for_each_whatever_an_action_is(observations, shape):
    policy = GaussianFlow(jnp.zeros(shape), 0.5)
    critic = bounded(lambda obs, a: jnp.sum(a) * obs[0])
    data = 0.3 * jax.random.normal(KEY, (7, *shape))
    ask = partial(side_by_side, policy, critic, observations, KEY, methods=["flow"], noises=3)
    each = jnp.broadcast_to(data, (5, *data.shape))
    (one,), (other,) = (ask(data=given).rows for given in (data, each))
    assert one.to_data == pytest.approx(other.to_data, rel=1e-5) and one.to_data > 0
    for wrong in (data[None], each[:, :, None], jnp.zeros((5, 7, 9))):
        if wrong.shape != each.shape:
            with pytest.raises(ValueError, match="`data` must be of shape"):
                ask(data=wrong)
