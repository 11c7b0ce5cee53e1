"""Arrays become datasets whose chunks are those of a loop over the episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx.data import Dataset, DatasetError, make_chunk, open_dataset, read_rows
from qgf_eqx.data.arrays import check_seen, describe, from_episodes, from_transitions

LENGTHS, ENDED = (4, 1, 3), (True, False, True)


def episodes(*, longer=True):
    rng = np.random.default_rng(0)
    return [
        {
            "obs": {"state": rng.normal(size=(n + longer, 3)).astype(np.float32)},
            "actions": rng.normal(size=(n, 2)).astype(np.float32),
            "rewards": np.append(np.zeros(n - 1), i + 1.0),  # on the last transition only
            "terminated": ended,
        }
        for i, (n, ended) in enumerate(zip(LENGTHS, ENDED, strict=True))
    ]


def as_transitions(recorded):
    parts = [
        (
            e["obs"]["state"][:-1],
            e["actions"],
            e["rewards"],
            np.append(np.zeros(len(e["actions"]) - 1), e["terminated"]),
            np.arange(len(e["actions"])) == len(e["actions"]) - 1,
            e["obs"]["state"][1:],
        )
        for e in recorded
    ]
    return [np.concatenate(fields) for fields in zip(*parts, strict=True)]


def brute_force(recorded, horizon, gamma=0.5):
    """Every chunk of the episodes, by a loop."""
    for e in recorded:
        for s in range(len(e["actions"]) - horizon + 1):
            if s + horizon == len(e["obs"]["state"]) and not e["terminated"]:
                continue  # its successor was not recorded
            reward = sum(gamma**i * e["rewards"][s + i] for i in range(horizon))
            over = e["terminated"] and s + horizon == len(e["actions"])
            after = e["obs"]["state"][min(s + horizon, len(e["obs"]["state"]) - 1)]
            actions = e["actions"][s : s + horizon]
            yield e["obs"]["state"][s], actions, reward, 0 if over else gamma**horizon, after


def chunks(dataset, horizon, gamma=0.5):
    rows = read_rows(dataset, np.arange(len(dataset.episode_end)), horizon)
    made = jax.vmap(lambda r: make_chunk(r, gamma=gamma))(jax.tree.map(jnp.asarray, rows))
    for i in np.flatnonzero(made.weight == 1):
        c = jax.tree.map(lambda field, i=i: field[i], made)
        (obs,), (after,) = jax.tree.leaves(c.obs), jax.tree.leaves(c.next_obs)
        yield obs, c.action, c.reward, c.discount, after


def assert_same_chunks(dataset, recorded):
    for horizon in (1, 2, 3):
        found, expected = list(chunks(dataset, horizon)), list(brute_force(recorded, horizon))
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("longer", [True, False])
def test_the_chunks_of_episodes_are_those_of_a_loop_reward_by_reward(longer):
    recorded = episodes(longer=longer)
    assert_same_chunks(from_episodes(recorded), recorded)


def test_the_chunks_of_transitions_are_those_of_a_loop_reward_by_reward():
    recorded = episodes()
    assert_same_chunks(from_transitions(*as_transitions(recorded)), recorded)
    without = from_transitions(*as_transitions(recorded)[:-1])
    short = [{**e, "obs": {"state": e["obs"]["state"][:-1]}} for e in recorded]
    assert_same_chunks(without, short)


def test_the_sentence_counts_episodes_transitions_and_ends():
    text = describe(from_episodes(episodes()))
    assert text.startswith("11 states, 8 transitions, 3 episodes; 2 transitions ended the task")
    assert text.endswith("Actions reach 1.96026: they want `normalise_actions`.")
    one = from_transitions(np.eye(3), np.eye(3), np.ones(3), np.zeros(3), np.zeros(3))
    assert "no end inside is marked, so all rows are one episode" in describe(one)


def test_the_sentence_counts_episodes_whose_last_end_is_not_marked():
    fields = [np.eye(7, dtype=np.float32)] * 2 + [np.ones(7, np.float32), np.zeros(7, np.float32)]
    for marked, episodes_, used in (([2], 2, 5), ([2, 4], 3, 4), ([2, 6], 2, 5), ([], 1, 6)):
        end = np.isin(np.arange(7), marked).astype(np.float32)
        text = describe(Dataset(*fields, end))
        assert text.startswith(f"7 states, {used} transitions, ")
        assert (f"{episodes_} episodes" in text) == (episodes_ > 1), text


def test_the_state_after_the_last_is_as_precise_as_it_was_given():
    obs, after = np.array([[0], [1]]), np.array([[1.0], [1.7]])
    found = from_transitions(obs, np.ones((2, 1)), np.ones(2), np.array([0, 1]), np.zeros(2), after)
    np.testing.assert_allclose(found.obs, [[0], [1], [1.7]], rtol=1e-6)


def change(field, value):
    recorded = episodes()
    recorded[1] = {**recorded[1], field: value}
    return lambda: from_episodes(recorded)


def transitions(**changes):
    names = ("obs", "actions", "rewards", "terminated", "truncated", "next_obs")
    given = dict(zip(names, as_transitions(episodes()), strict=True))
    return lambda: from_transitions(**given | changes)


UNPAID = [{**e, "rewards": 0 * e["rewards"], "terminated": False} for e in episodes()]
LATE = [{**e, "terminated": False} for e in episodes(longer=False)]
CLOCK = 1.7e9 + 0.1 * np.arange(9)[:, None]
REFUSED = {
    "lengths": (change("rewards", np.zeros(5)), "episode 1: field `rewards` has shape .* 1 rows"),
    "nan": (change("actions", np.full((1, 2), np.nan)), "`actions` holds NaN|widths"),
    "nan in a reward": (change("rewards", [np.nan]), "episode 1: field `rewards` .* in row 0"),
    "a missing field": (lambda: from_episodes([{"obs": np.ones(3)}]), "`actions` is missing"),
    "no reward": (
        lambda: check_seen(from_episodes(UNPAID)),
        "all `rewards` are 0 and no transition is",
    ),
    "unseen rewards": (
        lambda: check_seen(from_episodes(LATE)),
        "no chunk can see them. Give N \\+ 1",
    ),
    "joined": (transitions(truncated=np.zeros(8)), "`next_obs` of row 4 .* joined"),
    "flags": (transitions(terminated=np.full(8, 2)), "`terminated` holds numbers other than 0"),
    "a clock": (
        lambda: from_episodes(
            [{"obs": CLOCK, "actions": np.ones((8, 1)), "rewards": np.ones(8), "terminated": 1}]
        ),
        "`obs`, column 0 is a clock that stands still in float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_train_silently_wrong_is_refused_with_the_next_step(case):
    make, message = REFUSED[case]
    with pytest.raises(DatasetError, match=message):
        make()


def test_a_clock_in_a_file_is_refused_too(tmp_path):
    ends = np.tile([0, 0, 0, 1], 10)
    rows = {"actions": np.zeros((40, 1)), "rewards": -np.ones(40), "terminated": np.zeros(40)}
    time = np.stack([np.ones(40), 1.7e9 + 0.02 * np.arange(40)], axis=1)
    np.savez(tmp_path / "own.npz", obs=time, episode_end=ends, **rows)
    with pytest.raises(DatasetError, match="own.npz: field `obs`, column 1 is a clock that stands"):
        open_dataset(tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", obs=time - time[0], episode_end=ends, **rows)
    assert np.allclose(open_dataset(tmp_path / "own.npz")[0].obs[:, 1], 0.02 * np.arange(40))


def test_a_file_without_ends_names_both_of_their_names(tmp_path):
    np.savez(tmp_path / "own.npz", obs=np.zeros((4, 1)), actions=np.zeros((4, 1)))
    with pytest.raises(DatasetError, match="field `episode_end` or `terminals` is missing"):
        open_dataset(tmp_path / "own.npz")


def test_a_state_that_settles_is_no_clock():
    obs = 1 - np.exp(-np.arange(40.0))[:, None]
    episode = {"actions": np.ones((39, 1)), "rewards": np.ones(39), "terminated": 0}
    assert len(from_episodes([{"obs": obs, **episode}]).obs) == 40


def test_a_constant_reward_without_an_end_is_nothing_to_learn_from():
    ends = np.tile([0, 0, 1], 3).astype(np.float32)
    same = Dataset(np.zeros((9, 2)), np.zeros((9, 1)), -np.ones(9), np.zeros(9), ends)
    with pytest.warns(RuntimeWarning, match="all `rewards` are -1 and no transition is"):
        check_seen(same)
    check_seen(same._replace(terminated=np.tile([0, 1, 0], 3).astype(np.float32)))
    check_seen(same._replace(rewards=np.arange(9.0)))
