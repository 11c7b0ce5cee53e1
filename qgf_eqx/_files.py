"""Files that are whole or absent."""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path


@contextmanager
def write_atomically(path: Path) -> Iterator[BufferedIOBase]:
    """Opens a temporary file beside `path` that takes its name once it is safely on disk.

    A kill at any moment leaves the old file or the new one; an error leaves no leftover.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process or thread takes; `.<name>.*.tmp`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def sync_folder(folder: Path) -> None:
    """Makes renames inside the folder durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def take_turns(file: Path, what: str) -> Iterator[None]:
    """Waits while another process holds the lock of `what` in this file, which may hold any number.
    Where the file system has no locks, nothing is waited for."""
    place = int(hashlib.sha256(what.encode()).hexdigest()[:12], 16)
    with open(file, "ab") as lock:
        with suppress(OSError):
            fcntl.lockf(lock, fcntl.LOCK_EX, 1, place)
        yield


@contextmanager
def hold_lock(folder: Path, does: str, error: type[Exception]) -> Iterator[None]:
    """Holds the lock of a folder, which ends with the block, or with this process.

    **Raises:** `error` if another process, which `does` the same, holds it, or if the file system
    has no locks.
    """
    with open(folder / ".lock", "w") as lock:  # NFS locks only what is open for writing
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(f"another process {does} {folder}. Wait for it, or stop it.") from None
        except OSError as refused:
            raise error(
                f"the file system of {folder} cannot lock files ({refused.strerror}), so two "
                "processes could write the same files. Choose a folder on a local disk."
            ) from None
        yield
