"""What the episodes of a task come to: successes or returns, as numbers, rows and raw outcomes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _rows
from ._rollout import Episode
from .task import References, Return, Task, task_of

ByRun = Sequence[Sequence[Episode]]
"""Of a method, the episodes of every training run."""


@dataclass(frozen=True)
class Judge:
    """How the episodes of a task are counted."""

    task: str
    """Its name."""
    paths: bool = False
    """Whether the paths of its episodes can be drawn."""
    by_return: bool = False
    references: References | None = None

    def total(self, by_run: ByRun, worst: float) -> float | int:
        """What a weight is chosen by: successes, or the sum of returns."""
        return sum(map(sum, self.values(by_run, worst)))

    def values(self, by_run: ByRun, worst: float) -> list[list]:
        """Success or return of every episode. One that broke is no success, and has the worst
        return of all: ending early must not look like a gain where rewards are negative."""
        if not self.by_return:
            return [[e.success for e in episodes] for episodes in by_run]
        return [[worst if e.error else e.total_reward for e in episodes] for episodes in by_run]

    def summary(self, by_run: ByRun, worst: float) -> dict[str, Any]:
        """The part of a table's row that is about the outcomes."""
        values = self.values(by_run, worst)
        if not self.by_return:
            return _rows.summarise(values)
        return _rows.summarise_returns(values, self.references)

    def differences(self, reported: Mapping[str, ByRun], worst: float) -> list[dict[str, Any]]:
        """The differences of a table."""
        values = {name: self.values(by_run, worst) for name, by_run in reported.items()}
        return _rows.differences(values, by_return=self.by_return)

    def raw(self, episodes: Sequence[Episode], worst: float) -> dict[str, Any]:
        """All outcomes of a run, from which the table can be made again."""
        (values,) = self.values([episodes], worst)
        outcomes = (
            {"return": values}
            if self.by_return
            else {"success": "".join(str(int(success)) for success in values)}
        )
        return {
            "numbers": f"{episodes[0].number}..{episodes[-1].number}",
            **outcomes,
            "length": [e.length for e in episodes],
            "errors": {e.number: e.error for e in episodes if e.error},
        }

    def described(self) -> dict[str, Any]:
        """What a results file says of it; nothing, if it is judged by success."""
        if not self.by_return:
            return {}
        given = {"references": list(self.references)} if self.references else {}
        return {"judged by": "return", **given}


def judge_of(task: str | Task) -> Judge:
    """The judge of a task. OGBench's are not looked up: they are all judged by success."""
    if isinstance(task, str) and ":" not in task:
        return Judge(task, paths="maze" in task)
    task = task_of(task) if isinstance(task, str) else task
    if isinstance(task.outcome, Return):
        return Judge(task.name, task.paths, True, task.outcome.references)
    return Judge(task.name, task.paths)


def worst_return(methods: Iterable[ByRun]) -> float:
    """The lowest return of all episodes, those that broke included."""
    returns = [e.total_reward for by_run in methods for episodes in by_run for e in episodes]
    return min(returns, default=0.0)
