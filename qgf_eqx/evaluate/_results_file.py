"""Results files: written, and read back, of this version or an older one, or whatever else a file
may hold. The names of a file's fields are here and nowhere else.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._provenance import write_json
from ..weights import LinearDecay
from ._judge import compared
from ._rollout import Episode
from ._rows import Comparison, Difference, Row, Tuned
from ._runs import TrainedRun
from ._tuning import Choice, Number
from .statistics import OVER_EPISODES, OVER_SEEDS, Estimate
from .task import NAME, Outcome, References, Return, Success

_DECAY = re.compile(r"([-+.e\d]{1,24}) \(1-t\)", re.ASCII)
_NUMBERS = re.compile(r"(\d{1,12})\.\.(\d{1,12})", re.ASCII)
_MOST_ROWS, _MOST_RUNS, _MOST_EPISODES = 100, 1000, 100_000  # of a file that can be drawn


def write(results: Comparison, path: str | Path) -> None:
    """Writes a results file, and beside it the paths through a maze if they were recorded."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, as_json(results))
    if results.paths:
        write_json(paths_of(path), results.paths)
    else:
        paths_of(path).unlink(missing_ok=True)  # of another result


def as_json(found: Comparison | Tuned) -> dict[str, Any]:
    """What the file of a comparison holds, or what `choose --json` prints."""
    tuning = [_of_row(row) | _of_outcomes(row) for row in found.tuning]
    if isinstance(found, Tuned):
        spent = {"episodes": found.episodes, "environment steps": found.environment_steps}
        return {**_of_choice(found.choice), "tuning": tuning, "spent": spent}
    other: dict[str, Any] = {"trained on": found.trained_on} if found.trained_on else {}
    other |= {"goals": found.goals} if found.goals else {}
    by_return = isinstance(found.outcome, Return)
    if isinstance(found.outcome, Return):
        other["judged by"] = "return"
        if found.outcome.references:
            other["references"] = list(found.outcome.references)
    return {
        "task": found.task,
        **other,
        "critics reduced by": found.reduce,
        "runs": [
            {
                "folder": run.folder,
                "training seed": run.seed,
                "updates": run.updates,
                "checkpoint sha256": run.sha256,
                **({} if run.of_critic is None else {"critic of": run.of_critic}),
            }
            for run in found.runs
        ],
        "training seeds": [run.seed for run in found.runs],
        "table": [_of_row(row) for row in found.table],
        "differences": [_of_difference(d) for d in found.differences],
        "tuning": tuning,
        "episodes": {
            name: [_of_episodes(episodes, by_return) for episodes in runs]
            for name, runs in found.episodes.items()
        },
        **found.about,
    }


def _of_row(row: Row) -> dict[str, Any]:
    what, sums = ("return", "returns") if row.by_return else ("success", "successes")
    found = {"method": row.method, **_of_choice(row.choice), "steps": row.steps}
    found |= {what: row.estimate.value, **_of_interval(row.estimate)}
    if not row.by_return:
        found["successes"] = sum(row.by_run)
    found |= {"n": row.n, "training seeds": len(row.by_run), f"{sums} by run": list(row.by_run)}
    if row.score is not None:
        ends = [row.score.low, row.score.high]
        found |= {"normalised score": row.score.value, "normalised interval": ends}
    return {**found, "errors": row.errors}


def _of_outcomes(row: Row) -> dict[str, Any]:
    """Each episode of a row, which are those of a weight that was tried."""
    if not row.outcomes:
        return {}
    if row.by_return:
        return {_OUTCOMES: [list(each) for each in row.outcomes]}
    return {_OUTCOMES: ["".join(str(int(won)) for won in each) for each in row.outcomes]}


def _of_choice(choice: Choice) -> dict[str, Any]:
    weight = choice.weight
    if isinstance(weight, LinearDecay):
        weight = f"{weight.start!r} (1-t)"
    return {"weight": weight, "edge": choice.edge, "tied": choice.tied}


