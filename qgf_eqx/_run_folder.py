"""What makes a run's folder safe: one process at a time, its own config, mended metrics."""

import fcntl
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._files import write_atomically


class RunError(Exception):
    """A run's folder cannot be used: the sentence says why, and the next step."""


@contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Holds the folder's lock, and clears what a killed process left half-written.

    **Raises:** `RunError` if another process holds it.
    """
    with open(run_dir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"another process is training in {run_dir}. Wait for it, or stop it."
            ) from None
        for leftover in run_dir.glob(".*.tmp"):
            leftover.unlink()
        yield


@contextmanager
def termination_flag() -> Iterator[list]:
    """A list that is no longer empty once SIGTERM came."""
    flag: list = []
    try:
        previous = signal.signal(signal.SIGTERM, lambda *_: flag.append(True))
    except ValueError:  # not in the main thread, where signals are none of our business
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)


class MetricsLog:
    """Appends JSON lines; at the start, drops a line cut short and those after the checkpoint."""

    def __init__(self, path: Path, step: int):
        """**Arguments:** the file, and the step of the checkpoint that training goes on from."""
        self._path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        with write_atomically(path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def append(self, line: dict) -> None:
        """Writes one line."""
        with open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a `metrics.jsonl` that are whole; none if there is no file."""
    lines = []
    if Path(path).exists():
        for text in Path(path).read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines
