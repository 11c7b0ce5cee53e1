"""What is refused before the work begins, and what is said."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OURS = {"DatasetError", "CheckpointError", "EngineError", "RunError", "RenderError", "SuiteError"}


def is_ours(error: BaseException, names: set[str] = _OURS) -> bool:
    """Whether it is one of the library's errors; by name, since nothing is imported before it is
    needed."""
    kinds = [k for k in type(error).__mro__ if k.__module__.partition(".")[0] == "qgf_eqx"]
    return any(kind.__name__ in names for kind in kinds)


@contextmanager
def as_arguments() -> Iterator[None]:
    """What fails here is wrong with the arguments."""
    try:
        yield
    except Exception as error:
        if is_ours(error, {"DatasetError", "RunError"}) or isinstance(error, TypeError):
            raise ValueError(str(error)) from None
        raise


def check_task(text: str | None) -> None:
    """Refuses a name that is not a task's."""
    if text is not None:
        from ..evaluate import task_of

        with as_arguments():
            task_of(text)


def at_least(least: int, **counts: int | None) -> None:
    """Refuses counts that are too small."""
    for name, count in counts.items():
        if count is not None and count < least:
            raise ValueError(f"`{name}` must be at least {least}, got {count}.")


def check_folders(*runs: Path) -> None:
    """Refuses paths that are not folders of training runs."""
    if not runs:
        raise ValueError("`runs` is empty: name the folder of a training run.")
    for run in runs:
        if not run.is_dir():
            raise ValueError(f"{run} is not a folder: name the folder of a training run.")
        seeds = sorted(map(str, run.glob("seed*")))
        if seeds and not (run / "checkpoint.safetensors").exists():
            raise ValueError(
                f"{run} is not a training run, and holds some: name {' '.join(seeds)}."
            )


def check_new(path: Path, *endings: str) -> None:
    """Refuses, before the work, what cannot be written after it; makes nothing."""
    if endings and path.suffix not in endings:
        raise ValueError(f"`out` must end in {' or '.join(endings)}, got {path.name}.")
    if path.is_dir():
        raise ValueError(f"`out` must be a file, and {path} is a folder.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"`out` cannot be written into {folder}: choose another folder.")


def complain(sentence: str, code: int) -> int:
    """One line on stderr; returns the code."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:  # nobody reads it, and Python would complain again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    line = " ".join(sentence.split()).encode(errors="backslashreplace").decode()
    print(f"qgf-eqx: {line}", file=sys.stderr)
    return code


def refuse_own_judge(run: Path, judge: Path | None) -> None:
    """**Raises:** `ValueError` if the judge is the run itself."""
    if judge is not None and run.resolve() == judge.resolve():
        raise ValueError(f"{judge} is the run itself: the judge must be of another training seed.")