def _of_interval(found: Estimate) -> dict[str, Any]:
    return {"interval": [found.low, found.high], "over": found.over}


def _of_difference(d: Difference) -> dict[str, Any]:
    pair = {"of": d.ours, "and": d.theirs, "difference": d.estimate.value}
    return pair | _of_interval(d.estimate)


def _of_episodes(episodes: Sequence[Episode], by_return: bool) -> dict[str, Any]:
    if by_return:
        outcomes: dict[str, Any] = {"return": [e.total_reward for e in episodes]}
    else:
        outcomes = {"success": "".join(str(int(e.success)) for e in episodes)}
    return {
        "numbers": f"{episodes[0].number}..{episodes[-1].number}",
        **outcomes,
        "length": [e.length for e in episodes],
        "errors": {e.number: e.error for e in episodes if e.error},
    }


def read(path: str | Path) -> Comparison:
    """The results file of a comparison, of this version or an older one.

    Rows and differences are computed again from the outcomes, so an older file, whose intervals
    were over all episodes, gets those of `statistics`.

    **Raises:** `ValueError` naming the file, and the part that cannot be right.
    """
    content = read_json(path)
    try:
        return _comparison(content)
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a results file of `demo` or `evaluate` ({_short(error)})."
        ) from None


def _comparison(content: dict[str, Any]) -> Comparison:
    table = _list(content["table"])
    if not NAME.fullmatch(content["task"]):
        raise ValueError("`task`")
    if not 0 < len(table) <= _MOST_ROWS:
        raise ValueError("`table`")
    outcome = _outcome(content)
    by_return = isinstance(outcome, Return)
    names = [row["method"] for row in table]
    if len(set(names)) < len(names) or not all(map(NAME.fullmatch, names)):
        raise ValueError("`method`")
    episodes = {
        name: [_episodes(each, by_return) for each in _list(content["episodes"][name])]
        for name in names
    }
    for runs in episodes.values():
        if not 0 < len(runs) <= _MOST_RUNS:
            raise ValueError("`episodes`")
    rows = {name: (_choice(row), _steps(row)) for name, row in zip(names, table, strict=True)}
    return compared(
        content["task"],
        outcome,
        rows,
        episodes,
        tuning=tuple(_row(row, by_return) for row in _list(content.get("tuning", []))),
        runs=tuple(_run(run) for run in _list(content.get("runs", []))),
        trained_on=_text(content.get("trained on", "")) or None,
        reduce=_text(content.get("critics reduced by", "")),
        goals=_goals(content.get("goals", 0)),
        about={name: part for name, part in content.items() if name not in _FIELDS},
    )


_OUTCOMES = "episodes by run"
_FIELDS = {"task", "trained on", "judged by", "references", "critics reduced by", "runs"}
_FIELDS |= {"training seeds", "table", "differences", "tuning", "episodes", "goals"}


def _row(row: dict[str, Any], by_return: bool) -> Row:
    """A row of what was tried for a weight, as it is in a file."""
    what, sums = ("return", "returns") if by_return else ("success", "successes")
    by_run = _list(row[f"{sums} by run"])
    several = OVER_SEEDS if len(by_run) > 1 else OVER_EPISODES
    score = None
    if "normalised score" in row:
        score = _estimate(row["normalised score"], row["normalised interval"], several)
    if not NAME.fullmatch(row["method"]):
        raise ValueError("`method`")
    return Row(
        row["method"],
        _choice(row),
        _estimate(row[what], row["interval"], several),
        tuple(map(_number if by_return else _integer, by_run)),
        _integer(row["n"]),
        by_return,
        score,
        _steps(row),
        _integer(row.get("errors", 0)),
        tuple(
            tuple(_return(x) if by_return else float(_success(x)) for x in _of_run(each, by_return))
            for each in _list(row.get(_OUTCOMES, []))
        ),
    )


def _of_run(found: Any, by_return: bool) -> Sequence[Any]:
    outcomes = _list(found) if by_return else _text(found)
    if not 0 < len(outcomes) <= _MOST_EPISODES:
        raise ValueError(f"`{_OUTCOMES}`")
    return outcomes


