"""The same tiny episodes, written in each format by its own library, give the same chunks."""

import json

import numpy as np
import pytest
from test_arrays import as_transitions, assert_same_chunks, episodes

from qgf_eqx.data import DatasetError, open_dataset


def write_npz(path):
    from qgf_eqx.data import from_episodes

    dataset = from_episodes(episodes())
    np.savez(path / "own.npz", **dataset._replace(obs=dataset.obs["state"])._asdict())
    return path / "own.npz", episodes()


def write_d4rl(path, *, following=True):
    import h5py

    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    fields = dict(zip(names, as_transitions(episodes()), strict=True))
    fields["timeouts"] = fields["timeouts"] * (1 - fields["terminals"]) > 0
    with h5py.File(path / "d4rl.hdf5", "w") as file:
        for name, field in fields.items():
            if following or name != "next_observations":
                file[name] = field
    return path / "d4rl.hdf5", episodes() if following else short()


def short():
    """The episodes without their last observations."""
    return [{**e, "obs": {"state": e["obs"]["state"][:-1]}} for e in episodes()]


def write_d4rl_without_next(path):
    return write_d4rl(path, following=False)


def write_robomimic(path):
    import h5py

    with h5py.File(path / "robomimic.hdf5", "w") as file:
        for i, e in enumerate(episodes()):
            group = file.create_group(f"data/demo_{i}")
            group["obs/state"] = e["obs"]["state"][:-1]
            group["next_obs/state"] = e["obs"]["state"][1:]
            group["actions"], group["rewards"] = e["actions"], e["rewards"]
            group["dones"] = (np.arange(len(e["actions"])) == len(e["actions"]) - 1) * e[
                "terminated"
            ]
    return path / "robomimic.hdf5", episodes()


def write_lerobot(path):
    from pyarrow import parquet, table

    features = {"observation.state": {"dtype": "float32", "shape": [3]}}
    features |= {"observation.image": {"dtype": "video", "shape": [8, 8, 3]}}
    features |= {"action": {"dtype": "float32", "shape": [2]}}
    features |= {"next.reward": {"dtype": "float32"}, "next.done": {"dtype": "bool"}}
    (path / "meta").mkdir()
    (path / "data" / "chunk-000").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "features": features}
    (path / "meta" / "info.json").write_text(json.dumps(info))
    for i, e in enumerate(short()):
        count = len(e["actions"])
        done = np.append(np.zeros(count - 1, bool), e["terminated"])
        columns = {"observation.state": list(e["obs"]["state"]), "action": list(e["actions"])}
        columns |= {"next.reward": e["rewards"].astype(np.float32), "next.done": done}
        columns |= {"episode_index": np.full(count, i), "frame_index": np.arange(count)}
        file = path / "data" / "chunk-000" / f"file-{i:03d}.parquet"
        parquet.write_table(table(columns), file)
    return path, short()


def write_minari(path):
    import minari
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=e["obs"],
            actions=e["actions"],
            rewards=list(e["rewards"]),
            terminations=[False] * (len(e["actions"]) - 1) + [e["terminated"]],
            truncations=[False] * (len(e["actions"]) - 1) + [not e["terminated"]],
            infos={},
        )
        for e in episodes()
    ]
    spaces = {"observation_space": Dict({"state": Box(-9, 9, (3,))})}
    spaces |= {"action_space": Box(-9, 9, (2,))}
    minari.create_dataset_from_buffers("tiny/test-v0", buffers, **spaces)
    return "tiny/test-v0", episodes()


WRITERS = [write_npz, write_d4rl, write_d4rl_without_next, write_robomimic, write_lerobot]


@pytest.mark.filterwarnings("ignore")  # Minari's own: no author, no environment
@pytest.mark.parametrize("write", [*WRITERS, write_minari])
def test_a_file_of_each_format_gives_the_chunks_of_a_loop(tmp_path, monkeypatch, write):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    source, recorded = write(tmp_path)
    dataset, text = open_dataset(source)
    assert_same_chunks(dataset, recorded)
    assert str(source) in text and "read as" in text and "3 episodes" in text


def test_what_is_not_there_or_damaged_is_one_sentence(tmp_path):
    with pytest.raises(DatasetError, match="does not exist. Known are"):
        open_dataset(tmp_path / "none.hdf5")
    (tmp_path / "cut.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DatasetError, match="not an intact HDF5 file"):
        open_dataset(tmp_path / "cut.hdf5")


def test_an_hdf5_file_of_another_layout_is_of_no_known_format(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data"] = np.zeros(3)
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.create_group("data/demo_a")
    for name in "ab":
        with pytest.raises(DatasetError, match="is of no known format"):
            open_dataset(tmp_path / f"{name}.hdf5")


def test_a_feature_of_lerobot_that_is_no_feature_is_left_out(tmp_path):
    source, recorded = write_lerobot(tmp_path)
    path = source / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"]["observation.note"] = "a text"
    path.write_text(json.dumps(info))
    assert_same_chunks(open_dataset(source)[0], recorded)


def test_a_d4rl_file_that_does_not_say_where_episodes_end_is_refused_or_warned_of(tmp_path):
    h5py = pytest.importorskip("h5py")

    def written(**fields):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            for name, field in fields.items():
                file[name] = np.asarray(field, np.float32)
        return open_dataset(tmp_path / "a.hdf5")[0]

    flat = {"observations": np.eye(6), "actions": np.ones((6, 1)), "rewards": np.ones(6)}
    ends = np.isin(np.arange(6), [2])
    with pytest.raises(DatasetError, match="nothing says where one episode ends"):
        written(**flat, terminals=np.zeros(6))
    with pytest.warns(UserWarning, match="has no `timeouts`: all rows up to a terminal"):
        written(**flat, terminals=ends)
    assert written(**flat, terminals=np.zeros(6), timeouts=ends).episode_end.sum() == 2


def test_a_d4rl_file_names_what_it_lacks(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations"], file["actions"] = np.ones((4, 2)), np.ones((4, 1))
        file["terminals"] = np.zeros(4)
    with pytest.raises(DatasetError, match="lacks rewards, which a D4RL file has"):
        open_dataset(tmp_path / "a.hdf5")
