"""Training runs that are compared: seeds of one training, and what each of them is."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ._sources import checkpoint_sha256

REPORT_FROM = 2_000_000
"""Tuning episodes are numbered from 0, reported ones from here."""
PER_RUN = 10_000
"""Numbers that are set aside for every training run."""


def sources_of(runs: Sequence[str | Path]) -> tuple[str, list[dict]]:
    """The task of the runs, and what each of them is; refuses what is not seeds of one training."""
    if not runs:
        raise ValueError("`runs` is empty: name the folder of a training run.")
    if len(runs) * PER_RUN > REPORT_FROM:
        raise ValueError(f"`runs` has {len(runs)} folders, {REPORT_FROM // PER_RUN} at most.")
    from ..train import load_config

    configs, steps = zip(*map(load_config, runs), strict=True)
    tasks = {config.env for config in configs}
    if len(tasks) > 1:
        raise ValueError(f"`runs` must be of one task, got {', '.join(sorted(tasks))}.")
    alike = {dataclasses.replace(config, seed=0) for config in configs}
    if len(alike) > 1:
        found = [dataclasses.asdict(config) for config in alike]
        differing = [name for name in found[0] if len({str(c[name]) for c in found}) > 1]
        raise ValueError(
            f"`runs` must differ in their training seed only, and differ in {', '.join(differing)}:"
            " compare them one at a time."
        )
    known = {step for step in steps if step is not None}
    if len(known) > 1:
        raise ValueError(
            "`runs` must be trained equally long, and their checkpoints have made "
            f"{', '.join(map(str, sorted(known)))} updates: train each run to its end."
        )
    sources = [
        {
            "folder": _as_given(Path(run)),
            "training seed": config.seed,
            "updates": step,
            "checkpoint sha256": checkpoint_sha256(run),
        }
        for run, config, step in zip(runs, configs, steps, strict=True)
    ]
    if len({source["checkpoint sha256"] for source in sources}) < len(sources):
        raise ValueError("`runs` has the same networks twice: a training seed counts once.")
    return configs[0].env, sources


def known(runs: Sequence[str | Path], sources: list[dict]) -> list[tuple[str | Path, str]]:
    """The runs with the hashes of their checkpoints, which every evaluation must find again."""
    return [(run, s["checkpoint sha256"]) for run, s in zip(runs, sources, strict=True)]


def _as_given(folder: Path) -> str:
    """The folder as it was given, without what is this machine's."""
    if folder.is_absolute():
        here = Path.cwd()
        folder = folder.relative_to(here) if folder.is_relative_to(here) else Path(folder.name)
    return folder.as_posix()
