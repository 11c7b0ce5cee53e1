import errno
import fcntl
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from qgf_eqx.data import Dataset, DatasetError, _fingerprint, dataset_name, env_id, from_file, load
from qgf_eqx.data._convert import open_arrays
from qgf_eqx.data._fingerprint import _of_field, differing, fingerprint

ENV = "pointmaze-medium-navigate-singletask-task1-v0"


def test_names_are_taken_apart():
    name = "cube-single-play-singletask-task2-v0"
    assert dataset_name(name) == "cube-single-play-v0"
    assert env_id(name) == "cube-single-singletask-task2-v0"
    assert env_id("scene-play-singletask-v0") == "scene-singletask-v0"
    assert dataset_name("scene-play-singletask-v0") == "scene-play-v0"
    with pytest.raises(DatasetError, match="not a single-task environment"):
        env_id("cube-single-play-v0")


def test_rewards_and_masks_are_ogbenchs_own(write_npz, tmp_path):
    import ogbench

    goal = np.array([20.0, 20.0])
    path = write_npz(qpos=np.tile(goal, (12, 1)).astype(np.float32) * (np.arange(12)[:, None] == 3))
    write_npz("pointmaze-medium-navigate-v0-val.npz")
    ours = load(ENV, tmp_path)
    _, theirs, _ = ogbench.make_env_and_datasets(ENV, dataset_path=str(path))
    keep = ours.episode_end == 0
    for field, other in (("obs", "observations"), ("actions",) * 2, ("rewards",) * 2):
        np.testing.assert_array_equal(getattr(ours, field)[keep], theirs[other])
    np.testing.assert_array_equal(1 - ours.terminated[keep], theirs["masks"])
    assert ours.rewards[3] == 0 and ours.terminated[3] == 1 and ours.rewards.sum() == -11


def test_loading_leaves_no_temporary_file_and_no_descriptor(write_npz, tmp_path, monkeypatch):
    write_npz()
    load(ENV, tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        load(ENV, tmp_path)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not os.listdir(tmp_path / "temporary")


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
    "a scalar": (
        {"terminals": np.ones((), bool)},
        r"`terminals` has shape \(\); it must have 1 axes",
    ),
    "no columns": ({"actions": np.zeros((ROWS, 0))}, r"`actions` has shape \(12, 0\): no column"),
    "one column of qpos": ({"qpos": np.zeros((ROWS, 1))}, "`qpos` has 1 columns, but .* has 2"),
    "three of qpos": ({"qpos": np.zeros((ROWS, 3))}, "`qpos` has 3 columns, but .* has 2"),
    "three of qvel": ({"qvel": np.zeros((ROWS, 3))}, "`qvel` has 3 columns, but .* has 2"),
    "wide observations": (
        {"observations": np.zeros((ROWS, 28))},
        "`observations` has 28 columns, but .* has 2. Is it a file of another environment",
    ),
    "wide actions": ({"actions": np.zeros((ROWS, 5))}, "`actions` has 5 columns, but .* has 2"),
    "beyond float32": ({"observations": np.full((ROWS, 2), 1e300)}, "holds NaN or infinite"),
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
    converted = [f"{path.stem}.arrays"] if "columns, but" in message else []
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *converted])  # no side effect


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
    with pytest.raises(DatasetError, match="not an intact .npz file"):
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
    with pytest.raises(DatasetError, match="field `qpos` is missing; the rewards"):
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


def test_your_own_file_may_use_the_names_of_today_or_of_ogbench(write_npz):
    rng = np.random.default_rng(1)
    solved, rewards = rng.uniform(size=ROWS) < 0.3, rng.normal(size=ROWS)
    old = write_npz("old.npz", rewards=rewards, masks=~solved)
    fields = dict(np.load(old, allow_pickle=False))
    new = {"obs": fields["observations"], "actions": fields["actions"], "rewards": rewards}
    new |= {"terminated": solved, "episode_end": fields["terminals"]}
    np.savez(old.with_name("new.npz"), **new)
    for a, b in zip(from_file(old), from_file(old.with_name("new.npz")), strict=True):
        np.testing.assert_array_equal(a, b)
    assert from_file(old).terminated.sum() == solved.sum() > 0


@pytest.mark.parametrize("name", ["obs", "observations"])
def test_pictures_stay_bytes(tmp_path, name):
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    ends = np.array([0, 0, 0, 0, 0, 1])
    fields = {"actions": np.zeros((6, 2)), "terminals": ends, "rewards": -ends, "masks": 1 - ends}
    np.savez(tmp_path / "p.npz", **fields, **{name: pictures})
    for _ in range(2):  # converted, then mapped
        found = from_file(tmp_path / "p.npz").obs
        assert found.dtype == np.uint8 and np.array_equal(found, pictures)


