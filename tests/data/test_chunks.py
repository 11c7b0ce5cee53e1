import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx.data import (
    Dataset,
    DatasetError,
    check_horizon,
    draw_chunks,
    make_chunk,
    read_rows,
    time_limit_masks,
)
from qgf_eqx.data._chunks import played

# Two episodes by hand: rows 0..4 (four transitions, solved in row 3) and rows 5..7 (two).
HAND = Dataset(
    obs=np.arange(8, dtype=np.float32)[:, None] * 10,
    actions=np.arange(8, dtype=np.float32)[:, None] / 10,
    rewards=np.array([-1, -2, -1, 0, 0, -3, -2, -1], np.float32),
    terminated=np.array([0, 0, 0, 1, 1, 0, 0, 0], np.float32),
    episode_end=np.array([0, 0, 0, 0, 1, 0, 0, 1], np.float32),
)
ON_DEVICE = jax.tree.map(jnp.asarray, HAND)


def chunk(dataset, start, *, horizon, gamma):
    return make_chunk(read_rows(dataset, start, horizon), gamma=gamma)


def cut(start, horizon, gamma=0.5):
    return chunk(ON_DEVICE, jnp.asarray(start), horizon=horizon, gamma=gamma)


def test_a_chunk_inside_an_episode_by_hand():
    c = cut(0, 2)
    assert (c.obs, c.next_obs) == (0.0, 20.0)
    np.testing.assert_allclose(c.action[:, 0], [0.0, 0.1])
    assert c.reward == -1 + 0.5 * -2
    assert c.discount == 0.25 and c.weight == 1


def test_a_chunk_that_touches_the_last_state_is_whole():
    c = cut(2, 2)
    assert c.next_obs == 40.0 and c.weight == 1


def test_a_chunk_in_which_the_task_is_solved_does_not_bootstrap():
    c = cut(2, 2)
    assert c.discount == 0 and c.reward == -1
    assert cut(0, 3).discount == 0.125  # row 3 is the successor, not one of the chunk's states


@pytest.mark.parametrize(
    ("start", "horizon", "expected"),
    [(3, 1, 1.0), (2, 2, 0.5), (2, 1, 0.5), (1, 2, 0.25), (0, 3, 0.125), (0, 2, 0.0), (5, 2, 0.0)],
)
def test_success_is_discounted_to_the_step_of_the_end_that_of_the_last_state_too(
    start, horizon, expected
):
    assert cut(start, horizon).success == expected


def test_the_first_actions_of_a_longer_chunk_may_be_whole_where_it_is_not():
    for start, whole, part in ((0, 1, 1), (1, 0, 1), (3, 0, 0), (5, 0, 1), (6, 0, 0)):
        rows = read_rows(ON_DEVICE, jnp.asarray(start), 4)
        long = make_chunk(rows, gamma=0.5)
        short = played(long, rows, 2)
        assert (long.weight, short.weight) == (whole, part), start
        np.testing.assert_array_equal(short.action, long.action[:2])
        assert short.obs == long.obs and short.discount == long.discount


@pytest.mark.parametrize(("start", "horizon"), [(3, 2), (4, 1), (1, 4), (6, 2), (7, 1), (7, 4)])
def test_a_chunk_cut_by_the_end_of_its_episode_has_weight_zero(start, horizon):
    assert cut(start, horizon).weight == 0


def test_all_weights_at_once():
    for horizon, valid in ((1, {0, 1, 2, 3, 5, 6}), (2, {0, 1, 2, 5}), (4, {0}), (5, set())):
        found = {start for start in range(8) if cut(start, horizon).weight == 1}
        assert found == valid


def test_a_chunk_never_mixes_episodes_into_what_counts():
    poisoned = ON_DEVICE._replace(
        rewards=ON_DEVICE.rewards.at[5:].set(1e9),
        obs=ON_DEVICE.obs.at[5:].set(1e9),
    )
    for start in range(5):
        c = chunk(poisoned, jnp.asarray(start), horizon=2, gamma=0.5)
        assert c.weight == 0 or (abs(c.reward) < 10 and c.next_obs < 100)


def test_time_limit_masks_cut_at_the_end_and_not_at_success():
    terminated = time_limit_masks(HAND).terminated
    np.testing.assert_array_equal(terminated, [0, 0, 0, 1, 0, 0, 1, 1])
    c = chunk(
        ON_DEVICE._replace(terminated=jnp.asarray(terminated)), jnp.asarray(2), horizon=2, gamma=0.5
    )
    assert c.discount == 0 and c.weight == 1
    c = chunk(
        ON_DEVICE._replace(terminated=jnp.asarray(terminated)), jnp.asarray(1), horizon=2, gamma=0.5
    )
    assert c.discount == 0.25


