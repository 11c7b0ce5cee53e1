"""The data that the analyses are made of."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import figures
from qgf_eqx.data import Dataset
from qgf_eqx.evaluate._auto import FACTORS


def test_the_chunks_that_are_analysed_are_whole():
    """None begins so late that it would go on in the next episode."""
    terminals = np.zeros(12, np.float32)
    terminals[[4, 11]] = 1
    rows = np.arange(12, dtype=np.float32)[:, None]
    obs, actions = figures._draw(Dataset(rows, rows / 100, *3 * (terminals,)), 7, (3, 1))
    starts = [0, 1, 5, 6, 7, 8]
    assert set(np.ravel(obs)) <= set(starts) and (obs[0, 0], obs[-1, 0]) == (0, 8)
    steps = np.asarray(obs) + np.arange(3)
    np.testing.assert_allclose(np.asarray(actions)[..., 0], steps / 100, rtol=1e-6)


def test_the_points_of_the_noise_analysis_go_from_noise_to_the_action(monkeypatch):
    """Of actions that are all 100, a point on the flow at time t is about 100 t."""
    policy = SimpleNamespace(action_shape=(2, 1))
    chunks = jnp.zeros((4, 3)), jnp.full((4, 2, 1), 100.0)
    units = SimpleNamespace(from_action=lambda action: action)
    monkeypatch.setattr(figures, "_open", lambda *_: (policy, None, None, units))
    monkeypatch.setattr(figures, "dataset_of", lambda *_, **__: None)
    monkeypatch.setattr(figures, "_draw", lambda *_: chunks)
    point = lambda policy, critic, obs, a_t, *_, **options: jnp.mean(a_t)  # noqa: E731
    monkeypatch.setattr(figures, "gradient_cosine", point)
    found = figures.noise("run", "data", count=4)
    for method in found["methods"].values():
        shown = np.broadcast_to(100 * np.array(found["t"]), (3, 4))
        np.testing.assert_allclose(method["cosine"], shown, atol=2)


def test_the_mean_over_runs_has_the_scale_of_none_of_them():
    """A task with ten times the values, and another origin, counts as much."""

    def row(value, distance):
        return {"critic": value, "judge": 2 * value, "distance": distance}

    def of(scale, shift, gains):
        values = [shift + scale * gain for gain in gains]
        return {
            "weights": [1.0],
            "candidates": [1, 4, 16],
            "methods": {"QGF": [row(shift + scale * 3, 0.4)] * len(FACTORS)},
            "best-of-N": [row(value, 0.2) for value in values],
            "actors": {"fql": row(shift, 0.1)},
        }

    one, other = of(1.0, -50.0, (0, 2, 4)), of(10.0, 7.0, (0, 2, 2))
    found = figures.value_over_runs([one, other])
    assert [r["critic"] for r in found["best-of-N"]] == [0, 1, 1.5]
    assert found["best-of-N"][2]["critic error"] == pytest.approx(0.5)
    assert found["methods"]["QGF"][0] == {
        "critic": 1.5,
        "critic error": 0,
        "judge": 1.5,
        "judge error": 0,
        "distance": 2,
        "distance error": 0,
    }
    assert found["actors"]["fql"]["distance"] == 0.5
    other["actors"] = {}
    assert figures.value_over_runs([one, other])["actors"] == {}
