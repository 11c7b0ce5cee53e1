"""Training runs that are compared: seeds of one training, and what each of them is."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._types import Critic, Policy
from ._sources import checkpoint_sha256

REPORT_FROM = 2_000_000
"""Tuning episodes are numbered from 0, reported ones from here."""
PER_RUN = 10_000
"""Numbers that are set aside for every training run."""


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A training run that is evaluated."""

    path: str
    """Its folder."""
    seed: int
    """Of its training."""
    updates: int | None
    """How many its checkpoint has made; `None` if an older version saved it."""
    sha256: str
    """Of its checkpoint, which every evaluation must find again."""
    critic: str | None = None
    """The folder of another run, whose critic guides and ranks in place of its own."""
    networks: tuple[Policy, Critic] | None = dataclasses.field(default=None, compare=False)
    """A policy and its critic, where they are in memory and not in a folder."""

    @property
    def source(self) -> Any:
        """What `evaluate` is given."""
        return self.networks or self.path

    @property
    def folder(self) -> str:
        """The folder as it was given, without what is this machine's."""
        return _plain(self.path)

    @property
    def of_critic(self) -> str | None:
        """As `folder`, of the run whose critic it takes."""
        return None if self.critic is None else _plain(self.critic)


def _plain(folder: str) -> str:
    path = Path(folder)
    if path.is_absolute():
        here = Path.cwd()
        path = path.relative_to(here) if path.is_relative_to(here) else Path(path.name)
    return path.as_posix()


class SeedsOfOne(NamedTuple):
    """Runs that differ in their training seed only."""

    task: str
    runs: tuple[TrainedRun, ...]
    actors: Mapping[str, Any]
    """That they have trained, by name."""


def in_memory(networks: Sequence[Any]) -> tuple[TrainedRun, ...]:
    """Pairs of a policy and a critic, each of a training seed of its own."""
    _check_number(networks)
    if not all(isinstance(n, tuple) and len(n) == 2 and all(map(callable, n)) for n in networks):
        raise TypeError(
            "`runs` must hold folders of training runs, or tuples (policy, critic) of functions."
        )
    return tuple(
        TrainedRun(f"in memory {i}", i, None, "", networks=pair) for i, pair in enumerate(networks)
    )


def _check_number(runs: Sequence) -> None:
    if len(runs) * PER_RUN > REPORT_FROM:
        raise ValueError(f"`runs` has {len(runs)} entries, more than {REPORT_FROM // PER_RUN}.")


def seeds_of_one(runs: Sequence[str | Path]) -> SeedsOfOne:
    """The runs; refuses what is not seeds of one training."""
    if not runs:
        raise ValueError("`runs` is empty: name the folder of a training run.")
    _check_number(runs)
    from ..learn import load_config
    from ..learn._config import differing

    configs, steps = zip(*map(load_config, runs), strict=True)
    tasks = {config.env for config in configs}
    if len(tasks) > 1:
        raise ValueError(f"`runs` must be of one task, got {', '.join(sorted(tasks))}.")
    for config in configs[1:]:
        changes = differing(configs[0], dataclasses.replace(config, seed=configs[0].seed))
        if changes:
            raise ValueError(
                "`runs` must differ in their training seed only, but differ in "
                f"{', '.join(name for name, *_ in changes)}: compare them one at a time."
            )
    known = {step for step in steps if step is not None}
    if len(known) > 1:
        raise ValueError(
            "`runs` must be trained equally long, and their checkpoints have made "
            f"{', '.join(map(str, sorted(known)))} updates: train each run to its end."
        )
    found = tuple(
        TrainedRun(str(run), config.seed, step, checkpoint_sha256(run))
        for run, config, step in zip(runs, configs, steps, strict=True)
    )
    if len({run.sha256 for run in found}) < len(found):
        raise ValueError("`runs` has the same networks twice: a training seed counts once.")
    return SeedsOfOne(configs[0].env, found, configs[0].actors)
