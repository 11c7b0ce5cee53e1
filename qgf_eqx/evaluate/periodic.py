"""Evaluation while a training goes on: a few episodes of its checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._checks import check_count
from ._auto import UNTUNED, start_of
from ._judge import judge_of
from ._play import evaluate
from ._sources import as_source
from .names import method
from .task import task_of

FIRST = 1_000_000
"""The number of the first episode: no weight is chosen on it, and no comparison reports it."""


@dataclass(frozen=True)
class Periodic:
    """The `on_save` of `learn.train` that plays some methods, always on the same episodes.

    Guided methods get one weight, 0.3 of the checkpoint's `analysis.starting_weight`, as where a
    command is given none. For what is reported, choose weights by `comparison.compare` afterwards.
    """

    every: int
    """Updates; and after the last one."""
    updates: int
    """Of the whole training."""
    methods: Sequence[str] = ("flow", "qgf")
    episodes: int = 20
    processes: int | None = 1

    def __post_init__(self) -> None:
        """**Raises:** `ValueError` naming a count that is not positive, or an unknown method."""
        for name in ("every", "updates", "episodes"):
            check_count(name, getattr(self, name), "it counts updates or episodes")
        for name in self.methods:
            method(name)

    def __call__(self, run: Path, step: int) -> dict[str, float] | None:
        """Success, or the mean return, of each method; `None` if none is due."""
        if step % self.every and step != self.updates:
            return None
        source: Any = as_source(run)
        task = task_of(source.task())
        plain = [method(name) for name in self.methods]
        weight = 0.0
        if any(sampler.has_guidance_weight for sampler in plain):
            weight = UNTUNED * start_of(source, task, plain[0].reduce)
        samplers = [replace(m, weight=weight) if m.has_guidance_weight else m for m in plain]
        numbers = range(FIRST, FIRST + self.episodes)
        found = evaluate(run, samplers, numbers, processes=self.processes, progress=False)
        judge = judge_of(task.outcome, [[episodes] for episodes in found])
        what = "return" if task.by_return else "success"
        by_name = zip(self.methods, found, strict=True)
        means = {f"{name}/{what}": judge.total([es]) / self.episodes for name, es in by_name}
        return {**means, "weight": weight}
