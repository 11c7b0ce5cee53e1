"""What a comparison found: rows with intervals, the table for people, and files read back.

A result is made of outcomes, one per method, training seed and episode; rates and intervals are
computed from them here, by `statistics`, when a result is made and again when a file is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._read import read as read
from ._read import read_json as read_json
from ._read import read_paths as read_paths
from ._rows import Outcomes as Outcomes
from ._rows import Returns as Returns
from ._rows import differences as differences
from ._rows import summarise as summarise
from ._rows import summarise_returns as summarise_returns
from .statistics import OVER_EPISODES


def format_table(results: Mapping[str, Any]) -> str:
    """The table of a result, for people: what n is, what the intervals are over, and which weights
    lie at the edge of what was tried."""
    rows, notes = results["table"], []
    by_return = "return" in rows[0]
    what = "return" if by_return else "success"
    scored = "normalised score" in rows[0]
    lines = [
        f"{'method':<16}{'weight':>12}{what:>10}{'95 % interval':>18}{'n':>11}"
        + (f"{'score':>8}{'95 % interval':>18}" if scored else "")
    ]
    for row in rows:
        seeds, note = seeds_of(row), weight_note(row)
        n = f"{row['n'] // seeds} x {seeds}"
        notes += [f"* {row['method']}: {note}"] if note else []
        line = f"{row['method']:<16}{_weight(row) + ('*' if note else ''):>12}"
        if by_return:
            low, high = row["interval"]
            line += f"{row['return']:>10.4g}{f'[{low:.4g}, {high:.4g}]':>18}{n:>11}"
            notes += _note_of_errors(row)
        else:
            low, high = (100 * x for x in row["interval"])
            line += f"{100 * row['success']:>8.1f} %{f'[{low:.1f}, {high:.1f}]':>18}{n:>11}"
        if scored:
            low, high = row["normalised interval"]
            line += f"{row['normalised score']:>8.1f}{f'[{low:.1f}, {high:.1f}]':>18}"
        lines.append(line)
    for d in results["differences"]:
        what = f"{d['of']} - {d['and']}"
        between = f"{what:<32}"
        if by_return:
            low, high = d["interval"]
            lines.append(f"{between}{d['difference']:+.4g}  [{low:+.4g}, {high:+.4g}]")
        else:
            low, high = (100 * x for x in d["interval"])
            lines.append(f"{between}{100 * d['difference']:+.1f} points  [{low:+.1f}, {high:+.1f}]")
    return "\n".join([*lines, f"n = episodes x training seeds. {interval_note(rows[0])}", *notes])


def _note_of_errors(row: Mapping[str, Any]) -> list[str]:
    broke = row.get("errors")
    what = (
        f"{broke} episode{'s' * (broke != 1)} broke, with the worst return of all as its outcome."
    )
    return [f"{row['method']}: {what}"] if broke else []


def format_outcome(row: Mapping[str, Any]) -> str:
    """Success or return of a row, with its interval."""
    if "return" in row:
        low, high = row["interval"]
        return f"{row['return']:10.4g}  [{low:.4g}, {high:.4g}]"
    low, high = (100 * x for x in row["interval"])
    return f"{100 * row['success']:5.1f} %  [{low:.1f}, {high:.1f}]"


def seeds_of(row: Mapping[str, Any]) -> int:
    """How many training seeds a row is of."""
    return len(row["returns by run" if "return" in row else "successes by run"])


def interval_note(row: Mapping[str, Any]) -> str:
    """The sentence that says what a row's interval is over."""
    if row["over"] == OVER_EPISODES:
        return (
            "Intervals are over the episodes of one training run: they do not cover other training "
            "seeds."
        )
    return f"Intervals are over {seeds_of(row)} training seeds."


def _weight(row: Mapping[str, Any]) -> str:
    weight = row["weight"]
    return weight if isinstance(weight, str) else f"{weight:g}" if weight else "-"


def weight_note(row: Mapping[str, Any]) -> str:
    """What is to be said of how a row's weight was chosen; nothing, if it is well inside."""
    if row.get("tied"):
        return (
            "all weights that were tried did equally well on the tuning episodes, so they do not "
            "favour any weight; try more episodes or other weights."
        )
    beyond = {"upper": ("largest", "larger"), "lower": ("smallest", "smaller")}
    if row.get("edge") in beyond:
        last, further = beyond[row["edge"]]
        return f"the weight is the {last} that was tried; a {further} one may be better."
    return ""


def paths_of(results: str | Path) -> Path:
    """Where the paths of a results file are: `paths.json` beside `results.json`, `e_paths.json`
    beside `e.json`."""
    return beside(results, "paths.json")


def beside(results: str | Path, name: str) -> Path:
    """The file that belongs to a results file: named after it, unless that is `results.json`."""
    results = Path(results)
    return results.with_name(name if results.stem == "results" else f"{results.stem}_{name}")
