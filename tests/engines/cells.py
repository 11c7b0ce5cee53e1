"""What the engine's tests run in workers: functions of a module that needs nothing to import."""

import os
import signal
import time
from pathlib import Path


def square(x):
    return x * x


def pid(_):
    time.sleep(0.05)
    return os.getpid()


def environment(name):
    return os.environ.get(name)


def threads_of_xla(_):
    """How many JAX has started; on Linux."""
    import jax

    jax.devices()
    tasks = Path("/proc/self/task").iterdir()
    return sum("XLAEigen" in (task / "comm").read_text() for task in tasks)


def raise_or_sleep(cell):
    if cell == "raise":
        raise LookupError("no such cell")
    time.sleep(600)


class Unreadable(Exception):
    """As of some libraries: it cannot be made again from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def raise_unreadable(_):
    raise Unreadable("one", "two")


def die_or_finish(cell):
    folder, what = cell
    if what == "die":
        while len(list(Path(folder).iterdir())) < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / what).touch()
    return what


def stay(folder):
    """Writes this process's id, and stays."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def save_when_told(folder):
    """Like a training: SIGTERM sets a flag, and the next update saves and exits with 0."""
    told = []
    previous = signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    (Path(folder) / str(os.getpid())).touch()
    while not told:
        time.sleep(0.05)
    time.sleep(0.2)
    (Path(folder) / f"{os.getpid()}.saved").touch()
    signal.signal(signal.SIGTERM, previous)
    raise SystemExit(0)


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def told_to_end_once(path):
    """Like a training that is preempted: it saves, and exits."""
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        raise SystemExit(0)
    return f"{mark.name} again"


def die_once(path):
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        die(path)
    return f"{mark.name} again"
