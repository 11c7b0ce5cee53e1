"""OGBench datasets by name: checked, converted once to memory-mapped arrays, given rewards.

A dataset file is a zip of arrays. It is looked at before it is read, read in blocks, and
written as one float32 `.npy` per field beside a `meta.json` with their checksums; from then on
it is memory-mapped. Nothing here can load a pickle.
"""

import fcntl
import hashlib
import json
import lzma
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from .._files import sync_folder
from ._environments import check_env, make_env
from ._error import DatasetError

_FORMAT = 1
_NEEDED = ("observations", "actions", "terminals")
_FIELDS = (*_NEEDED, "qpos", "qvel", "button_states", "rewards", "masks")
_BLOCK = 1 << 24
_VERIFY_BELOW = 1 << 30
# What `zipfile` raises on damaged, encrypted and exotic archives.
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    UnicodeDecodeError,
)


class Dataset(NamedTuple):
    """Episodes end to end, one row per state, as in OGBench's files.

    The last row of an episode (`terminals` 1) has no successor; every other row's is the next.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    """Of the row's own state: minus the number of sub-goals that are not satisfied."""
    masks: np.ndarray
    """0 where the task is solved, which stops the bootstrap; else 1."""
    terminals: np.ndarray
    """1 on the last row of an episode, by time limit as a rule; else 0."""


def dataset_name(env_name: str) -> str:
    """The dataset of a task: `cube-single-play-singletask-task2-v0` is made of
    `cube-single-play-v0`."""
    parts = [p for p in env_name.split("-") if p != "singletask"]
    return "-".join(p for p in parts if not (p[:4] == "task" and p[4:].isdigit()))


def env_id(env_name: str) -> str:
    """The Gymnasium id of a task: the name without the kind of its data.

    **Raises:** `DatasetError` if the name is not of a single-task environment.
    """
    parts = env_name.split("-")
    if "singletask" not in parts or parts.index("singletask") < 2:
        raise DatasetError(
            f"`{env_name}` is no single-task environment, so it has no rewards. Use a name like "
            "`cube-single-play-singletask-task2-v0` (tasks 1 to 5)."
        )
    at = parts.index("singletask")
    name = "-".join(parts[: at - 1] + parts[at:])
    check_env(name)
    return name


def load(env_name: str, data_dir: str | Path, *, split: str = "train") -> Dataset:
    """The dataset of an OGBench single-task environment, with the rewards of its task.

    Reads `<dataset>.npz` (or `-val.npz`) in `data_dir`, as downloaded from OGBench's site or
    made by `collect`. A file that is not there is downloaded, if the site can be reached.

    **Arguments:**

    - `env_name`: say `cube-single-play-singletask-task2-v0`.
    - `data_dir`: the folder of the dataset files.
    - `split`: `train` or `val`.

    **Returns:** a `Dataset` of memory-mapped arrays (rewards and masks in memory).

    **Raises:** `DatasetError` naming the file and the field, if either is missing, damaged,
    holds anything but numbers, or numbers that cannot be right.
    """
    from ogbench.relabel_utils import relabel_dataset

    if split not in ("train", "val"):
        raise DatasetError(f"`split` must be `train` or `val`, got {split!r}.")
    env = env_id(env_name)
    name = dataset_name(env_name)
    path = Path(data_dir) / f"{name}{'-val' if split == 'val' else ''}.npz"
    if not path.exists():
        _download(name, path)
    fields = open_arrays(path)
    for field in (
        "qpos",
        *(("button_states",) if env.split("-")[0] in ("scene", "puzzle") else ()),
    ):
        if field not in fields:
            raise DatasetError(
                f"{path}: field `{field}` is missing, from which the rewards of `{env_name}` are "
                "computed. Get the file again, or collect it here with `qgf-eqx collect`."
            )
    labelled = {field: fields[field] for field in fields if field in ("qpos", "button_states")}
    relabel_dataset(env, make_env(env), labelled)
    fields |= labelled
    return Dataset(*(fields[field] for field in Dataset._fields))


def from_file(path: str | Path) -> Dataset:
    """A dataset of your own: an `.npz` with the fields of `Dataset`, checked and converted alike.

    **Raises:** `DatasetError` as `load`.
    """
    fields = open_arrays(Path(path))
    for field in Dataset._fields:
        if field not in fields:
            raise DatasetError(f"{path}: field `{field}` is missing.")
    return Dataset(*(fields[field] for field in Dataset._fields))


def open_arrays(path: Path, *, verify: bool | None = None) -> dict[str, np.ndarray]:
    """The fields of a dataset file, memory-mapped; converted first if they are not yet.

    The checksums are verified if `verify`; by default, if the arrays are below 1 GiB.

    **Raises:** `DatasetError` as `load`.
    """
    folder = path.with_name(f"{path.stem}.arrays")
    try:
        with open(path, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes, one converts
            source = path.stat()
            identity = {"format": _FORMAT, "bytes": source.st_size, "mtime_ns": source.st_mtime_ns}
            meta = _read_meta(folder)
            if meta.get("source") != identity:
                meta = _convert(path, folder, identity)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    if verify is None:
        verify = sum(f["bytes"] for f in meta["fields"].values()) < _VERIFY_BELOW
    return {name: _map(folder / f"{name}.npy", f, verify) for name, f in meta["fields"].items()}


def _read_meta(folder: Path) -> dict:
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _map(file: Path, expected: dict, verify: bool) -> np.ndarray:
    advice = f"Delete the folder {file.parent} and run again: it is made anew from the .npz."
    try:
        intact = file.stat().st_size == expected["bytes"]
        if intact and verify:
            intact = _sha256(file) == expected["sha256"]
        if intact:
            return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error}). {advice}") from None
    raise DatasetError(f"{file} does not match its checksum. {advice}")


