"""Episodes collected on this machine, from any source, in parallel, sharded and resumable.

Each episode is a pure function of (seed, index), so a file does not depend on the number of
processes, nor on interruptions.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .._checks import check_count
from .._files import hold_lock, write_atomically
from .._progress import bar
from ..engines import Engine, Local
from ._convert import DAMAGE
from ._error import DatasetError
from ._families import family_of

EPISODES_PER_SHARD = 5
_VALIDATION_FROM = 10**6  # training episodes are numbered from 0

Recorded = dict[str, np.ndarray]
"""Of one episode: a row per state in every field."""


@dataclass(frozen=True)
class Source:
    """What makes the episodes of a dataset, in any process."""

    dataset: str
    """Its name, and its file's."""
    steps: int
    """Rows of an episode at most, one more than its transitions."""
    maker: Callable[[], AbstractContextManager[Callable[[int, int], Recorded]]]
    """Of a module, or a `functools.partial` of one: what it opens makes the episode of (seed,
    index)."""
    packages: tuple[str, ...]
    """Whose versions are recorded."""


def source_of(dataset: str) -> Source:
    """What makes a dataset, by its name: the `source` of its family.

    **Raises:** `DatasetError` if there is no such dataset.
    """
    family, name = family_of(dataset)
    if not hasattr(family, "source"):
        raise DatasetError(
            f"`{dataset}` cannot be collected here: nothing is known of its family. Collectable "
            "are OGBench's datasets, `cube-single-play-v0`, and Meta-World's, `metaworld:push-v3`."
        )
    return family.source(name)


def collect(
    dataset: str,
    data_dir: str | Path,
    *,
    transitions: int = 1_000_000,
    seed: int = 0,
    processes: int | None = None,
    engine: Engine | None = None,
    progress: bool = True,
) -> Path:
    """Makes a dataset and its validation file (a tenth of its size) in `data_dir`.

    Runs in parallel processes, with a progress bar. Episodes are kept in shards until all are
    made: an interrupted collection loses at most one shard a process, and goes on where it was.

    **Arguments:**

    - `dataset`: an OGBench dataset's name, say `cube-single-play-v0`, or `metaworld:` and a task of
      Meta-World, say `metaworld:push-v3`.
    - `data_dir`: the folder for `<dataset>.npz` and `<dataset>-val.npz` (with `-` in place of `:`).
    - `transitions`: how many, rounded up to whole episodes of the full length.
    - `seed`: of every random choice; another seed makes other episodes.
    - `processes`: how many to use; all cores by default.
    - `engine`: where to make them, in place of `Local(processes)`.
    - `progress`: show a progress bar.

    **Returns:** the path of the training file. OGBench's are in the public format:
    `ogbench.make_env_and_datasets(..., dataset_path=path)` reads it.

    **Raises:** `DatasetError` if the name is unknown, if the file exists and was not made by
    this call's arguments, if a shard is damaged, or if another process collects it; `ValueError`
    or `TypeError` naming an argument that is not a count, or is too large; `EngineError` if a
    worker process dies: called again, collection goes on where it was.
    """
    source = source_of(dataset)
    dataset = source.dataset
    transitions = check_count("transitions", transitions, "it counts rows")
    seed = check_count("seed", seed, "it seeds every episode", least=0)
    engine = engine or Local(processes)
    path = Path(data_dir) / f"{dataset}.npz"
    episodes = -(-transitions // (source.steps - 1))
    if episodes > _VALIDATION_FROM:
        most = _VALIDATION_FROM * (source.steps - 1)
        raise ValueError(f"`transitions` must be at most {most:,}, got {transitions:,}.")
    validation = range(_VALIDATION_FROM, _VALIDATION_FROM + max(1, episodes // 10))
    # The main file last: where it is, the other one was finished before.
    splits = {path.with_name(f"{dataset}-val.npz"): validation, path: range(episodes)}
    about = {
        file: {"dataset": dataset, "seed": seed, "episodes": len(indices)}
        for file, indices in splits.items()
    }
    for file in [file for file in splits if file.exists()]:
        _check_same(file, about[file])
        del splits[file]
    if not splits:
        return path
    shards_dir = path.with_name(f"{dataset}.seed{seed}.shards")
    shards_dir.mkdir(parents=True, exist_ok=True)
    jobs = [
        (shards_dir / f"{indices[i]:08d}.{len(chunk)}.npz", tuple(chunk))
        for indices in splits.values()
        for i in range(0, len(indices), EPISODES_PER_SHARD)
        for chunk in [indices[i : i + EPISODES_PER_SHARD]]
    ]
    todo = [job for job in jobs if not job[0].exists()]
    steps = source.steps * sum(map(len, splits.values()))
    missing = source.steps * sum(len(chunk) for _, chunk in todo)
    shards = engine.map(partial(_make_shard, source, seed), todo)  # each when it is asked for
    with (
        hold_lock(shards_dir, "collects into", DatasetError),
        closing(shards),
        bar(
            steps,
            f"collect {dataset}",
            "steps",
            show=progress,
            initial=steps - missing,
            scale=True,
        ) as shown,
    ):
        for leftover in path.parent.glob(f".{dataset}*.tmp"):  # of a run that was killed
            leftover.unlink()
        for (_, indices), _ in shards:
            shown.update(len(indices) * source.steps)
        for file, indices in splits.items():
            parts = [shard for shard, chunk in jobs if chunk[0] in indices]
            _merge(source, parts, file, about[file])
        shutil.rmtree(shards_dir)
    return path


def provenance_path(path: Path) -> Path:
    """Where a collected file's provenance is: beside it, so that its format stays the public
    one."""
    return path.with_name(f"{path.stem}.collected.json")


def _check_same(path: Path, provenance: dict) -> None:
    try:
        found = json.loads(provenance_path(path).read_text())
        found = {name: found[name] for name in provenance}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        found = "a file that was not collected here (the public one?)"
    if found != provenance:
        raise DatasetError(
            f"{path} exists and is {found}, not {provenance}. Use it as it is, move it away, or "
            "choose another `data_dir`."
        )


def _make_shard(source: Source, seed: int, job: tuple[Path, tuple[int, ...]]) -> None:
    shard, indices = job
    with source.maker() as make:
        _save([make(seed, index) for index in indices], shard, compress=False)


def _save(episodes: list[Recorded], path: Path, *, compress: bool) -> None:
    fields = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    write = np.savez_compressed if compress else np.savez
    with write_atomically(path) as file:
        write(file, **fields)  # type: ignore[arg-type]


def _merge(source: Source, shards: list[Path], path: Path, provenance: dict) -> None:
    episodes = []
    for shard in shards:
        try:
            with open(shard, "rb") as file, np.load(file, allow_pickle=False) as fields:
                episodes.append(dict(fields))
        except (*DAMAGE, ValueError) as error:
            raise DatasetError(
                f"{shard} is damaged ({type(error).__name__}). Delete it and run again: only this "
                "shard is made again."
            ) from None
    versions = {name: version(name) for name in source.packages}
    with write_atomically(provenance_path(path)) as file:
        file.write(json.dumps({**provenance, "versions": versions}, indent=1).encode())
    _save(episodes, path, compress=True)