def test_a_batch_is_a_pure_function_of_seed_and_step():
    def draw(seed, step):
        return draw_chunks(ON_DEVICE, seed, jnp.asarray(step), batch=64, horizon=2, gamma=0.5)

    np.testing.assert_array_equal(draw(0, 3).obs, jax.jit(draw, static_argnums=0)(0, 3).obs)
    assert np.any(draw(0, 3).obs != draw(0, 4).obs) and np.any(draw(0, 3).obs != draw(1, 3).obs)
    assert set(np.asarray(draw(0, 0).obs).ravel()) == {10.0 * i for i in range(8)}


def test_a_horizon_longer_than_every_episode_is_refused():
    check_horizon(HAND, 4)
    with pytest.raises(DatasetError, match="longest episode has 4 transitions, fewer than .* 5"):
        check_horizon(HAND, 5)


def test_rows_read_on_the_host_are_those_of_the_device():
    starts = np.array([[0, 3, 6], [7, 2, 5]])
    for horizon in (1, 2, 4):
        host = read_rows(HAND, starts, horizon)
        device = read_rows(ON_DEVICE, jnp.asarray(starts), horizon)
        jax.tree.map(np.testing.assert_array_equal, host, device)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"episode_end": np.ones((), np.float32)},
            r"`episode_end` has shape \(\); it must have 1 axes",
        ),
        ({"episode_end": HAND.episode_end[:-1]}, "`obs` has 8 rows, but `episode_end` has 7"),
        ({"obs": HAND.terminated}, "`obs` has shape .* must have 2 axes"),
        ({"actions": HAND.actions[:, :0]}, r"`actions` has shape \(8, 0\): no column"),
        ({"rewards": HAND.rewards[:, None]}, "`rewards` has shape .* must have 1 axes"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(change, message):
    with pytest.raises(DatasetError, match=f"the dataset: field {message}"):
        check_horizon(HAND._replace(**change), 2)


def test_a_chunk_whose_last_state_is_not_recorded_has_weight_zero_without_a_terminal_too():
    """Recording stopped in row 7, which does not end an episode: row 8 is not there."""
    open_ended = HAND._replace(episode_end=np.array([0, 0, 0, 0, 1, 0, 0, 0], np.float32))
    starts = np.array([5, 6, 7])
    for rows in (
        read_rows(open_ended, starts, 2),
        read_rows(jax.tree.map(jnp.asarray, open_ended), jnp.asarray(starts), 2),
    ):
        np.testing.assert_array_equal(rows.episode_end, [[0, 0], [0, 1], [1, 1]])
        chunks = jax.vmap(lambda r: make_chunk(r, gamma=0.5))(rows)
        np.testing.assert_array_equal(chunks.weight, [1, 0, 0])
        short = jax.vmap(lambda c, r: played(c, r, 1))(chunks, rows)
        np.testing.assert_array_equal(short.weight, [1, 1, 0])


def test_observations_of_any_structure_are_cut_like_one_array():
    nested = HAND._replace(obs={"state": HAND.obs, "image": (HAND.obs[:, :, None] + [[0, 1]],)})
    starts = np.array([[0, 3], [6, 2]])
    flat, rows = read_rows(HAND, starts, 2), read_rows(nested, starts, 2)
    for name in ("obs", "next_obs"):
        found, expected = getattr(rows, name), getattr(flat, name)
        np.testing.assert_array_equal(found["state"], expected)
        np.testing.assert_array_equal(found["image"][0], expected[..., None] + [[0, 1]])
    drawn = draw_chunks(
        jax.tree.map(jnp.asarray, nested), 0, jnp.asarray(0), batch=8, horizon=2, gamma=0.5
    )
    alone = draw_chunks(ON_DEVICE, 0, jnp.asarray(0), batch=8, horizon=2, gamma=0.5)
    np.testing.assert_array_equal(drawn.obs["state"], alone.obs)
    np.testing.assert_array_equal(drawn.weight, alone.weight)
    check_horizon(nested, 4)
    short = nested._replace(obs={**nested.obs, "state": HAND.obs[:-1]})
    with pytest.raises(DatasetError, match=r"`obs\['state'\]` has 7 rows, but `episode_end` has 8"):
        check_horizon(short, 2)


def test_a_reward_counts_where_the_task_is_solved_too():
    paid = ON_DEVICE._replace(rewards=ON_DEVICE.rewards.at[3].set(8.0))
    c = chunk(paid, jnp.asarray(2), horizon=2, gamma=0.5)
    assert c.reward == -1 + 0.5 * 8 and c.discount == 0 and c.weight == 1
