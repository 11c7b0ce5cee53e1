"""Fitted Q evaluation against values that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx.data import DatasetError, from_episodes
from qgf_eqx.learn import fitted_q
from qgf_eqx.learn.critics import TD

pytestmark = pytest.mark.usefixtures("loose_promotion")

GAMMA, CELLS = 0.8, 5
SIZE = TD(width=64, depth=2, learning_rate=2e-3, critics=2, rho=0.0, ema_rate=0.02)


@pytest.fixture(scope="module")
def walks():
    """A line of five cells, seen as a one-hot: a positive action goes right, and the last cell ends
    the episode and pays 1. Actions are random."""
    rng, episodes, one_hot = np.random.default_rng(0), [], np.eye(CELLS + 1, dtype=np.float32)
    for _ in range(300):
        cell, seen, actions = int(rng.integers(CELLS)), [], []
        while cell < CELLS and len(actions) < 12:
            seen.append(one_hot[cell])
            actions.append(rng.uniform(-1, 1, 1).astype(np.float32))
            cell = cell + 1 if actions[-1][0] > 0 else max(0, cell - 1)
        seen.append(one_hot[cell])
        rewards = np.zeros(len(actions), np.float32)
        rewards[-1] = cell == CELLS
        each = {"obs": np.stack(seen), "actions": np.stack(actions), "rewards": rewards}
        episodes.append({**each, "terminated": cell == CELLS})
    return from_episodes(episodes)


def backed_up(right):
    """The value of each cell where one goes right with this chance."""
    v = np.zeros(CELLS + 1)
    for _ in range(300):
        ahead = [float(c + 1 == CELLS) + GAMMA * v[c + 1] * (c + 1 < CELLS) for c in range(CELLS)]
        back = [GAMMA * v[max(0, c - 1)] for c in range(CELLS)]
        v[:CELLS] = right * np.array(ahead) + (1 - right) * np.array(back)
    return v[:CELLS]


@pytest.mark.parametrize("right", [1.0, 0.5])
def test_it_is_the_value_of_the_policy_and_not_of_the_data(walks, right):
    def act(obs, key):
        return jnp.where(jax.random.bernoulli(key, right), 0.5, -0.5).reshape(1, 1)

    q = fitted_q(walks, act, horizon=1, gamma=GAMMA, updates=4000, critic=SIZE)
    cells = jnp.eye(CELLS + 1)[:CELLS]
    at = lambda sign: jax.vmap(lambda obs: q(obs, jnp.full((1, 1), 0.5 * sign)))(cells)  # noqa: E731
    found = right * at(1) + (1 - right) * at(-1)
    np.testing.assert_allclose(found, backed_up(right), atol=0.04)


def test_wrong_data_and_counts_are_named(walks):
    act = lambda obs, key: jnp.zeros((20, 1))  # noqa: E731
    with pytest.raises(DatasetError, match="horizon"):
        fitted_q(walks, act, horizon=20, gamma=GAMMA)
    with pytest.raises(ValueError, match="`updates`"):
        fitted_q(walks, act, horizon=1, gamma=GAMMA, updates=0)
    with pytest.raises(ValueError, match="rows of numbers"):
        fitted_q(walks._replace(obs={"a": walks.obs}), act, horizon=1, gamma=GAMMA)
