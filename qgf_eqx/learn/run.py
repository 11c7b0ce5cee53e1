"""Training runs: a critic and any number of actors, on a dataset on the device or in its files.

One compiled call makes many updates, in seconds: indices are drawn in the graph, and the batch of
update n is a pure function of (seed, n). A dataset larger than memory is streamed from its files
instead, with the same batches. A run is a folder with `config.json`, `metrics.jsonl` and
`checkpoint.safetensors`; started again, it goes on where it was, bit for bit.
"""

import dataclasses
import itertools
import json
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import checkpoint
from .._checks import check_count
from .._files import write_atomically
from .._progress import bar
from .._run_folder import MetricsLog, RunError, alone_in, termination_flag
from .._static import structure_of
from ..data import Dataset, check_horizon, time_limit_masks
from ..data._fingerprint import differing, fingerprint
from ..data.arrays import check_seen
from ..data.goals import Hindsight, itself
from ._config import TrainConfig, read_config, refuse_other
from ._devices import Devices
from ._devices import on as on_devices
from ._layout import Part, join_obs, pictures_of
from ._learner import Spec
from ._tracking import Track
from ._trained import FILE, Saved, SavedState, metadata, read_saved
from ._units import Units, action_range, fit_units
from ._updates import init, longest, make_updates, one_of, stacked, stream
from .loop import TeamState

OnSave: TypeAlias = Callable[[Path, int], Mapping[str, float] | None]
"""Takes a run's folder and the step of its new checkpoint; returns numbers, or nothing."""


def train(config: TrainConfig, dataset: Dataset, run_dir: str | Path, **options: Any) -> Path:
    """Trains to `config.updates`, from the folder's checkpoint if there is one.

    **Arguments:**

    - `config`: what to train.
    - `dataset`: the data, which are moved to the device. Observations that are a dict or another
      PyTree are laid end to end first, a copy in memory, but for pictures (bytes of
      height, width and channels): every network has an encoder of its own for each.
    - `run_dir`: the run's folder, made if it is not there.
    - `options`: those of `train_seeds`.

    **Returns:** the path of the checkpoint.

    **Raises:** `RunError` if the folder or its checkpoint belongs to another config, other data or
    another process, if a file cannot be written, or if training diverges, which keeps what was
    saved before; `CheckpointError` if the checkpoint is damaged; `DatasetError` if the data have
    no whole chunk, or pictures with channels first. On SIGTERM it saves within seconds and exits
    with 0; on Ctrl-C it saves and raises `KeyboardInterrupt`; a second Ctrl-C does not wait. If
    an older version's checkpoint does not record its data, training continues with a warning.
    """
    return _train([(config, Path(run_dir))], dataset, **options)[0]