def test_an_identity_of_version_0_1_is_compared_on_what_both_have(write_npz):
    dataset = from_file(own_file(write_npz))
    now = fingerprint(dataset)
    old = {"observations": now["obs"], "terminals": now["episode_end"], "masks": "not comparable"}
    old |= {"actions": now["actions"], "rewards": now["rewards"]}
    assert differing(old, now) == [] and differing(dict(now), now) == []
    assert differing(old | {"observations": "x", "rewards": "y"}, now) == ["obs", "rewards"]
    assert differing({**now, "obs['camera']": "x"}, now) == ["obs['camera']"]
    assert differing("no identity", now) == list(now)


def test_the_identity_of_a_dict_of_observations_is_that_of_each_array(write_npz):
    dataset = from_file(own_file(write_npz))
    nested = dataset._replace(obs={"state": dataset.obs, "goal": dataset.obs[:, :1]})
    other = nested._replace(obs={**nested.obs, "goal": 1 + dataset.obs[:, :1]})
    assert differing(fingerprint(nested), fingerprint(other)) == ["obs['goal']"]


def test_converted_arrays_go_where_they_can_be_written(write_npz, tmp_path, monkeypatch):
    path = own_file(write_npz)
    from_file(path, cache_dir=tmp_path / "chosen")
    assert len(os.listdir(tmp_path / "chosen")) == 1 and not path.with_name("own.arrays").exists()
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: p != path.parent and real(p, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    path.with_name("own.arrays").mkdir()  # of an older file
    assert len(from_file(path).rewards) == ROWS
    assert len(os.listdir(tmp_path / "home" / "qgf_eqx")) == 1
    assert not os.listdir(path.with_name("own.arrays"))
    (tmp_path / "file").touch()
    with pytest.raises(
        DatasetError, match="cannot be written to .*file .*name another .*`--cache-dir`"
    ):
        from_file(path, cache_dir=tmp_path / "file")


def test_an_unknown_split_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="`split` must be `train` or `val`, got 'validation'"):
        load(ENV, tmp_path, split="validation")
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        from_file(tmp_path / "none.npz")


_OPENING = """
import os, shutil, sys
from pathlib import Path
from qgf_eqx.data._convert import open_arrays
for _ in range(2):
    shutil.rmtree(sys.argv[1].replace(".npz", ".arrays"), ignore_errors=True)
    for _ in range(3):
        if os.fork() == 0:
            open_arrays(Path(sys.argv[1]))
            sys.exit()
    print([os.wait()[1] for _ in range(3)], flush=True)
"""


