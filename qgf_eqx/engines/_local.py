"""Cells on this machine: in this process, or in several that never outlive it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from numbers import Integral
from typing import TypeVar

_Cell = TypeVar("_Cell")
_Result = TypeVar("_Result")


class EngineError(RuntimeError):
    """The worker processes cannot do their work: the sentence says why, and the next step."""


@dataclass(frozen=True)
class Local:
    """Runs cells on this machine's cores.

    **Raises:** `TypeError` or `ValueError` if a field is not an int of at least 1.
    """

    processes: int | None = None
    """How many; all cores by default. A process takes seconds to start, and memory of its own."""
    threads: int | None = None
    """Of XLA in each process, unless the variable `NPROC` says how many; by default as many as
    there are cores. The last bits of a training depend on it. A cell that runs here, in a process
    that has computed before, takes the threads that are there."""

    def __post_init__(self):
        for name in ("processes", "threads"):
            count = getattr(self, name)
            count = 1 if count is None else count
            if isinstance(count, bool) or not isinstance(count, Integral):
                raise TypeError(f"`{name}` must be an int, got {count!r}.")
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count}.")

    def map(
        self, function: Callable[[_Cell], _Result], cells: Iterable[_Cell]
    ) -> Generator[tuple[_Cell, _Result], None, None]:
        """Each cell with its result, as they complete, in any order.

        One process, or one cell, runs here. Several start new interpreters, which import the
        module of `function`: a script needs `if __name__ == "__main__":`. A cell's exception is
        raised here. Then, and on SIGTERM, Ctrl-C, the end of the loop or a kill of this process,
        the workers get SIGTERM, which a cell may catch to save.

        **Arguments:**

        - `function`: of a module, or a `functools.partial` of one.
        - `cells`: its arguments.

        **Raises:** `EngineError` if a worker dies; what was finished is given out before.
        """
        return _Workers(self.processes, self.threads).map(function, cells, last=True)

    @contextmanager
    def kept(self) -> "Iterator[_Workers]":
        """The same engine for several maps, between which its workers stay: a new one takes seconds
        to start, and has to compile again. They end with the block, and with an exception."""
        workers = _Workers(self.processes, self.threads)
        try:
            yield workers
        finally:
            workers.close()


class _Workers:
    """Worker processes, started when they are first needed."""

    def __init__(self, processes: int | None, threads: int | None):
        self.processes, self.threads = processes or _cores(), threads
        self._started: tuple[ProcessPoolExecutor, Connection, Connection] | None = None

    def map(
        self,
        function: Callable[[_Cell], _Result],
        cells: Iterable[_Cell],
        last: bool = False,
    ) -> Generator[tuple[_Cell, _Result], None, None]:
        """As `Local.map`; after the `last` one, or an exception, the workers end."""
        cells = list(cells)
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            sys.exit(1)  # a worker that imports a script without its guard: the parent reports it
        fewer = min(self.processes, len(cells))
        if self._started is None and fewer < 2:
            return self._here(function, cells)
        return self._spread(function, cells, fewer if last else self.processes, last)

    def _here(self, function, cells):
        told = os.environ.get("NPROC")
        limit_threads(self.threads)
        try:
            for cell in cells:
                yield cell, function(cell)
        finally:
            if told is None:
                os.environ.pop("NPROC", None)

    def close(self) -> None:
        """Ends the workers."""
        if self._started is not None:
            executor, leash, held = self._started
            held.close()
            executor.shutdown(cancel_futures=True)
            leash.close()
        self._started = None

    def _start(self, processes: int) -> tuple[ProcessPoolExecutor, Connection, Connection]:
        context = multiprocessing.get_context("spawn")
        leash, held = context.Pipe(duplex=False)
        options = (leash, processes, self.threads)
        executor = ProcessPoolExecutor(processes, context, _start_worker, options)
        self._started = executor, leash, held
        return self._started

    def _spread(self, function, cells, processes, last):
        main = sys.modules["__main__"]
        script = getattr(main, "__file__", None)
        if script and main.__spec__ is None and not os.path.exists(script):
            raise EngineError(
                "several processes need a script that they can import, and this one was read from "
                "standard input. Save it as a file, or use one process (`processes=1`)."
            )
        try:
            ForkingPickler.dumps((function, cells))
        except Exception as error:  # pickle raises almost anything
            raise EngineError(
                f"what is to be run cannot be sent to other processes ({error}): use one process "
                "(`processes=1`), or functions and classes of a module in place of lambdas and "
                "local ones."
            ) from error
        executor, _, held = self._started or self._start(processes)
        futures, broken, done = {}, None, False
        try:
            with _on_sigterm(held.close):
                try:
                    for cell in cells:
                        futures[executor.submit(_begin, function, cell)] = cell
                except BrokenProcessPool as error:
                    broken = error
                for future in as_completed(futures):
                    try:
                        result = future.result()
                    except BrokenProcessPool as error:
                        broken = error  # and go on: others may have finished before
                    else:
                        yield futures[future], result
            if held.closed:
                raise SystemExit(128 + signal.SIGTERM)
            if broken:
                raise EngineError(_died(broken)) from broken.with_traceback(None)
            done = True
        finally:
            if last and done:
                executor.shutdown()
            if last or not done:
                self.close()


def _died(broken: BrokenProcessPool) -> str:
    lines = str(broken.__cause__ or "").splitlines()  # of a traceback, if unpickling failed
    reason = [line for line in lines if line.strip("\"'")][-1:]
    return (
        f"a worker process died{''.join(f' ({line})' for line in reason)}. If memory ran "
        "out, use fewer `processes`. If this is a script of your own, put what it does "
        'under `if __name__ == "__main__":`, because workers import it. Then call again: '
        "what was saved is kept."
    )


def limit_threads(count: int | None) -> None:
    """So many threads for XLA, unless `NPROC` already says how many. It is read when JAX first
    computes."""
    if count is not None:
        os.environ.setdefault("NPROC", str(count))


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` on a SIGTERM that nobody else handles."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _start_worker(leash: Connection, processes: int, threads: int | None) -> None:
    """Leaves Ctrl-C to the parent, takes its share of a GPU and not more, and ends when the leash
    does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Before JAX looks at them. What the parent was told holds for its workers.
    limit_threads(threads)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / processes:.3f}")
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()


_ended = threading.Event()  # of this worker


def _begin(function: Callable[[_Cell], _Result], cell: _Cell) -> _Result:
    """A cell, unless the worker was told to end: then it is one that lay in the queue."""
    if _ended.is_set():
        sys.exit(128 + signal.SIGTERM)
    return function(cell)


def _end_with(leash: Connection) -> None:
    with suppress(EOFError, OSError):
        leash.recv_bytes()  # blocks until the parent closes its end, or has ended
    _ended.set()
    while True:  # again and again: a cell that catches the first signal to save is not the last
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.0)