def train_seeds(
    config: TrainConfig,
    seeds: Sequence[int],
    dataset: Dataset,
    folder: str | Path,
    *,
    updates_per_call: int = 500,
    save_every: int = 10_000,
    streamed: bool = False,
    progress: bool = True,
    position: int = 0,
    devices: Sequence[Any] | None = None,
    hindsight: Hindsight = Hindsight(),  # noqa: B008 (a tuple)
    track: Track | None = None,
    on_save: OnSave | None = None,
) -> list[Path]:
    """Trains several seeds in one program, in folders `seed<k>`. Each equals a run of `train` up
    to rounding, since matrix products of other sizes round differently.

    **Arguments:** as for `train`, and

    - `config`: of all of them, but for its seed.
    - `seeds`: one run each.
    - `folder`: of the runs' folders.
    - `updates_per_call`: how many updates a line of metrics averages. One compiled call makes
      them, or several if updates are slow; the results are the same to the bit.
    - `save_every`: a kill costs at most this many updates.
    - `streamed`: leave the data in their memory-mapped files, for datasets larger than memory, and
      read the chunks of two lines at a time. The batches are the same to the bit, the networks up
      to the last bits, as the compiled program differs.
    - `progress`, `position`: of the progress bar.
    - `devices`: among which each batch is divided, such as `jax.devices()`; by default JAX's first.
      After `jax.distributed.initialize` they are those of all processes, each of which makes this
      call with the same data; the first process alone reads and writes the folders. The result is
      that of one device, but for the last bits.
    - `hindsight`: what a goal is, if `config.goals`: of the row of numbers that an observation is.
    - `track`: called with a run's folder and each line of its metrics and evaluations, such as a
      `tracker`.
    - `on_save`: called with a run's folder and its step after each checkpoint, such as
      `evaluate.periodic.Periodic`; what it returns, numbers by name, is a line of the run's
      `evaluations.jsonl`. After a kill it is called for the checkpoint that has no line yet.

    **Returns:** the paths of the checkpoints. **Raises:** as `train`.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise RunError("`seeds` must name each seed once, and at least one.")
    runs = [
        (dataclasses.replace(config, seed=seed), Path(folder) / f"seed{seed}") for seed in seeds
    ]
    options: dict[str, Any] = {"streamed": streamed, "progress": progress, "position": position}
    options |= {
        "hindsight": hindsight,
        "devices": devices,
        "updates_per_call": updates_per_call,
        "save_every": save_every,
        "track": track,
        "on_save": on_save,
    }
    return _train(runs, dataset, **options)


@dataclasses.dataclass(frozen=True)
class _Log:
    """Where the lines of a run go."""

    folder: Path
    metrics: MetricsLog
    evaluations: MetricsLog
    track: Track

    def measured(self, line: dict[str, Any]) -> None:
        """Of the training."""
        self.metrics.append(line)
        self.track(self.folder, line)

    def evaluated(self, step: int, on_save: OnSave) -> None:
        """Of a checkpoint."""
        if step == 0 or self.evaluations.last == step:
            return
        if found := on_save(self.folder, step):
            line = {"step": step, **found}
            self.evaluations.append(line)
            self.track(self.folder, line)


def _nowhere(folder: Path, line: Mapping[str, Any]) -> None:
    """Tracks nothing."""


@dataclasses.dataclass
class _Run:
    """One of the runs of a program."""

    config: TrainConfig
    folder: Path
    state: TeamState
    log: _Log | None
    """None in a process that writes no files."""

    @property
    def step(self) -> int:
        return int(self.state.step)


def _train(
    runs: list[tuple[TrainConfig, Path]],
    dataset: Dataset,
    *,
    updates_per_call: int = 500,
    save_every: int = 10_000,
    streamed: bool = False,
    progress: bool = True,
    position: int = 0,
    devices: Sequence[Any] | None = None,
    hindsight: Hindsight = Hindsight(),  # noqa: B008 (a tuple)
    track: Track | None = None,
    on_save: OnSave | None = None,
) -> list[Path]:
    config = runs[0][0]
    check_horizon(dataset, longest(config))
    if not config.goals:
        check_seen(dataset)
    check_count("updates_per_call", updates_per_call, "it counts updates")
    check_count("save_every", save_every, "it counts updates")
    on = on_devices(devices)
    on.check(config.batch)
    with ExitStack() as stack:
        for _, folder in runs if on.lead else ():
            stack.enter_context(alone_in(folder))
        terminated = stack.enter_context(termination_flag())
        data = fingerprint(dataset)
        dataset, layout = join_obs(dataset)
        goal = structure_of(hindsight) if config.goals else None
        saved = [_saved(*run, data, goal) if on.lead else None for run in runs]
        units = next((each.units for each in saved if each), None) or fit_units(config, dataset)
        spec = _spec(config, dataset, layout, units, hindsight)
        opened = [
            _open(*run, each, spec, on, track or _nowhere)
            for run, each in zip(runs, saved, strict=True)
        ]
        if config.time_limit_masks:
            dataset = time_limit_masks(dataset)
        program = _Program(
            config,
            spec,
            units,
            metadata(spec, layout, data, goal),
            terminated,
            on,
            hindsight,
            on_save,
        )
        checkpoint.check_savable(SavedState(opened[0].state, units))  # before hours of training
        program.evaluate(opened)
        program.source = dataset if streamed else on.everywhere(jax.tree.map(jnp.asarray, dataset))
        seeds = [run.config.seed for run in opened]
        shown = bar(
            config.updates,
            f"train seed {' '.join(map(str, seeds))}",
            "updates",
            show=progress and on.lead,
            initial=min(run.step for run in opened),
            position=position,
        )
        with shown:
            while behind := [run for run in opened if run.step < config.updates]:
                # Of seeds that were killed between two saves, those behind catch up first.
                first = min(run.step for run in behind)
                group = [run for run in behind if run.step == first]
                end = min([config.updates, *(run.step for run in behind if run.step > first)])
                lines = list(_lines(first, end, updates_per_call, save_every))
                program.run(group, lines, shown.update)
            program.check_interrupt(opened)
    return [folder / FILE for _, folder in runs]


class _Program:
    """Updates of some runs together, which differ in their seed."""

    source: Dataset
    """On the device, or in its files."""

    def __init__(
        self,
        config: TrainConfig,
        spec: Spec,
        units: Units,
        about: dict,
        terminated: list,
        on: Devices,
        hindsight: Hindsight,
        on_save: OnSave | None,
    ):
        self.config, self.spec, self.units, self.on = config, spec, units, on
        self.about, self.terminated, self.hindsight = about, terminated, hindsight
        self.on_save = on_save

    def run(self, group: list[_Run], lines: list, shown: Callable[[int], Any]) -> None:
        """Makes the updates of the lines; the runs have the new states."""
        seeds = [run.config.seed for run in group]
        done = saved = group[0].step
        state = self.on.everywhere(stacked([run.state for run in group]))
        updates = make_updates(self.config, self.spec, self.units, seeds, self.on, self.hindsight)
        sources: Iterable = itertools.repeat(self.source)
        if not isinstance(self.source.rewards, jax.Array):
            sources = stream(self.source, self.config, [line[:2] for line in lines], seeds)
        per_call, stop = 1, False
        for (first, count, due), source in zip(lines, sources, strict=False):
            sums, started = None, time.perf_counter()
            source = source if source is self.source else self.on.everywhere(source)
            while done < first + count:
                stop, per_call = self.on.agree(bool(self.terminated), per_call)
                if stop:
                    break
                n, called = min(per_call, first + count - done), time.perf_counter()
                state, sums = updates(source, state, n, done - first, sums)
                jax.block_until_ready(sums)
                if n == per_call:
                    per_call = _next_count(n, time.perf_counter() - called)
                done += n
                shown(n)
            if sums is not None:
                rate = float(f"{(done - first) / (time.perf_counter() - started):.4g}")
                means = {name: np.asarray(total) / (done - first) for name, total in sums.items()}
                for i, run in enumerate(group):
                    metrics = {name: float(mean[i]) for name, mean in means.items()}
                    if not all(map(math.isfinite, metrics.values())):
                        raise RunError(_DIVERGED.format(run.config.seed, done, metrics))
                    if run.log is not None:
                        run.log.measured({"step": done, **metrics, "updates_per_second": rate})
            if done > saved and (due or stop):
                for i, run in enumerate(group):
                    run.state = one_of(state, i)
                    if not _is_finite(run.state):
                        said = "a parameter is not finite"
                        raise RunError(_DIVERGED.format(run.config.seed, done, said))
                if self.on.lead:
                    self._save(group, done)
                    if not stop:
                        self.evaluate(group)
                saved = done
            if stop:
                self.check_interrupt(group)

    def check_interrupt(self, group: list[_Run]) -> None:
        """Ends as a signal wants it that came until now: all is saved."""
        if self.terminated:
            folders = " and ".join(str(run.folder) for run in group)
            said = f"{folders}: saved at update {group[0].step:,} of {self.config.updates:,}."
            print(f"{said} The same command resumes.", file=sys.stderr)
            raise KeyboardInterrupt if signal.SIGINT in self.terminated else SystemExit(0)

    def evaluate(self, runs: list[_Run]) -> None:
        """Asks `on_save` of the checkpoints that have no line yet."""
        for run in runs:
            if self.on_save is not None and run.log is not None:
                run.log.evaluated(run.step, self.on_save)

    def _save(self, group: list[_Run], done: int) -> None:
        """All files are written before the first takes its place."""
        with ExitStack() as files:
            for run in group:
                about = {"config": run.config.as_dict(), **self.about, "step": done}
                file = files.enter_context(write_atomically(run.folder / FILE))
                file.write(checkpoint.as_bytes(SavedState(run.state, self.units), about))


_DIVERGED = (
    "the training of seed {} diverged before update {}: {}. What was saved before it is intact; "
    "try a lower learning rate, in another folder."
)


def _lines(done: int, total: int, updates_per_line: int, save_every: int):
    """The first update of every line of metrics, how many it has, and whether to save after it."""
    saved = done
    while done < total:
        due = min((saved // save_every + 1) * save_every, total)  # multiples, wherever it resumes
        count = min(updates_per_line, due - done)
        yield done, count, done + count == due
        done += count
        saved = due if done == due else saved


SECONDS = 5.0
"""About how long one compiled call may take: so long SIGTERM waits at most."""


def _next_count(count: int, seconds: float) -> int:
    """How many updates the next call makes, if `count` of them took so long."""
    return max(1, count // 2) if seconds > SECONDS else count * (1 + (seconds < SECONDS / 2))


@eqx.filter_jit
def _is_finite(state: TeamState) -> jax.Array:
    """Whether every parameter, and every number that the optimiser keeps, is finite."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _spec(
    config: TrainConfig,
    dataset: Dataset,
    layout: tuple[Part, ...],
    units: Units,
    hindsight: Hindsight,
) -> Spec:
    """What networks must be made for, of a dataset whose observations are joined."""
    row = dataset.obs[0] if isinstance(dataset.obs, tuple) else dataset.obs
    shape = config.horizon, dataset.actions.shape[1]
    low, high = action_range(dataset, units)
    size = _goal_size(config, dataset, hindsight) if config.goals else 0
    pictures = pictures_of(layout)
    return Spec(row.shape[1] + size, shape, low, high, pictures, config.features, size)


