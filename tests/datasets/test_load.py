import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from qgf_eqx.datasets import DatasetError, dataset_name, env_id, from_file, load
from qgf_eqx.datasets._load import open_arrays

ENV = "pointmaze-medium-navigate-singletask-task1-v0"


def test_names_are_taken_apart():
    name = "cube-single-play-singletask-task2-v0"
    assert dataset_name(name) == "cube-single-play-v0"
    assert env_id(name) == "cube-single-singletask-task2-v0"
    assert env_id("scene-play-singletask-v0") == "scene-singletask-v0"
    assert dataset_name("scene-play-singletask-v0") == "scene-play-v0"
    with pytest.raises(DatasetError, match="no single-task environment"):
        env_id("cube-single-play-v0")


def test_rewards_and_masks_are_ogbenchs_own(write_npz, tmp_path):
    import ogbench

    goal = np.array([20.0, 20.0])
    path = write_npz(qpos=np.tile(goal, (12, 1)).astype(np.float32) * (np.arange(12)[:, None] == 3))
    write_npz("pointmaze-medium-navigate-v0-val.npz")
    ours = load(ENV, tmp_path)
    _, theirs, _ = ogbench.make_env_and_datasets(ENV, dataset_path=str(path))
    keep = ours.terminals == 0
    for field, other in (("observations",) * 2, ("actions",) * 2, ("rewards",) * 2, ("masks",) * 2):
        np.testing.assert_array_equal(getattr(ours, field)[keep], theirs[other])
    assert ours.rewards[3] == 0 and ours.masks[3] == 0 and ours.rewards.sum() == -11


def test_arrays_are_converted_once_and_mapped(write_npz):
    path = write_npz()
    first = open_arrays(path)
    assert all(isinstance(a, np.memmap) and a.dtype == np.float32 for a in first.values())
    folder = path.with_name(f"{path.stem}.arrays")
    made = os.stat(folder / "actions.npy").st_mtime_ns
    open_arrays(path)
    assert os.stat(folder / "actions.npy").st_mtime_ns == made
    assert not list(path.parent.glob(".*tmp"))
    write_npz(rows=20)
    os.utime(path, ns=(1, 1))
    assert len(open_arrays(path)["actions"]) == 20


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_converted_array_that_changed_is_refused(write_npz, harm):
    path = write_npz()
    open_arrays(path)
    file = path.with_name(f"{path.stem}.arrays") / "actions.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(data if harm == "flip" else data[:-5])
    with pytest.raises(
        DatasetError, match=r"actions.npy .*(checksum|cannot be read).*Delete the folder"
    ):
        open_arrays(path)


def test_meta_that_is_no_json_is_made_anew(write_npz):
    path = write_npz()
    open_arrays(path)
    (path.with_name(f"{path.stem}.arrays") / "meta.json").write_text("{")
    assert len(open_arrays(path)["actions"]) == 12


ROWS = 12
BAD = {
    "missing field": ({"drop": ["actions"]}, "field `actions` is missing; it holds"),
    "unequal lengths": (
        {"actions": np.zeros((5, 2))},
        "`actions` has 5 rows, but `terminals` has 12",
    ),
    "nan": ({"observations": np.full((ROWS, 2), np.nan)}, "`observations` holds NaN or infinite"),
    "actions out of range": (
        {"actions": np.full((ROWS, 2), 1.5)},
        r"`actions` reaches 1.5; .* \[-1, 1\]",
    ),
    "no terminals": ({"terminals": np.zeros(ROWS, bool)}, "`terminals` marks no end"),
    "odd terminals": (
        {"terminals": np.full(ROWS, 3)},
        "`terminals` holds numbers other than 0 and 1",
    ),
    "a wrong rank": (
        {"actions": np.zeros(ROWS)},
        r"`actions` has shape \(12,\); it must have 2 axes",
    ),
    "text": ({"actions": np.full((ROWS, 2), "a")}, "`actions` holds <U1 and not numbers"),
    "complex": ({"actions": np.zeros((ROWS, 2), complex)}, "`actions` holds complex128"),
    "one row": (
        {
            "rows": 2,
            "drop": (),
            "terminals": np.ones(1, bool),
            "observations": np.zeros((1, 2)),
            "actions": np.zeros((1, 2)),
            "qpos": np.zeros((1, 2)),
            "qvel": np.zeros((1, 2)),
        },
        "holds 1 rows: no transition",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_by_file_and_field(write_npz, tmp_path, case):
    changes, message = BAD[case]
    path = write_npz(**changes)
    with pytest.raises(DatasetError, match=message) as error:
        load(ENV, tmp_path)
    assert str(path) in str(error.value)
    assert os.listdir(tmp_path) == [path.name]  # no side effect


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("was-executed",))


def test_a_pickle_is_never_executed(write_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_npz(actions=np.array([[Bomb()] * 2] * ROWS, dtype=object))
    with pytest.raises(DatasetError, match="`actions` holds object and not numbers"):
        load(ENV, tmp_path)
    assert not (tmp_path / "was-executed").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04" + b"\0" * 50])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "pointmaze-medium-navigate-v0.npz").write_bytes(content)
    with pytest.raises(DatasetError, match="no intact .npz file"):
        load(ENV, tmp_path)


def test_a_truncated_file_is_refused(write_npz, tmp_path):
    path = write_npz()
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(DatasetError):
            load(ENV, tmp_path)
        assert os.listdir(tmp_path) == [path.name]


def test_flipped_bytes_are_refused_or_harmless(write_npz, tmp_path):
    path = write_npz()
    data = path.read_bytes()
    whole = {name: array.copy() for name, array in open_arrays(path).items()}
    for position in range(0, len(data), 11):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :])
        os.utime(path, ns=(position, position))
        try:
            found = open_arrays(path)
        except DatasetError:
            continue
        for name in found:
            np.testing.assert_array_equal(found[name], whole[name])


