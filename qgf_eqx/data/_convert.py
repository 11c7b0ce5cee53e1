"""Files of arrays (`.npz`), checked and converted once to memory-mapped arrays.

A file is a zip of arrays. It is looked at before it is read, read in blocks, and
written as one `.npy` per field, pictures as bytes and all else as float32, beside a `meta.json`
with their checksums; from then on it is memory-mapped. Nothing here can load a pickle.
"""

import fcntl
import glob
import hashlib
import json
import lzma
import os
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import IO

import numpy as np

from .._files import sync_folder, temporary_name
from ._dataset import CLOCK, check_shapes, is_picture, lost_clock
from ._error import DatasetError

_FORMAT = 2  # 1 had no bytes
# A file has these, by the names of OGBench or of `Dataset`.
_NEEDED = (("observations", "obs"), ("actions",), ("terminals", "episode_end"))
_FIELDS = ("observations", "obs", "actions", "terminals", "episode_end", "qpos", "qvel")
_FIELDS = (*_FIELDS, "button_states", "rewards", "masks", "terminated")
_ENDS = _NEEDED[-1]
_BLOCK = 1 << 24
_VERIFY_BELOW = 1 << 30
_ANOTHER = "name another folder by `cache_dir` (`--cache-dir`)."
# What `zipfile` raises on damaged, encrypted and exotic archives.
DAMAGE = (
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


FIELDS = (
    "A dataset has `obs`, `actions`, `rewards`, `terminated` (1 where the action ended the task) "
    "and `episode_end` (1 in an episode's last row): a row for each state, the last one included."
)


def open_arrays(
    path: Path,
    *,
    verify: bool | None = None,
    reach: float = float("inf"),
    cache_dir: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """The fields of a dataset file, memory-mapped; converted first if they are not yet.

    They are kept in `cache_dir`; by default beside the file if that can be written, or they are
    there already, else in the user's cache folder.

    Actions beyond `reach` are refused when the file is converted.
    The checksums are verified if `verify`; by default, if the arrays are below 1 GiB.

    **Raises:** `DatasetError` as `load`.
    """
    folder = _folder(path, cache_dir)
    try:
        meta = _read_meta(folder, path)
        if meta is None:
            with _one_at_a_time(path) as alone:
                meta = _read_meta(folder, path) or _convert(path, folder, alone, reach)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    if verify is None:
        verify = sum(f["bytes"] for f in meta["fields"].values()) < _VERIFY_BELOW
    fields = {name: _map(folder / f"{name}.npy", f, verify) for name, f in meta["fields"].items()}
    check_shapes(path, {name: field.shape for name, field in fields.items()}, end=_end(fields))
    return fields


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[bool]:
    """Of several processes, one converts. False inside if the file system has no such locks: then
    each of them does."""
    with open(path, "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _folder(path: Path, cache_dir: str | Path | None) -> Path:
    """Where the arrays of a file are, or will be."""
    beside = path.with_name(f"{path.stem}.arrays")
    if cache_dir is None:
        if not path.exists() or os.access(path.parent, os.W_OK) or _read_meta(beside, path):
            return beside
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qgf_eqx"
    try:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"the arrays of {path} cannot be written to {cache_dir} ({error.strerror}): {_ANOTHER}"
        ) from None
    # Files of one name in different folders are kept apart.
    tag = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    return Path(cache_dir) / f"{path.stem}-{tag}.arrays"


def _check_room(path: Path, folder: Path, headers: dict) -> None:
    needed = sum(
        _kept(dtype, shape).itemsize * int(np.prod(shape, dtype=object))
        for shape, dtype in headers.values()
    )
    if needed > shutil.disk_usage(folder).free:
        raise DatasetError(
            f"{path} needs {needed} bytes of disk in {folder}; fewer are free. Make room, or "
            f"{_ANOTHER}"
        )


def _missing(fields: Iterable[str]) -> str | None:
    """A field that is not there, by all of its names."""
    lacks = [names for names in _NEEDED if not {*names} & {*fields}]
    return " or ".join(f"`{name}`" for name in reversed(lacks[0])) if lacks else None


def _end(fields: Iterable[str]) -> str:
    return next(name for name in _ENDS if name in fields)


def _identity(path: Path) -> dict[str, int]:
    source = path.stat()
    return {"format": _FORMAT, "bytes": source.st_size, "mtime_ns": source.st_mtime_ns}


def _read_meta(folder: Path, path: Path) -> dict | None:
    """What the folder says of itself; None if it is not of this file, or not as we write it."""
    identity = _identity(path)
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        whole = meta["source"] == identity and not _missing(meta["fields"])
        whole = whole and set(meta["fields"]) <= set(_FIELDS)
        for field in meta["fields"].values():
            whole = whole and type(field["bytes"]) is int and type(field["sha256"]) is str
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return meta if whole else None


def _map(file: Path, expected: dict, verify: bool) -> np.ndarray:
    advice = f"Delete the folder {file.parent} and run again: it is made anew from the .npz."
    try:
        intact = file.stat().st_size == expected["bytes"]
        if intact and verify:
            intact = _sha256(file) == expected["sha256"]
        if intact:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array = np.load(file, mmap_mode="r", allow_pickle=False)
            ends = getattr(array, "offset", 0) + array.nbytes  # a damaged header shifts the numbers
            kept = _kept(array.dtype, array.shape)
            if array.dtype == kept and array.flags.c_contiguous and ends == expected["bytes"]:
                return array
    except Exception as error:  # a damaged header raises almost anything
        raise DatasetError(f"{file} cannot be read ({_brief(error)}). {advice}") from None
    raise DatasetError(f"{file} does not match its checksum. {advice}")


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]


def _convert(path: Path, folder: Path, alone: bool, reach: float) -> dict:
    temporary = temporary_name(folder)
    identity = _identity(path)
    if alone:
        for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed
    try:
        with _open_zip(path) as archive:
            headers = _inspect(path, archive)
            _check_room(path, folder.parent, headers)
            temporary.mkdir()
            fields = {name: _copy(path, archive, name, temporary, reach) for name in headers}
        meta = {"source": identity, "fields": fields}
        with open(temporary / "meta.json", "w") as file:
            json.dump(meta, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        faster = _read_meta(folder, path)  # another process's, on a file system without locks
        if faster:
            return faster
        raise DatasetError(
            f"the arrays of {path} cannot be written to {folder.parent} "
            f"({error.strerror or error}): {_ANOTHER}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return meta


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DatasetError:
        raise
    except (*DAMAGE, ValueError) as error:
        raise DatasetError(
            f"{path} is not an intact .npz file ({_brief(error)}). Download or collect it again."
        ) from None


def _inspect(path: Path, archive: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shapes and dtypes of the fields, from their headers alone, checked."""
    members = {info.filename: info for info in archive.infolist()}
    if missing := _missing([name.removesuffix(".npy") for name in members]):
        raise DatasetError(
            f"{path}: field {missing} is missing; it holds {sorted(members)}. {FIELDS}"
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
    shapes = {field: shape for field, (shape, _) in headers.items()}
    check_shapes(path, shapes, end=_end(shapes))
    used = [members[f"{field}.npy"] for field in headers]
    unpacked, packed = sum(i.file_size for i in used), sum(i.compress_size for i in used)
    if unpacked > 500 * packed + (1 << 20):
        raise DatasetError(
            f"{path} would unpack from {packed} to {unpacked} bytes: no recording of a robot "
            "compresses so well. It is refused."
        )
    return headers


def _read_header(
    path: Path, field: str, file: IO[bytes] | BufferedIOBase
) -> tuple[tuple[int, ...], np.dtype, int]:
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            major, _ = np.lib.format.read_magic(file)
            shape, fortran, dtype = read[major](file)
    except DAMAGE:
        raise
    except Exception as error:  # NumPy evaluates the header, which raises almost anything
        raise DatasetError(
            f"{path}: field `{field}` is not an intact array ({_brief(error)})."
        ) from None
    if dtype.hasobject or dtype.kind not in "fiub":
        raise DatasetError(
            f"{path}: field `{field}` holds {dtype} and not numbers; it is not loaded."
        )
    if fortran and len(shape) > 1:
        raise DatasetError(f"{path}: field `{field}` is in column order; save it in row order.")
    return shape, dtype, file.tell()


def _kept(dtype: np.dtype, shape: tuple[int, ...]) -> np.dtype:
    """The type in which an array is kept."""
    return np.dtype(np.uint8 if is_picture(dtype, shape[1:]) else "<f4")


def _copy(path: Path, archive: zipfile.ZipFile, field: str, folder: Path, reach: float) -> dict:
    """Copies a field to `.npy`, block by block, and checks its numbers on the way."""
    target = folder / f"{field}.npy"
    ended = False
    with archive.open(f"{field}.npy") as source, open(target, "wb") as sink:
        shape, dtype, _ = _read_header(path, field, source)
        kept = _kept(dtype, shape)
        header = {"descr": kept.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(sink, header)
        row = int(np.prod(shape[1:])) * dtype.itemsize
        block = _BLOCK - _BLOCK % (row if row < _BLOCK else dtype.itemsize)
        while data := source.read(block):
            read = np.frombuffer(data, dtype)
            with np.errstate(over="ignore"):  # what float32 does not reach is infinite
                numbers = read.astype(kept)
            _check_numbers(path, field, numbers, reach)
            if field in _NEEDED[0] and len(data) % row == 0:
                column = lost_clock(read.reshape(-1, *shape[1:]))
                if column is not None:
                    raise DatasetError(f"{path}: field `{field}`, column {column} {CLOCK}")
            ended = ended or (field in _ENDS and bool(numbers.any()))
            sink.write(numbers.tobytes())
        sink.flush()
        os.fsync(sink.fileno())
    if field in _ENDS and not ended:
        raise DatasetError(f"{path}: field `{field}` marks no end of an episode.")
    return {"bytes": target.stat().st_size, "sha256": _sha256(target)}


def _check_numbers(path: Path, field: str, numbers: np.ndarray, reach: float) -> None:
    if not np.isfinite(numbers).all():
        raise DatasetError(f"{path}: field `{field}` holds NaN or infinite numbers.")
    if field == "actions" and np.abs(numbers).max(initial=0) > reach + 1e-5:
        raise DatasetError(
            f"{path}: field `actions` reaches {np.abs(numbers).max():g}; actions must be in "
            "[-1, 1]. Rescale them."
        )
    if field in (*_ENDS, "masks", "terminated") and not np.isin(numbers, (0, 1)).all():
        raise DatasetError(f"{path}: field `{field}` holds numbers other than 0 and 1.")


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
