"""Metrics to the trackers that people look at: TensorBoard, Weights & Biases, Trackio."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Line: TypeAlias = Mapping[str, Any]
"""Of `metrics.jsonl` or `evaluations.jsonl`: a step, and numbers by name."""
Track: TypeAlias = Callable[[Path, Line], None]
"""Takes a run's folder and each of its lines, as they are written."""

TRACKERS = ("tensorboard", "wandb", "trackio")


@contextmanager
def tracker(name: str, config: Mapping[str, Any], project: str = "qgf_eqx") -> Iterator[Track]:
    """A tracker by name; it is closed at the end. A run that goes on is the same run there: its
    folder is its name.

    **Arguments:**

    - `name`: `tensorboard` (writes to `tensorboard/` in the run's folder), `wandb` or `trackio`.
    - `config`: of the runs, shown beside them.
    - `project`: under which they are shown.

    **Raises:** `ImportError` naming what must be installed; `ValueError` if `name` is unknown.
    """
    if name not in TRACKERS:
        raise ValueError(f"`name` must be one of {', '.join(TRACKERS)}, got {name!r}.")
    try:
        opens = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}[name]()
    except ImportError as error:
        raise ImportError(
            f"`{name}` is not installed ({error}): pip install 'qgf_eqx[{name}]'"
        ) from error
    with ExitStack() as stack:
        runs: dict[Path, Callable[[int, dict[str, Any]], None]] = {}

        def track(folder: Path, line: Line) -> None:
            if folder not in runs:
                runs[folder] = stack.enter_context(opens(folder, config, project, line["step"]))
            runs[folder](line["step"], {key: x for key, x in line.items() if key != "step"})

        yield track


def _tensorboard() -> Callable:
    from tensorboardX import SummaryWriter

    @contextmanager
    def opened(folder: Path, config: Mapping[str, Any], project: str, step: int) -> Iterator:
        # What a killed run wrote after its last checkpoint is not shown twice.
        with SummaryWriter(str(folder / "tensorboard"), purge_step=step) as writer:

            def write(step: int, numbers: dict[str, Any]) -> None:
                for name, number in numbers.items():
                    writer.add_scalar(name, number, step)
                writer.flush()

            yield write

    return opened


def _wandb() -> Callable:
    import wandb

    @contextmanager
    def opened(folder: Path, config: Mapping[str, Any], project: str, step: int) -> Iterator:
        options: dict[str, Any] = {
            "id": _identity(folder),
            "resume": "allow",
            "reinit": "create_new",
        }
        run = wandb.init(project=project, name=_title(folder), config=dict(config), **options)
        run.define_metric("*", step_metric="step")  # a step may come again
        try:
            yield lambda step, numbers: run.log({"step": step, **numbers})
        finally:
            run.finish()

    return opened


def _trackio() -> Callable:
    import trackio

    @contextmanager
    def opened(folder: Path, config: Mapping[str, Any], project: str, step: int) -> Iterator:
        named = f"{_title(folder)}-{_identity(folder)[:6]}"
        run = trackio.init(project=project, name=named, config=dict(config), resume="allow")
        try:
            yield lambda step, numbers: run.log(numbers, step=step)
        finally:
            run.finish()

    return opened


def _identity(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def _title(folder: Path) -> str:
    return "/".join(folder.resolve().parts[-2:])
