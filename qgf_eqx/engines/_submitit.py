"""Cells as jobs of a SLURM cluster, by submitit."""

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._local import EngineError

_WAIT = 2.0  # seconds between two looks at the queue


@dataclass(frozen=True)
class Slurm:
    """Runs each cell as a job of an array. Needs `pip install 'qgf_eqx[slurm]'`.

    A job that is preempted or reaches its time limit is put in the queue again; cells that save
    what they have done, as trainings do, go on from there.

    **Raises:** `ImportError` without submitit.
    """

    folder: str | Path
    """For submitit's scripts and logs, which the nodes must reach."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `submitit.AutoExecutor.update_parameters`: `timeout_min`, `cpus_per_task`, `mem_gb`,
    `gpus_per_node`, `slurm_partition`, `slurm_array_parallelism` and others."""
    cluster: str | None = None
    """`slurm`, or `local` for processes of this machine, with which scripts are tried; by default
    SLURM if it is here."""

    def map(
        self, function: Callable[[Any], Any], cells: Iterable[Any]
    ) -> Generator[tuple[Any, Any], None, None]:
        """As `Engine.map`. Jobs that are still there are cancelled when the loop ends early.

        **Raises:** `EngineError` if a job died, with the path of its log.
        """
        try:
            import submitit
        except ImportError as error:
            raise ImportError(
                f"engines.Slurm needs submitit ({error}): pip install 'qgf_eqx[slurm]'"
            ) from error

        cells = list(cells)
        if not cells:
            return
        executor = submitit.AutoExecutor(folder=str(self.folder), cluster=self.cluster)
        executor.update_parameters(**self.options)
        with executor.batch():
            jobs = [executor.submit(Requeued(function), cell) for cell in cells]
        left = list(zip(cells, jobs, strict=True))
        try:
            while left:
                done = [pair for pair in left if pair[1].done()]
                left = [pair for pair in left if pair not in done]
                for cell, job in done:
                    yield cell, _result(job)
                if not done:
                    time.sleep(_WAIT)
        finally:
            for _, job in left:
                job.cancel(check=False)


class Requeued:
    """A function that is called again with the same cell, where its job was interrupted."""

    def __init__(self, function: Callable[[Any], Any]):
        """**Arguments:** the function."""
        self.function = function

    def __call__(self, cell: Any) -> Any:
        """The function's result."""
        return self.function(cell)

    def checkpoint(self, cell: Any) -> Any:
        """What submitit puts in the queue in place of an interrupted job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cell)


def _result(job: Any) -> Any:
    import submitit

    try:
        return job.result()
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
        where, lines = job.paths.stderr, str(error).strip().splitlines()
        raise EngineError(
            f"job {job.job_id} failed ({lines[-1] if lines else 'no output'}). Its log is {where}. "
            "Call again: what was saved is kept."
        ) from error
