"""Cells as tasks of a Ray cluster."""

import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from ._local import EngineError, limit_threads


@dataclass(frozen=True)
class Ray:
    """Runs each cell as a task of Ray. Needs `pip install 'qgf_eqx[ray]'`.

    XLA has as many threads as a task has CPUs (one by default), unless `NPROC` says how many. A
    task whose worker or node dies is tried again; cells that save what they have done, as
    trainings do, go on from there.

    **Raises:** `ImportError` without Ray.
    """

    address: str | None = None
    """Of the cluster, or `auto` for the one of this machine; by default one is started here."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of a task: `num_cpus`, `num_gpus` (a quarter for four tasks on a GPU), `memory`, ..."""
    retries: int = 3

    def map(
        self, function: Callable[[Any], Any], cells: Iterable[Any]
    ) -> Generator[tuple[Any, Any], None, None]:
        """As `Engine.map`. Tasks that are still there are cancelled when the loop ends early.

        **Raises:** `EngineError` if a task's worker died and no retry is left.
        """
        try:
            import ray
            from ray.exceptions import RayError, RayTaskError
        except ImportError as error:
            raise ImportError(
                f"engines.Ray needs Ray ({error}): pip install 'qgf_eqx[ray]'"
            ) from error

        started = not ray.is_initialized()
        if started:
            ray.init(address=self.address, log_to_driver=False)
        options = {"num_cpus": 1, "max_retries": self.retries, **self.options}
        task = ray.remote(**options)(call)
        threads = max(1, int(options["num_cpus"]))
        tasks = {task.remote(function, cell, threads): cell for cell in cells}
        try:
            while tasks:
                (reference,), _ = ray.wait(list(tasks), num_returns=1)
                try:
                    result = ray.get(reference)
                except RayTaskError as error:
                    raise error.cause from None
                except RayError as error:
                    raise EngineError(
                        f"a worker of Ray died {self.retries + 1} times ({error}). Call again: "
                        "what was saved is kept."
                    ) from error
                yield tasks.pop(reference), result
        finally:
            for reference in tasks:
                ray.cancel(reference, force=True)
            if started:
                ray.shutdown()


def call(function: Callable[[Any], Any], cell: Any, threads: int) -> Any:
    """A plain function of a module, which `ray.remote` takes; a partial is none."""
    limit_threads(threads)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several may share a GPU
    return function(cell)
