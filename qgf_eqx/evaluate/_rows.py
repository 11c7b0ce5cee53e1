"""Rows of a result: what the outcomes of a method come to, with an interval."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .statistics import mean_return, paired_difference, paired_mean_difference, success_rate
from .task import References

Outcomes: TypeAlias = Sequence[Sequence[bool]]
"""For every training seed, whether each episode succeeded."""

Returns: TypeAlias = Sequence[Sequence[float]]
"""For every training seed, the return of each episode."""


def summarise(outcomes: Outcomes) -> dict[str, Any]:
    """The success rate of a method as a part of a table's row: with its interval, and what that is
    over."""
    found = success_rate(outcomes)
    by_run = [sum(map(bool, each)) for each in outcomes]
    return {
        "success": found.value,
        "interval": [found.low, found.high],
        "over": found.over,
        "successes": sum(by_run),
        "n": sum(map(len, outcomes)),
        "training seeds": len(by_run),
        "successes by run": by_run,
    }


def summarise_returns(returns: Returns, references: References | None = None) -> dict[str, Any]:
    """The mean return of a method, as `summarise`; with references its normalised score too."""
    found = mean_return(returns)
    row = {
        "return": found.value,
        "interval": [found.low, found.high],
        "over": found.over,
        "n": sum(map(len, returns)),
        "training seeds": len(returns),
        "returns by run": [sum(each) / len(each) for each in returns],
    }
    if references is None:
        return row
    score, *interval = (
        100 * (x - references.low) / (references.high - references.low)
        for x in (found.value, found.low, found.high)
    )
    return row | {"normalised score": score, "normalised interval": interval}


def differences(
    outcomes: Mapping[str, Outcomes | Returns], *, by_return: bool = False
) -> list[dict[str, Any]]:
    """Of QGF (or the first method) and each other method, paired by training seed and episode."""
    ours = "qgf" if "qgf" in outcomes else next(iter(outcomes))
    paired: Any = paired_mean_difference if by_return else paired_difference
    rows = []
    for name in outcomes:
        if name != ours:
            found = paired(outcomes[ours], outcomes[name])
            row = {"of": ours, "and": name, "difference": found.value}
            rows.append(row | {"interval": [found.low, found.high], "over": found.over})
    return rows
