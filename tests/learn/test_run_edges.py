"""What a run must not lose or mistake: signals at its end, networks that cannot be saved, settings
that are switched off."""

import dataclasses
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_goal_runs import CONFIG as GOALS
from test_goal_runs import data as walks

from qgf_eqx import Flow, objectives
from qgf_eqx.checkpoint import CheckpointError
from qgf_eqx.cli._train import _chosen
from qgf_eqx.data import Dataset, DatasetError
from qgf_eqx.data.arrays import from_transitions
from qgf_eqx.data.goals import GoalDraw, Hindsight, draw_goals
from qgf_eqx.learn import Learner, Networks, RunError, TrainConfig, learners, train
from qgf_eqx.learn._layout import join_obs
from qgf_eqx.learn.actors import BC, EDP

pytestmark = pytest.mark.usefixtures("loose_promotion")
SMALL = {"width": 8, "depth": 1}
CONFIG = TrainConfig("e", updates=4, batch=8, horizon=2, **learners(**SMALL))


def data(rows=30):
    rng = np.random.default_rng(0)
    ends = np.zeros(rows, np.float32)
    ends[-1] = 1
    paid = (rng.uniform(size=rows) < 0.3).astype(np.float32)
    obs, actions = rng.normal(size=(2, rows, 2)).astype(np.float32)
    return Dataset(obs, actions, paid, paid, ends)


def position(state, axis=0):
    return state[axis : axis + 1]


def near(state, goal, radius=0.5):
    return jnp.all(jnp.abs(state - goal) < radius)


def test_a_run_does_not_go_on_with_other_goals(tmp_path):
    options = {"progress": False, "updates_per_call": 2}
    config = dataclasses.replace(GOALS, updates=2)
    goal = Hindsight(position, partial(near, radius=0.5))
    train(config, walks(), tmp_path, hindsight=goal, **options)
    longer = dataclasses.replace(config, updates=4)
    for other in (goal._replace(reached=partial(near, radius=0.1)), Hindsight(position, near)):
        with pytest.raises(RunError, match="was trained with other goals: `.*reached"):
            train(longer, walks(), tmp_path, hindsight=other, **options)
    train(longer, walks(), tmp_path, hindsight=goal, **options)


@dataclass(frozen=True)
class Unsaved(BC):
    """A flow that holds a function without a name."""

    def init(self, spec: Any, key: Any) -> Networks:
        """It."""
        field = lambda obs, a_t, t: -a_t  # noqa: E731
        return Networks(Flow(field, spec.action_shape))


def test_a_network_that_cannot_be_saved_is_refused_before_the_first_update(tmp_path):
    config = dataclasses.replace(CONFIG, updates=10**9, actors={"flow": Unsaved()})
    with pytest.raises(CheckpointError, match="cannot be saved: Python does not find it by a name"):
        train(config, data(), tmp_path, progress=False)
    assert isinstance(config.actors["flow"], Learner)


def test_a_signal_in_the_last_evaluation_ends_the_program(tmp_path):
    def told(run, step):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(CONFIG, data(), tmp_path, progress=False, on_save=told)


def chosen(base=None, critic=None, actors=None, run=(), shared=(), **own):
    return _chosen(base, critic, actors, {"env": "e"} | dict(run), dict(shared), own)


def test_what_is_switched_off_is_off():
    assert not chosen(actors=("distill",), distill_one_step=False).actors["distill"].one_step
    assert chosen(actors=("distill",), distill_one_step=None).actors["distill"].one_step
    base = dataclasses.replace(CONFIG, time_limit_masks=True)
    assert not chosen(base, run={"time_limit_masks": False}).time_limit_masks
    assert chosen(base, run={"time_limit_masks": None}).time_limit_masks


def test_the_critic_of_a_preset_keeps_its_settings_when_it_is_named():
    base = dataclasses.replace(CONFIG, critic=dataclasses.replace(CONFIG.critic, ema_rate=0.001))
    assert chosen(base, "iql").critic == base.critic
    assert chosen(base, "iql", shared={"width": 16}).critic == dataclasses.replace(
        base.critic, width=16
    )


@pytest.mark.parametrize("name", ["rewards", "terminated", "truncated"])
def test_a_column_is_no_row_of_numbers(name):
    fields = {n: np.zeros(5) for n in ("rewards", "terminated", "truncated")}
    fields["rewards"][2] = 1.0
    fields[name] = fields[name][:, None]
    with pytest.raises(DatasetError, match=rf"`{name}` has shape \(5, 1\).*reshape\(-1\)"):
        from_transitions(obs=np.zeros((5, 2)), actions=np.zeros((5, 1)), **fields)


@pytest.mark.parametrize("channels", [9, 12])
def test_stacked_pictures_with_their_channels_first_are_refused(channels):
    pictures = np.zeros((30, channels, 32, 32), np.uint8)
    with pytest.raises(DatasetError, match="channels must come last"):
        join_obs(data()._replace(obs={"eye": pictures}))
    join_obs(data()._replace(obs={"eye": np.moveaxis(pictures, 1, -1)}))


def test_without_a_discount_goals_lie_anywhere_ahead():
    draw = GoalDraw(current=0.0, future=1.0, geometric=True)
    starts, last = jnp.zeros(1000, jnp.int32), jnp.full(1000, 20)
    found = np.asarray(draw_goals(draw, jax.random.key(0), starts, last, rows=100, gamma=1.0))
    assert set(found) == set(range(1, 21))


def test_edp_with_the_papers_time_is_trained_on_its_grid(tmp_path, monkeypatch):
    asked = []
    grid = objectives.grid_time
    monkeypatch.setattr(objectives, "grid_time", lambda k, **o: asked.append(o) or grid(k, **o))
    for i, paper in enumerate((False, True)):
        actors = {"edp": EDP(paper_time=paper, **SMALL)}
        config = dataclasses.replace(CONFIG, updates=1, actors=actors)
        train(config, data(), tmp_path / str(i), progress=False)
        assert bool(asked) == paper
