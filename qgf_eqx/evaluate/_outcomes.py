"""Outcomes of a run's episodes, kept beside it: what was played is not played again.

`episodes.jsonl` has a line an episode. Its key is a hash of what the outcome depends on: the
checkpoint, the method with all its options, the task, the seed, the number, this package's version,
and the source of your own modules that are named. (What those import is not in it.) Lines are only
ever appended; one that was cut short by a kill is dropped.
"""

import dataclasses
import fcntl
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import IO, Any

from ..weights import LinearDecay
from ._rollout import Episode
from .sampler import Sampler

FILE = "episodes.jsonl"


class Outcomes:
    """Those of one checkpoint, task and seed. Without a file, nothing is kept."""

    def __init__(self, path: Path | None, *about: Any):
        """**Arguments:** the file, and what all its outcomes depend on."""
        self._path, self._about = path, [version("qgf_eqx"), *about]
        self._found = self._read() if path is not None else {}

    def of(self, sampler: Sampler, numbers: Sequence[int]) -> list[Episode] | None:
        """These episodes, if all of them were played; a group is played as one."""
        keys = [self._key(sampler, number) for number in numbers]
        if any(key is None or key not in self._found for key in keys):
            return None
        return [self._found[key] for key in keys if key is not None]

    def add(self, sampler: Sampler, episodes: Sequence[Episode]) -> None:
        """Writes episodes to the file, at once. Where that cannot be, warns and goes on."""
        lines = []
        for episode in episodes:
            key = self._key(sampler, episode.number)
            if key is None or self._path is None:
                return
            shown = {"method": sampler.name, "weight": str(sampler.weight)}
            line = {"key": key, **shown, **dataclasses.asdict(episode)}
            lines.append(json.dumps(line) + "\n")
        try:
            with _alone(self._path, "ab") as file:
                file.write("".join(lines).encode())
        except OSError as error:
            warnings.warn(
                f"outcomes are not kept in {self._path} ({error.strerror}): an evaluation that is "
                "interrupted begins again.",
                RuntimeWarning,
                stacklevel=3,
            )
            self._path = None

    def _read(self) -> dict[str, Episode]:
        """The episodes by key. Drops a torn last line from the file, so that it can be added to."""
        try:
            with _alone(self._path, "r+b") as file:
                text = file.read()
                whole = text.rfind(b"\n") + 1
                if whole < len(text):
                    file.truncate(whole)
                    text = text[:whole]
        except OSError:  # none yet, or not ours to write
            text = b""
            with suppress(OSError):
                text = self._path.read_bytes() if self._path else b""
        found = [_parsed(line) for line in text.split(b"\n")]
        return dict(pair for pair in found if pair is not None)

    def _key(self, sampler: Sampler, number: int) -> str | None:
        if self._path is None:
            return None
        what = described(sampler)
        if what is None:
            return None
        return hashlib.sha256(json.dumps([*self._about, what, number]).encode()).hexdigest()


def task_key(task: str) -> str:
    """What a task of that name depends on: of one's own also its module's source."""
    module = task.partition(":")[0]
    return f"{task} {_source(module)}" if ":" in task else task


def source_of(name: str) -> str:
    """The hash of the file of `module:name`, which is not imported; empty of what is no module."""
    module = name.partition(":")[0]
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        return ""
    path = getattr(found, "origin", None)
    if not path or not Path(path).is_file():
        return ""
    now = Path(path).stat()
    return _sha256(path, now.st_mtime_ns, now.st_size)


def _source(module: str) -> str:
    """The hash of a module's source; nothing of this package's, whose version is in the key."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if module.partition(".")[0] in ("qgf_eqx", "jax") or path is None:
        return ""
    found = Path(path).stat()
    return _sha256(path, found.st_mtime_ns, found.st_size)


@lru_cache
def _sha256(path: str, *changed: int) -> str:
    """Of a file, which is read again if it has changed: asked once an episode."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def described(sampler: Sampler) -> list[str] | None:
    """All that a sampler is made of; `None` if a part has no name that another process would find,
    a lambda, a method or an array."""
    parts = [
        _name(sampler.estimator),
        _weight(sampler.weight),
        str(sampler.best_of),
        str(sampler.steps),
        _name(sampler.reduce),
        _name(sampler.draw),
        *([sampler.actor] if sampler.actor else []),
    ]
    return None if None in parts else [part for part in parts if part is not None]


def _weight(weight: Any) -> str | None:
    if isinstance(weight, LinearDecay) and isinstance(weight.start, float | int):
        return f"{weight.start!r} (1-t)"
    return repr(weight) if isinstance(weight, float | int) else None


def _name(thing: Any) -> str | None:
    if thing is None or isinstance(thing, bool | int | float | str):
        return repr(thing)
    if hasattr(thing, "func"):  # a `Partial`
        options = {name: _name(value) for name, value in sorted(thing.keywords.items())}
        parts = [_name(thing.func), *map(_name, thing.args), *options.values()]
        return None if None in parts else f"{parts[0]}({parts[1:]}, {list(options)})"
    name = getattr(thing, "__qualname__", None)
    module = getattr(thing, "__module__", None) or ""
    if not isinstance(thing, Callable) or name is None or "<" in name:
        return None
    if isinstance(thing, MethodType) or module == "__main__":  # a notebook's functions change
        return None
    return f"{module}.{name}{_source(module)}"


def _parsed(line: bytes) -> tuple[str, Episode] | None:
    try:
        found = json.loads(line)
        fields = {field.name: found[field.name] for field in dataclasses.fields(Episode)}
        return found["key"], Episode(**fields)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


@contextmanager
def _alone(path: Path | None, mode: str) -> Iterator[IO[bytes]]:
    """The file, which no other evaluation reads or writes meanwhile, where the system has locks."""
    with open(str(path), mode) as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