def _goal_size(config: TrainConfig, dataset: Dataset, hindsight: Hindsight) -> int:
    if isinstance(dataset.obs, tuple):
        raise RunError("`goals` cannot be combined with pictures in the observations.")
    if config.normalise_obs != "none" and hindsight.of is not itself:
        raise RunError(
            "`normalise_obs` normalises states, and the goals of this task are not states. Use "
            "`none`, and scale the data yourself."
        )
    row = jax.ShapeDtypeStruct(dataset.obs.shape[1:], jnp.float32)
    return math.prod(jax.eval_shape(hindsight.of, row).shape)


def _saved(config: TrainConfig, folder: Path, data: dict, goal: dict | None) -> Saved | None:
    """What the folder's checkpoint holds, if there is one of this config, data and goals."""
    path = folder / FILE
    if not path.exists():
        return None
    found = read_saved(path)
    refuse_other(path, found.config, config)
    if found.data is None:
        warnings.warn(
            f"{path} was saved by an older version, which did not record its data: training "
            "resumes without checking that they are the same data.",
            stacklevel=4,
        )
    elif fields := differing(found.data, data):
        raise RunError(
            f"{path} was trained on other data: {', '.join(f'`{n}`' for n in fields)} differ. "
            "Choose another folder, or delete it to start over."
        )
    before, now = found.hindsight, goal
    if before is not None and now is not None and before != now:
        part = next(name for name in {**before, **now} if before.get(name) != now.get(name))
        raise RunError(
            f"{path} was trained with other goals: `{part}` of the task's `hindsight` was "
            f"{before.get(part)}, and is {now.get(part)}. Choose another folder, or delete it to "
            "start over."
        )
    if not _is_finite(found.state):
        raise RunError(f"{path} is of a run that diverged. Delete its folder to start over.")
    if found.state.step > config.updates:
        raise RunError(
            f"{path} has made {found.state.step} updates, more than `updates` {config.updates}. "
            "Choose another folder, or raise `updates`."
        )
    return found


def _open(
    config: TrainConfig, folder: Path, saved: Saved | None, spec: Spec, on: Devices, track: Track
) -> _Run:
    state = on.of_lead(saved.state if saved else init(config, spec))
    if not on.lead:
        return _Run(config, folder, state, None)
    _claim(folder / "config.json", config)
    step = int(state.step)
    metrics = MetricsLog(folder / "metrics.jsonl", step)
    evaluations = MetricsLog(folder / "evaluations.jsonl", step)
    return _Run(config, folder, state, _Log(folder, metrics, evaluations, track))


def _claim(path: Path, config: TrainConfig) -> None:
    """Writes `config.json`, or checks that the folder's is the same."""
    if path.exists():
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"{path} is not JSON ({error}). Delete the folder to start over."
            ) from None
        refuse_other(path, read_config(found, path), config)
    with write_atomically(path) as file:
        file.write(json.dumps(config.as_dict(), indent=1).encode())
