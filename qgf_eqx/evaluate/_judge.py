"""What episodes come to, by what a task is judged by: successes or returns, and a row of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ._rollout import Episode
from ._rows import Comparison, Difference, Row
from ._tuning import Choice
from .statistics import (
    Estimate,
    mean_return,
    paired_difference,
    paired_mean_difference,
    success_rate,
)
from .task import Outcome, References, Return

ByRun: TypeAlias = Sequence[Sequence[Episode]]
"""Of a method, the episodes of every training run."""


@dataclass(frozen=True)
class Judge:
    """How episodes are counted; `worst` is the lowest return of all that are compared."""

    by_return: bool = False
    references: References | None = None
    worst: float = 0.0

    def values(self, by_run: ByRun) -> list[list]:
        """Success or return of every episode. One that broke is no success, and has the worst
        return of all: ending early must not look like a gain where rewards are negative."""
        if not self.by_return:
            return [[e.success for e in episodes] for episodes in by_run]
        return [[self.worst if e.error else e.total_reward for e in es] for es in by_run]

    def total(self, by_run: ByRun) -> float | int:
        """What a weight is chosen by: successes, or the sum of returns."""
        return sum(map(sum, self.values(by_run)))

    def row(self, method: str, by_run: ByRun, **about: Any) -> Row:
        """A table's row, with what else is known of the method."""
        values = self.values(by_run)
        sums = [sum(each) for each in values]
        found = {"method": method, "n": sum(map(len, by_run)), "by_return": self.by_return}
        found["errors"] = sum(bool(e.error) for episodes in by_run for e in episodes)
        found["outcomes"] = tuple(tuple(map(float, each)) for each in values)
        if not self.by_return:
            return Row(estimate=success_rate(values), by_run=tuple(sums), **found, **about)
        means = tuple(total / len(each) for total, each in zip(sums, values, strict=True))
        mean = mean_return(values)
        return Row(estimate=mean, by_run=means, score=self._score(mean), **found, **about)

    def difference(self, ours: tuple[str, ByRun], theirs: tuple[str, ByRun]) -> Difference:
        """Of two methods, given by name and episodes; paired by training run and episode."""
        paired: Any = paired_mean_difference if self.by_return else paired_difference
        found = paired(self.values(ours[1]), self.values(theirs[1]))
        return Difference(ours[0], theirs[0], found, self.by_return)

    def _score(self, mean: Estimate) -> Estimate | None:
        if self.references is None:
            return None
        low, high = self.references
        return mean.scaled(100 / (high - low), low)


def judge_of(outcome: Outcome, compared: Iterable[ByRun]) -> Judge:
    """The judge of episodes that are compared with each other. If all of them broke, they are
    equal: the worst return is that of `References`, or the lowest until they broke."""
    if not isinstance(outcome, Return):
        return Judge()
    episodes = [e for by_run in compared for of_run in by_run for e in of_run]
    returns = [e.total_reward for e in episodes]
    if outcome.references is not None and all(e.error for e in episodes):
        returns.append(outcome.references.low)
    return Judge(True, outcome.references, min(returns, default=0.0))


def compared(
    task: str,
    outcome: Outcome,
    methods: Mapping[str, tuple[Choice, int]],
    episodes: Mapping[str, ByRun],
    **about: Any,
) -> Comparison:
    """A comparison of the outcomes of methods, each with its weight and its flow's steps.

    **Raises:** `ValueError` if the methods' episodes differ, or if all of them broke and no
    `References` say what the worst return is.
    """
    numbers = [[[e.number for e in es] for es in runs] for runs in episodes.values()]
    if any(other != numbers[0] for other in numbers):
        raise ValueError("`episodes` of the methods are not the same, so they are not paired.")
    played = [e for runs in episodes.values() for es in runs for e in es]
    if isinstance(outcome, Return) and outcome.references is None and all(e.error for e in played):
        raise ValueError(f"all episodes of all methods broke: {played[0].error}.")
    judge = judge_of(outcome, episodes.values())
    ours = "qgf" if "qgf" in methods else next(iter(methods))
    table = [
        judge.row(name, episodes[name], choice=choice, steps=steps)
        for name, (choice, steps) in methods.items()
    ]
    differences = [
        judge.difference((ours, episodes[ours]), (name, episodes[name]))
        for name in methods
        if name != ours
    ]
    return Comparison(task, tuple(table), tuple(differences), episodes, outcome=outcome, **about)
