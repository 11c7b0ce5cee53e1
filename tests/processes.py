"""For tests of processes that die: a killer, a limit in place of a hang, and a look for orphans."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager


def wait_until(condition, seconds=300):
    for _ in range(int(seconds / 0.05)):
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError("it does not happen")


@contextmanager
def started(command, **options):
    """A process that ends with the block, whatever happens in it."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def a_worker_is_killed(when=lambda: True, seconds=300):
    """As the out-of-memory killer does it; what hangs then, ends with a `TimeoutError`.

    The work has to last: it must not end before a worker is found.
    """
    others, over = set(multiprocessing.active_children()), threading.Event()

    def kill():
        wait_until(lambda: over.is_set() or when())
        while not over.wait(0.05):
            if ours := set(multiprocessing.active_children()) - others:
                os.kill(ours.pop().pid, signal.SIGKILL)
                over.wait(5)

    def give_up(*_):
        raise TimeoutError("the parent hangs")

    killer = threading.Thread(target=kill, daemon=True)
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    killer.start()
    try:
        yield
    finally:
        over.set()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        killer.join()
        assert not set(multiprocessing.active_children()) - others


def is_running(pid):
    """Whether a process lives: a zombie, which nobody has waited for, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
