"""What makes a run's folder safe: one process at a time, its own config, whole metrics."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._files import hold_lock, write_atomically


class RunError(Exception):
    """A run's folder or settings cannot be used: the sentence says why, and the next step."""

    # Not a `ValueError`: the command line's parser would put a box of its own around it.


@contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Makes the folder, holds its lock, and clears what a killed process left half-written.

    After an error, folders that it made and that are still empty are gone.

    **Raises:** `RunError` if another process holds the lock, the file system has no locks, or a
    file of the run cannot be read or written, now or inside.
    """
    made = [folder for folder in (run_dir, *run_dir.parents) if not os.path.exists(folder)]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with hold_lock(run_dir, "is training in", RunError):
            for leftover in run_dir.glob(".*.tmp"):
                if leftover.is_file():
                    leftover.unlink()
            yield
    except OSError as error:
        _remove_empty(made)
        raise RunError(
            f"{error.filename or run_dir} cannot be read or written: {error.strerror}. What was "
            "saved before is intact; fix this and run again, or choose another folder."
        ) from None
    except BaseException:
        _remove_empty(made)
        raise


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders that hold nothing, or a lock and nothing else; the innermost first."""
    for folder in folders:
        if not os.path.isdir(folder) or set(os.listdir(folder)) - {".lock"}:
            return
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def termination_flag() -> Iterator[list]:
    """A list of the signals SIGTERM and SIGINT that came; a second SIGINT interrupts at once."""
    flag: list = []

    def interrupted(*_: Any) -> None:
        flag.append(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        signal.signal(signal.SIGTERM, lambda *_: flag.append(signal.SIGTERM))
        if before[signal.SIGINT] is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupted)
    except ValueError:  # only the main thread can ask for signals
        yield flag
        return
    try:
        yield flag
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


class MetricsLog:
    """Appends JSON lines; at the start, drops lines that are damaged or after the checkpoint."""

    def __init__(self, path: Path, step: int):
        """**Arguments:** the file, and the step of the checkpoint that training goes on from."""
        self._path = path
        found = read_metrics(path)
        kept = {line["step"]: line for line in found if line["step"] <= step}
        self.last = max(kept, default=0)
        """The step of the last line; 0 if there is none."""
        if found or path.exists():
            with write_atomically(path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept.values()).encode())

    def append(self, line: dict) -> None:
        """Writes one line."""
        self.last = line["step"]
        with open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a `metrics.jsonl` that are whole and have a step; none if there is no file.

    **Raises:** `RunError` if it is there and cannot be read.
    """
    try:
        texts = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    return [line for line in map(_parsed, texts) if line is not None]


def _parsed(text: bytes) -> dict | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):  # cut short, or not JSON, or not even text
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None