def _convert(path: Path, folder: Path, identity: dict) -> dict:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with _open_zip(path) as archive:
            headers = _inspect(path, archive)
            temporary.mkdir()
            fields = {name: _copy(path, archive, name, temporary) for name in headers}
        meta = {"source": identity, "fields": fields}
        with open(temporary / "meta.json", "w") as file:
            json.dump(meta, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise DatasetError(f"{path} cannot be converted in its folder: {error}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return meta


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGE as error:
        raise DatasetError(
            f"{path} is no intact .npz file ({type(error).__name__}: {error}). Download or collect "
            "it again."
        ) from None


def _inspect(path: Path, archive: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shapes and dtypes of the fields, from their headers alone, checked."""
    members = {info.filename: info for info in archive.infolist()}
    for field in _NEEDED:
        if f"{field}.npy" not in members:
            raise DatasetError(
                f"{path}: field `{field}` is missing; it holds {sorted(members)}. Is it an OGBench "
                "dataset?"
            )
    headers = {}
    for field in _FIELDS:
        info = members.get(f"{field}.npy")
        if info is None:
            continue
        with archive.open(info) as file:
            shape, dtype, start = _read_header(path, field, file)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize + start
        if size != info.file_size:
            raise DatasetError(
                f"{path}: field `{field}` says it has {size} bytes, but holds {info.file_size}."
            )
        headers[field] = shape, dtype
    _check_shapes(path, {field: shape for field, (shape, _) in headers.items()})
    used = [members[f"{field}.npy"] for field in headers]
    unpacked, packed = sum(i.file_size for i in used), sum(i.compress_size for i in used)
    if unpacked > 500 * packed + (1 << 20):
        raise DatasetError(
            f"{path} would unpack from {packed} to {unpacked} bytes: no recording of a robot "
            "compresses so well. It is refused."
        )
    if unpacked > shutil.disk_usage(path.parent).free:
        raise DatasetError(f"{path} needs {unpacked} bytes of disk beside it; fewer are free.")
    return headers


def _read_header(
    path: Path, field: str, file: IO[bytes] | BufferedIOBase
) -> tuple[tuple[int, ...], np.dtype, int]:
    try:
        major, _ = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read[major](file)
    except (ValueError, KeyError, EOFError) as error:
        raise DatasetError(f"{path}: field `{field}` is no intact array ({error}).") from None
    if dtype.hasobject or dtype.kind not in "fiub":
        raise DatasetError(
            f"{path}: field `{field}` holds {dtype} and not numbers; it is not loaded."
        )
    if fortran and len(shape) > 1:
        raise DatasetError(f"{path}: field `{field}` is in column order; save it in row order.")
    return shape, dtype, file.tell()


def _check_shapes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    for field, shape in shapes.items():
        rank = 1 if field in ("terminals", "rewards", "masks") else 2
        if len(shape) != rank:
            raise DatasetError(
                f"{path}: field `{field}` has shape {shape}; it must have {rank} axes."
            )
        if shape[0] != shapes["terminals"][0]:
            raise DatasetError(
                f"{path}: field `{field}` has {shape[0]} rows, but `terminals` has "
                f"{shapes['terminals'][0]}."
            )
    if shapes["terminals"][0] < 2:
        raise DatasetError(f"{path} holds {shapes['terminals'][0]} rows: no transition.")


def _copy(path: Path, archive: zipfile.ZipFile, field: str, folder: Path) -> dict:
    """Copies a field to float32 `.npy`, block by block, and checks its numbers on the way."""
    target = folder / f"{field}.npy"
    ended = False
    with archive.open(f"{field}.npy") as source, open(target, "wb") as sink:
        shape, dtype, _ = _read_header(path, field, source)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(sink, header)
        block = _BLOCK - _BLOCK % dtype.itemsize
        while data := source.read(block):
            numbers = np.frombuffer(data, dtype).astype("<f4")
            _check_numbers(path, field, numbers)
            ended = ended or (field == "terminals" and bool(numbers.any()))
            sink.write(numbers.tobytes())
        sink.flush()
        os.fsync(sink.fileno())
    if field == "terminals" and not ended:
        raise DatasetError(f"{path}: field `terminals` marks no end of an episode.")
    return {"bytes": target.stat().st_size, "sha256": _sha256(target)}


def _check_numbers(path: Path, field: str, numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise DatasetError(f"{path}: field `{field}` holds NaN or infinite numbers.")
    if field == "actions" and np.abs(numbers).max(initial=0) > 1 + 1e-5:
        raise DatasetError(
            f"{path}: field `actions` reaches {np.abs(numbers).max():g}; actions must be in "
            "[-1, 1]. Rescale them."
        )
    if field in ("terminals", "masks") and not np.isin(numbers, (0, 1)).all():
        raise DatasetError(f"{path}: field `{field}` holds numbers other than 0 and 1.")


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(name: str, path: Path) -> None:
    import ogbench

    try:
        ogbench.download_datasets([name], str(path.parent))
    except OSError as error:
        for leftover in path.parent.glob(f"{name}*.tmp"):
            leftover.unlink()
        raise DatasetError(
            f"{path} does not exist and could not be downloaded ({error}). Put the public file "
            f"there, or make one on this machine: `qgf-eqx collect {name} --data-dir "
            f"{path.parent}`."
        ) from None
