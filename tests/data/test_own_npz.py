"""What is said of an `.npz` of one's own that would train wrong."""

import warnings

import numpy as np
import pytest

from qgf_eqx.data import DatasetError, open_dataset


def write(folder, **changed):
    """Two episodes of three actions; the state after the last action is a row."""
    ended = np.array([0, 0, 1, 0, 0, 0, 1, 0], np.float32)
    fields = {"obs": np.arange(16.0).reshape(8, 2), "actions": np.zeros((8, 1))}
    fields |= {"rewards": ended, "terminated": ended, "episode_end": np.roll(ended, 1)} | changed
    path = folder / "mine.npz"
    np.savez(path, **{name: f.astype(np.float32) for name, f in fields.items() if f is not None})
    return path


def test_a_missing_field_is_named_with_all_that_a_dataset_has(tmp_path):
    for name in ("terminated", "episode_end", "obs"):
        with pytest.raises(DatasetError, match="`obs`, `actions`, `rewards`, `terminated`.*`epis"):
            open_dataset(write(tmp_path, **{name: None}))


def test_ends_in_rows_that_are_not_used_are_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, text = open_dataset(write(tmp_path))
    assert "2 transitions ended the task" in text
    last = np.roll(np.array([0, 0, 1, 0, 0, 0, 1, 0]), 1)
    with pytest.warns(RuntimeWarning, match=r"last rows of episodes only \(2 times\).*`from_trans"):
        open_dataset(write(tmp_path, terminated=last))


def test_ends_of_which_only_the_last_is_marked_are_warned_of(tmp_path):
    rows = np.arange(20)
    done, last = rows % 5 == 3, rows == 19
    fields = {"obs": np.ones((20, 1)), "actions": np.ones((20, 1)), "rewards": done * 1.0}
    np.savez(tmp_path / "a.npz", **fields, terminated=done * 1.0, episode_end=last * 1.0)
    with pytest.warns(RuntimeWarning, match="1 in 4 rows, and `episode_end` in the last row alone"):
        open_dataset(tmp_path / "a.npz")