def test_a_zip_bomb_is_refused_before_it_is_unpacked(write_npz, tmp_path):
    path = write_npz()
    rows = 40_000_000
    header = {"descr": "|b1", "fortran_order": False, "shape": (rows,)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for field in ("observations", "actions", "terminals"):
            shape = (rows,) if field == "terminals" else (rows, 1)
            with archive.open(f"{field}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
                for _ in range(rows // 1_000_000):
                    file.write(bytes(1_000_000))
    with pytest.raises(DatasetError, match="would unpack from"):
        load(ENV, tmp_path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_header_that_lies_about_its_size_is_refused(write_npz, tmp_path):
    path = write_npz()
    with zipfile.ZipFile(path, "a") as archive:
        pass
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lie = members["actions.npy"].replace(b"(12, 2)", b"(99, 2)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {"actions.npy": lie}).items():
            archive.writestr(name, data)
    with pytest.raises(DatasetError, match="`actions` says it has .* bytes, but holds"):
        load(ENV, tmp_path)


def test_rewards_that_cannot_be_computed_are_explained(write_npz, tmp_path):
    write_npz(drop=["qpos"])
    with pytest.raises(DatasetError, match="field `qpos` is missing, from which the rewards"):
        load(ENV, tmp_path)


def test_a_missing_file_says_what_to_do(tmp_path, monkeypatch):
    import ogbench

    def unreachable(names, folder):
        raise OSError("no network")

    monkeypatch.setattr(ogbench, "download_datasets", unreachable)
    with pytest.raises(
        DatasetError,
        match=r"could not be downloaded .*`qgf-eqx collect pointmaze-medium-navigate-v0",
    ):
        load(ENV, tmp_path)


def test_your_own_file_brings_its_own_rewards(write_npz):
    extra = {"rewards": np.zeros(ROWS), "masks": np.ones(ROWS)}
    assert from_file(write_npz(**extra)).rewards.shape == (ROWS,)
    with pytest.raises(DatasetError, match="field `rewards` is missing"):
        from_file(write_npz("other.npz"))
    with pytest.raises(DatasetError, match="`rewards` holds NaN"):
        from_file(write_npz("third.npz", **extra | {"rewards": np.full(ROWS, np.nan)}))


def test_an_unknown_split_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="`split` must be `train` or `val`, got 'validation'"):
        load(ENV, tmp_path, split="validation")
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        from_file(tmp_path / "none.npz")


def test_several_processes_may_open_a_new_file_at_once(write_npz):
    path = write_npz(rows=4000)
    code = f"from qgf_eqx.datasets._load import open_arrays; from pathlib import Path; open_arrays(Path({str(path)!r}))"
    for _ in range(2):
        shutil.rmtree(path.with_name(f"{path.stem}.arrays"), ignore_errors=True)
        several = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
        assert [process.wait() for process in several] == [0, 0, 0]


def test_checksums_and_source_are_in_meta(write_npz):
    path = write_npz()
    open_arrays(path)
    meta = json.loads((path.with_name(f"{path.stem}.arrays") / "meta.json").read_text())
    assert meta["source"]["bytes"] == path.stat().st_size
    assert all(len(field["sha256"]) == 64 for field in meta["fields"].values())
