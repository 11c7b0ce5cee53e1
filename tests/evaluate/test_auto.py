"""Weights where none are given: they follow the scale of the critic, and go on to their best."""

import math

import jax.numpy as jnp
import pytest
from toy import make_array_task

from qgf_eqx import Flow
from qgf_eqx.evaluate import Episode, _auto, comparison
from qgf_eqx.evaluate._runs import TrainedRun
from qgf_eqx.evaluate._sources import InMemory, Run
from qgf_eqx.evaluate.names import size


class Values:
    """An ensemble of two, whose gradient has the size of `scale`."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, obs, action):
        return jnp.min(self.values(obs, action))

    def values(self, obs, action):
        return self.scale * jnp.sum(action) * jnp.array([1.0, 1.0])


class Held(Run):
    def __init__(self, scale):
        super().__init__("", "")
        policy = Flow(lambda obs, a_t, t: -0.1 * a_t, action_shape=(2, 1))
        object.__setattr__(self, "nets", InMemory(policy, Values(scale)))

    def load(self):
        return self.nets


def test_the_grid_follows_the_scale_of_the_critic():
    starts = (_auto.start_of(Held(scale), make_array_task(), jnp.min) for scale in (0.01, 1.0))
    small, large = map(_auto.grid_around, starts)
    assert len(small) == 6 and small == sorted(small)
    for a, b in zip(small, large, strict=True):
        assert a / b == pytest.approx(100, rel=0.1)
    assert small[-1] / small[0] == pytest.approx(300, rel=0.1)


@pytest.mark.parametrize("weight", [0.0, math.inf, math.nan])
def test_a_critic_without_a_gradient_gets_the_plain_grid(weight):
    assert _auto.grid_around(weight) == list(comparison.WEIGHTS)


@pytest.mark.parametrize("peak", [1e-4, 0.7, 3e3])
def test_a_grid_that_nobody_gave_goes_on_until_its_best_is_inside(monkeypatch, peak):
    """However far the critic's scale says too little."""

    def played(run, methods, numbers, **options):
        def wins(weight):
            return 0 if not weight else 20 - 2 * abs(math.log10(weight / peak))

        return [
            [Episode(n, k < wins(size(m.weight)), 1, 0.0) for k, n in enumerate(numbers)]
            for m in methods
        ]

    task = "cube-single-play-singletask-task1-v0"
    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(
        comparison, "_seeds_of_one", lambda _: (task, (TrainedRun("a", 0, 1, ""),), {})
    )
    monkeypatch.setattr(comparison, "start_of", lambda *_: 0.1)
    found = comparison.tune_weight(["a"], "qgf", episodes=20, progress=False)
    assert found.choice.edge is None and 1 / 4 < found.weight / peak < 4
    given = comparison.tune_weight(["a"], "qgf", weights=(0.1, 0.3), episodes=20, extensions=0)
    assert given.weight in (0.1, 0.3)
