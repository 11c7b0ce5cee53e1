"""Cells as jobs of a SLURM cluster, by submitit."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._local import EngineError, limit_threads

_WAIT = 2.0  # seconds between two looks at the queue
_GRACE = 20.0  # until the result of a job that has left the queue can be seen from here


@dataclass(frozen=True)
class Slurm:
    """Runs each cell as a job of an array. Needs `pip install 'qgf_eqx[slurm]'`.

    XLA has as many threads as a job has CPUs (`cpus_per_task`, one by default), unless `NPROC` says
    how many. A job that is preempted or reaches its time limit is put in the queue again, and one
    that dies is sent again; cells that save what they have done, as trainings do, go on from there.

    **Raises:** `ImportError` without submitit.
    """

    folder: str | Path
    """For submitit's scripts and logs, which the nodes must reach."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `submitit.AutoExecutor.update_parameters`: `timeout_min`, `cpus_per_task`, `mem_gb`,
    `gpus_per_node`, `slurm_partition`, `slurm_array_parallelism` and others."""
    cluster: str | None = None
    """`slurm`, or `local` for processes on this machine, to test scripts; by default SLURM if it
    is available."""
    retries: int = 2
    """How often a cell whose job died is sent again."""

    def map(
        self, function: Callable[[Any], Any], cells: Iterable[Any]
    ) -> Generator[tuple[Any, Any], None, None]:
        """As `Engine.map`. Jobs that are still there are cancelled when the loop ends early.

        **Raises:** `EngineError` if SLURM takes no jobs, or a cell's job died each time, with the
        path of the log.
        """
        try:
            import submitit
            from submitit.core.utils import FailedJobError, UncompletedJobError
        except ImportError as error:
            raise ImportError(
                f"engines.Slurm needs submitit ({error}): pip install 'qgf_eqx[slurm]'"
            ) from error

        cells = list(cells)
        if not cells:
            return
        work = Requeued(function)
        with _refused_in_a_sentence(Path(self.folder)):
            executor = submitit.AutoExecutor(
                folder=str(self.folder), cluster=self.cluster, slurm_max_num_timeout=10**6
            )
            executor.update_parameters(**self.options)
            with executor.batch():
                jobs = [executor.submit(work, cell) for cell in cells]
        left = [_Sent(cell, job) for cell, job in zip(cells, jobs, strict=True)]
        try:
            while left:
                queue = _queue()
                for sent in [sent for sent in left if sent.has_ended(queue)]:
                    try:
                        if not sent.job.done():  # it would be waited for
                            raise UncompletedJobError("its process has died")
                        result = sent.job.result()
                    except FailedJobError as error:
                        raise _error(sent, error) from error
                    except UncompletedJobError as error:
                        if sent.attempt > self.retries:
                            raise _error(sent, error) from error
                        again = executor.submit(work, sent.cell)
                        left.append(_Sent(sent.cell, again, sent.attempt + 1))
                        left.remove(sent)
                        continue
                    left.remove(sent)
                    if isinstance(result, Interrupted):
                        again = executor.submit(work, sent.cell)
                        left.append(_Sent(sent.cell, again, sent.attempt))
                        continue
                    yield sent.cell, result
                time.sleep(_WAIT if left else 0)
        finally:
            for sent in left:
                sent.job.cancel(check=False)


@contextmanager
def _refused_in_a_sentence(folder: Path) -> Generator[None]:
    """What SLURM says when it takes no jobs; and nothing is left of them in the folder."""
    from submitit.core.utils import FailedJobError

    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except (FailedJobError, RuntimeError, NameError, AssertionError) as error:  # and of options
        for path in set(folder.iterdir()) - before if folder.is_dir() else ():
            path.unlink()
        said = str(error).strip().splitlines() or ["no reason given"]
        raise EngineError(
            f"SLURM did not take the jobs ({said[-isinstance(error, FailedJobError)]}). Is its "
            "controller running, and are the engine's options those of this cluster?"
        ) from error


class Interrupted:
    """What a job returns that was told to end, as where another one takes its place."""


class Requeued:
    """A function that is called again with the same cell, where its job was interrupted."""

    def __init__(self, function: Callable[[Any], Any]):
        """**Arguments:** the function."""
        self.function = function

    def __call__(self, cell: Any) -> Any:
        """The function's result, or `Interrupted`."""
        limit_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", 1)))
        try:
            return self.function(cell)
        except SystemExit:  # SIGTERM, on which a training saves
            return Interrupted()

    def checkpoint(self, cell: Any) -> Any:
        """What submitit puts in the queue in place of an interrupted job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cell)


class _Sent:
    """A cell, and the job that it was sent as."""

    def __init__(self, cell: Any, job: Any, attempt: int = 1):
        self.cell, self.job, self.attempt = cell, job, attempt
        self.gone: float | None = None  # since when it is not in the queue

    def has_ended(self, queue: set[str] | None) -> bool:
        if self.job.done():
            return True
        if queue is None or self.job.job_id in queue:
            self.gone = None
            return False
        # Without SLURM's accounting nobody says that a job died.
        self.gone = self.gone or time.monotonic()
        return time.monotonic() - self.gone > _GRACE


def _queue() -> set[str] | None:
    """The jobs that SLURM's queue has; None if there is no such queue."""
    if shutil.which("squeue") is None:
        return None
    line = ["squeue", "--noheader", "--array", "--format=%i"]
    found = subprocess.run(line, capture_output=True, text=True)
    return None if found.returncode else set(found.stdout.split())


def _error(sent: _Sent, error: Exception) -> EngineError:
    # Of a traceback submitit gives the text, between two lines of dashes.
    parts = [part.strip() for part in str(error).split("-" * 22) if part.strip()]
    said = (parts[1] if len(parts) > 2 else parts[0] if parts else "no output").splitlines()
    return EngineError(
        f"job {sent.job.job_id} failed ({said[-1]}). Its log is {sent.job.paths.stderr}. "
        "Call again: what was saved is kept."
    )
