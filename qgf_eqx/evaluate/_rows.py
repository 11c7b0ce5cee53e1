"""What comparisons find, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._rollout import Episode
from ._runs import TrainedRun
from ._tuning import Choice, Number
from .statistics import Estimate
from .task import Outcome, Success


@dataclass(frozen=True)
class Row:
    """The result of a method's episodes."""

    method: str
    choice: Choice
    """Its weight, and how it was chosen."""
    estimate: Estimate
    """The success rate, or the mean return, with its interval."""
    by_run: tuple[int, ...] | tuple[float, ...]
    """Of each training seed the number of successes, or the mean return."""
    n: int
    """Episodes, of all training seeds."""
    by_return: bool = False
    score: Estimate | None = None
    """The normalised score, where the task has `References`."""
    steps: int = 10
    """Of the flow."""
    errors: int = 0
    """How many of the episodes broke."""
    outcomes: tuple[tuple[float, ...], ...] = ()
    """For each training seed, the success or return of every episode; empty for older files,
    which kept only sums of tuning episodes."""

    @property
    def weight(self) -> Number:
        """A number or a `LinearDecay`; 0 of a method that takes none."""
        return self.choice.weight


@dataclass(frozen=True)
class Difference:
    """Of two methods, on the same training seeds and episodes."""

    ours: str
    theirs: str
    estimate: Estimate
    """`ours - theirs`, in success or return, with its interval."""
    by_return: bool = False


@dataclass(frozen=True)
class Tuned:
    """A weight that was chosen on tuning episodes, and what that cost."""

    choice: Choice
    tuning: tuple[Row, ...]
    """One for every weight that was tried."""
    episodes: int
    """How many were played."""
    environment_steps: int

    @property
    def weight(self) -> Number:
        """A number or a `LinearDecay`."""
        return self.choice.weight


@dataclass(frozen=True)
class Comparison:
    """Methods that were compared on training runs of one task."""

    task: str
    table: tuple[Row, ...]
    """One for every method, on the reported episodes."""
    differences: tuple[Difference, ...]
    """Of QGF (or the first method) and each other method."""
    episodes: Mapping[str, Sequence[Sequence[Episode]]]
    """All reported outcomes: of every method, for every training run."""
    tuning: tuple[Row, ...] = ()
    """One for every method and weight, on the tuning episodes."""
    outcome: Outcome = field(default_factory=Success)
    """What the task is judged by."""
    runs: tuple[TrainedRun, ...] = ()
    trained_on: str | None = None
    """Another task than this one, if the runs were trained on one."""
    reduce: str = ""
    """Of the critics' values: the name of the function."""
    goals: int = 0
    """Of a task with goals how many: episode n has goal `1 + n % goals`."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How episodes are numbered, versions, machine, and what else is in the file."""

    def row(self, method: str) -> Row:
        """The row of a method.

        **Raises:** `KeyError` if it was not compared.
        """
        rows = {row.method: row for row in self.table}
        if method not in rows:
            raise KeyError(f"`{method}` is none of {', '.join(rows)}.")
        return rows[method]

    def __str__(self) -> str:
        """The table, as `results.format_table` makes it."""
        from .results import format_table

        return format_table(self)

    @property
    def paths(self) -> dict[str, list]:
        """The path of every episode through a maze, by method, if they were recorded."""
        of = {name: [e.path for es in runs for e in es] for name, runs in self.episodes.items()}
        return of if any(any(paths) for paths in of.values()) else {}