def test_several_processes_may_open_a_new_file_at_once(write_npz):
    path = write_npz(rows=4000)
    done = subprocess.run([sys.executable, "-c", _OPENING, path], stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stdout == b"[0, 0, 0]\n" * 2


def test_checksums_and_source_are_in_meta(write_npz):
    path = write_npz()
    open_arrays(path)
    meta = json.loads((path.with_name(f"{path.stem}.arrays") / "meta.json").read_text())
    assert meta["source"]["bytes"] == path.stat().st_size
    assert all(len(field["sha256"]) == 64 for field in meta["fields"].values())


def own_file(write_npz):
    return write_npz("own.npz", rewards=np.zeros(ROWS), masks=np.ones(ROWS))


def test_no_flipped_byte_of_a_header_gives_a_traceback(write_npz):
    path = own_file(write_npz)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    refused = 0
    for name, data in members.items():
        for position in range(128):
            for flip in (0x01, 0x20, 0x80):
                harmed = bytearray(data)
                harmed[position] ^= flip
                content = io.BytesIO()
                with zipfile.ZipFile(content, "w") as archive:
                    for other, kept in members.items():
                        archive.writestr(other, bytes(harmed) if other == name else kept)
                path.write_bytes(content.getvalue())
                try:
                    from_file(path)
                except DatasetError as error:
                    refused += 1
                    assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 1000


def test_no_flipped_byte_of_a_converted_header_gives_a_traceback(write_npz):
    path = own_file(write_npz)
    whole = {name: array.copy() for name, array in open_arrays(path).items()}
    for name in ("observations", "terminals"):
        file = path.with_name("own.arrays") / f"{name}.npy"
        data = file.read_bytes()
        for position in range(128):
            for flip in (0x01, 0x20, 0x80):
                harmed = bytearray(data)
                harmed[position] ^= flip
                file.write_bytes(harmed)
                try:
                    found = open_arrays(path, verify=False)[name]
                except DatasetError:
                    continue
                np.testing.assert_array_equal(found, whole[name])
        file.write_bytes(data)


def substitutes(document):
    """The document with one value replaced, or one key removed, everywhere."""
    yield from (None, True, -1, 1e999, 2**70, "", "x", "../x", [], {}, [[]], {"a": 1})
    if isinstance(document, dict):
        for key, value in document.items():
            rest = {k: v for k, v in document.items() if k != key}
            yield from (rest, {**rest, "../x": value})
            yield from ({**document, key: other} for other in substitutes(value))


def test_no_json_in_meta_gives_a_traceback(write_npz):
    path = own_file(write_npz)
    whole = {name: np.array(array) for name, array in from_file(path)._asdict().items()}
    meta = path.with_name("own.arrays") / "meta.json"
    before = meta.read_text()
    texts = [json.dumps(other).encode() for other in substitutes(json.loads(before))]
    for text in [*texts, b"", b"\xff\xfe", b"[" * 10**5, b"\0", b"NaN"]:
        meta.write_bytes(text)
        try:
            found = from_file(path)
        except DatasetError as error:
            assert "\n" not in str(error)
            shutil.rmtree(meta.parent)
            from_file(path)
        else:
            for name, field in found._asdict().items():
                np.testing.assert_array_equal(field, whole[name])


def test_a_killed_conversion_is_cleared(write_npz):
    path = write_npz()
    for name in (".pointmaze-medium-navigate-v0.arrays.77.tmp", ".other.arrays.77.tmp"):
        (path.parent / name).mkdir()
        (path.parent / name / "actions.npy").write_text("half")
    open_arrays(path)
    assert [p.name for p in path.parent.glob(".*.tmp")] == [".other.arrays.77.tmp"]


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_is_converted_on(write_npz, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = write_npz()
    leftover = path.with_name(f".{path.stem}.arrays.77.tmp")
    leftover.mkdir()
    assert len(open_arrays(path)["actions"]) == ROWS
    assert leftover.exists()  # without a lock it may be another process's


def test_without_locks_the_arrays_of_a_faster_process_are_taken(write_npz, monkeypatch):
    path, real = write_npz(), Path.rename
    folder = path.with_name(f"{path.stem}.arrays")

    def late(temporary, target):
        shutil.copytree(temporary, folder)
        return real(temporary, target)  # the target is there, and not empty

    monkeypatch.setattr(Path, "rename", late)
    assert len(open_arrays(path)["actions"]) == ROWS
    assert not list(path.parent.glob(".*.tmp"))


def test_converted_arrays_need_no_lock_and_no_writing(write_npz, monkeypatch):
    path = write_npz()
    open_arrays(path)
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("locked"))
    monkeypatch.setattr(os, "mkdir", lambda *_: pytest.fail("written"))
    assert len(open_arrays(path)["actions"]) == ROWS


def test_a_full_disk_is_one_sentence_and_leaves_nothing(write_npz, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write_npz()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match="cannot be written to .*No space left"):
        open_arrays(path)
    assert os.listdir(path.parent) == [path.name]


def test_a_download_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    import ogbench

    def unreachable(names, folder):
        os.makedirs(folder)
        raise OSError("no network")

    monkeypatch.setattr(ogbench, "download_datasets", unreachable)
    with pytest.raises(DatasetError, match="could not be downloaded"):
        load(ENV, tmp_path / "data")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("field", Dataset._fields)
def test_the_identity_tells_any_number_apart_wherever_it_lies(write_npz, monkeypatch, field):
    dataset = from_file(own_file(write_npz))
    known = fingerprint(dataset)
    assert fingerprint(Dataset(*(np.array(x) for x in dataset))) == known
    other = Dataset(*(np.array(x) for x in dataset))
    getattr(other, field).flat[7] += 1
    found = fingerprint(other)
    assert {n for n in known if found[n] != known[n]} == {field}


def test_of_a_large_field_blocks_from_the_first_byte_to_the_last_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_fingerprint, "_WHOLE", 1 << 24)  # fewer blocks, every 12 MiB
    rows = 3 << 28  # sparse: 3 GiB that take no space
    array = np.memmap(tmp_path / "field", np.float32, "w+", shape=(rows,))
    known = _of_field(array)
    for where in (0, rows - 1):
        array[where] = 1
        assert _of_field(array) != known
        array[where] = 0
    array[10**8 : 10**8 + 4 * 10**6] = 1  # more than lies between two blocks
    assert _of_field(array) != known


def test_the_validation_split_is_the_validation_file(write_npz, tmp_path):
    write_npz(rows=12)
    write_npz("pointmaze-medium-navigate-v0-val.npz", rows=8)
    for split, rows in (("train", 12), ("val", 8)):
        assert len(load(ENV, tmp_path, split=split).episode_end) == rows
