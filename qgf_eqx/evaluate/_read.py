"""Results files read back: of this version or an older one, or whatever else a file may hold."""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

from ._rows import summarise, summarise_returns
from .names import method
from .task import NAME, References, Return

_DECAY = re.compile(r"[-+.e\d]{1,24} \(1-t\)", re.ASCII)
_MOST_ROWS, _MOST_RUNS, _MOST_EPISODES = 100, 1000, 100_000  # of a file that can be drawn


def read(path: str | Path) -> dict[str, Any]:
    """A results file of `demo` or `evaluate`, of this version or an older one.

    Rates and intervals are computed again from the successes of every training seed, so an older
    file, whose intervals were over all episodes, gets those of `statistics`.

    **Raises:** `ValueError` naming the file, and the part that cannot be right.
    """
    content = read_json(path)
    try:
        table = content["table"]
        if not NAME.fullmatch(content["task"]):
            raise ValueError("`task`")
        if not 0 < len(table) <= _MOST_ROWS:
            raise ValueError("`table`")
        by_return = content.get("judged by") == "return"
        read_row = partial(_read_returns, content) if by_return else _read_row
        rows = [read_row(row) for row in table]
        if len({row["method"] for row in rows}) < len(rows):
            raise ValueError("`method`")
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a results file of `demo` or `evaluate` ({_short(error)})."
        ) from None
    return {**content, "table": rows}


def read_paths(path: str | Path) -> dict[str, list[list[list[float]]]]:
    """The paths through a maze by method, as `compare` records them.

    **Raises:** `ValueError` naming the file if it holds anything else.
    """
    content = read_json(path)
    try:
        if not 0 < len(content) <= _MOST_ROWS:
            raise ValueError("no method")
        return {
            method(name).name: [
                [[_number(x), _number(y)] for x, y in _list(way)] for way in _list(ways)
            ]
            for name, ways in content.items()
        }
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold the paths of a maze ({_short(error)}): delete it, or make it "
            "again with `qgf-eqx evaluate`."
        ) from None


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    **Raises:** `ValueError` naming the file if it is not there, or is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # binary, cut short, or nested without end
        raise ValueError(f"{path} is not a JSON file.") from None


def _read_row(row: dict[str, Any]) -> dict[str, Any]:
    n, by_run = row["n"], row["successes by run"]
    _check_method(row)
    if not 0 < len(_list(by_run)) <= _MOST_RUNS:
        raise ValueError("`successes by run`")
    per_run, rest = divmod(_integer(n), len(by_run))
    counts = [_integer(successes) for successes in by_run]
    if rest or not 0 < per_run <= _MOST_EPISODES or not 0 <= min(counts) <= max(counts) <= per_run:
        raise ValueError("`n`, `successes by run`")
    outcomes = [[True] * successes + [False] * (per_run - successes) for successes in counts]
    return {**row, **summarise(outcomes)}


def _read_returns(content: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """As `_read_row`, from the return of every episode."""
    _check_method(row)
    given = content.get("references")
    references = None if given is None else References(*map(_number, _list(given)))
    by_run = _list(content["episodes"][row["method"]])
    returns = [[_number(x) for x in _list(episodes["return"])] for episodes in by_run]
    if not 0 < len(returns) <= _MOST_RUNS or not 0 < max(map(len, returns)) <= _MOST_EPISODES:
        raise ValueError("`episodes`")
    if not max(abs(x) for each in returns for x in each) < 1e30:
        raise ValueError("`return`")
    return {**row, **summarise_returns(returns, Return(references).references)}


def _check_method(row: dict[str, Any]) -> None:
    name, weight = row["method"], row["weight"]
    method(name)
    if isinstance(weight, str):
        if not _DECAY.fullmatch(weight):
            raise ValueError("`weight`")
    else:
        _number(weight)


def _integer(number: Any) -> int:
    if type(number) is not int:
        raise TypeError(f"{_short(number)} is not an integer")
    return number


def _number(found: Any) -> float:
    if type(found) not in (int, float) or not math.isfinite(found):
        raise ValueError(f"{_short(found)} is not a finite number")
    return float(found)


def _list(found: Any) -> list:
    if type(found) is not list:
        raise TypeError("not a list")
    return found


def _short(found: Any) -> str:
    text = " ".join(str(found).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