def _estimate(value: Any, interval: Any, over: str) -> Estimate:
    low, high = _list(interval)
    return Estimate(_number(value), _number(low), _number(high), over)


def _run(run: dict[str, Any]) -> TrainedRun:
    step = run.get("updates")
    sha256 = _text(run["checkpoint sha256"])
    seed = _integer(run["training seed"])
    step = None if step is None else _integer(step)
    critic = _text(run["critic of"]) if "critic of" in run else None
    return TrainedRun(_text(run["folder"]), seed, step, sha256, critic)


def _goals(found: Any) -> int:
    if not 0 <= _integer(found) <= _MOST_ROWS:
        raise ValueError("`goals`")
    return found


def _text(found: Any) -> str:
    if type(found) is not str:
        raise TypeError(f"{_short(found)} is not a text")
    return found


def _outcome(content: dict[str, Any]) -> Outcome:
    if content.get("judged by") != "return":
        return Success()
    given = content.get("references")
    return Return(None if given is None else References(*map(_number, _list(given))))


def _episodes(found: dict[str, Any], by_return: bool) -> list[Episode]:
    """The outcomes of a run."""
    ends = _NUMBERS.fullmatch(found["numbers"])
    if ends is None:
        raise ValueError("`numbers`")
    numbers, lengths = range(int(ends[1]), int(ends[2]) + 1), _list(found["length"])
    outcomes = _list(found["return"]) if by_return else list(found["success"])
    if not 0 < len(numbers) == len(lengths) == len(outcomes) <= _MOST_EPISODES:
        raise ValueError("`numbers`, `length`")
    errors = {int(number): str(error) for number, error in found["errors"].items()}
    return [
        Episode(
            number,
            False if by_return else _success(outcome),
            _integer(length),
            _return(outcome) if by_return else 0.0,
            errors.get(number, ""),
        )
        for number, length, outcome in zip(numbers, lengths, outcomes, strict=True)
    ]


def _success(found: Any) -> bool:
    if found not in ("0", "1"):
        raise ValueError("`success`")
    return found == "1"


def _return(found: Any) -> float:
    if not abs(_number(found)) < 1e30:
        raise ValueError("`return`")
    return _number(found)


def _choice(row: dict[str, Any]) -> Choice:
    weight, edge = row["weight"], row.get("edge")
    decay = _DECAY.fullmatch(weight) if isinstance(weight, str) else None
    found: Number = LinearDecay(_number(float(decay[1]))) if decay else _number(weight)
    if edge not in (None, "upper", "lower"):
        raise ValueError("`edge`")
    return Choice(found, edge, row.get("tied") is True)


def _steps(row: dict[str, Any]) -> int:
    return _integer(row.get("steps", 10))


def read_paths(path: str | Path) -> dict[str, list[list[list[float]]]]:
    """The paths through a maze by method, as `compare` records them.

    **Raises:** `ValueError` naming the file if it holds anything else.
    """
    content = read_json(path)
    try:
        if not 0 < len(content) <= _MOST_ROWS:
            raise ValueError("no method")
        return {
            _known(name): [[[_number(x), _number(y)] for x, y in _list(way)] for way in _list(ways)]
            for name, ways in content.items()
        }
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold the paths of a maze ({_short(error)}): delete it, or make it "
            "again with `qgf-eqx evaluate`."
        ) from None


def _known(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"`{_short(name)}` is not a method")
    return name


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


def paths_of(results: str | Path) -> Path:
    """Where the paths of a results file are: `paths.json` beside `results.json`, `e_paths.json`
    beside `e.json`."""
    return beside(results, "paths.json")


def beside(results: str | Path, name: str) -> Path:
    """The file that belongs to a results file: named after it, unless that is `results.json`."""
    results = Path(results)
    return results.with_name(name if results.stem == "results" else f"{results.stem}_{name}")


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
