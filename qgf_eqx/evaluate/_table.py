"""Results for people: a table, and the sentences that belong to it."""

from collections.abc import Iterator

from ..weights import LinearDecay
from ._rows import Comparison, Row
from ._tuning import Choice, Number
from .names import size
from .statistics import OVER_EPISODES, Estimate


def format_table(results: Comparison) -> str:
    """The table of a result, for people: which method is ahead, what n is, what the intervals are
    over, and which weights were tried, and whether the best lies at an edge of them."""
    rows = results.table
    several, most = len(rows) > 1, max(row.estimate.value for row in rows)
    what = "return" if rows[0].by_return else "success"
    ends = "95 % interval"
    score = f"{'score':>8}{ends:>18}" if rows[0].score else ""
    wide = max(16, *(len(row.method) for row in rows))
    lines = [f"{'method':<{wide}}{'weight':>12}{what:>10}{ends:>18}{'n':>11}{score}"]
    for row in rows:
        weight = _weight(row.weight) + ("*" if weight_note(row.choice) else "")
        n = f"{row.n // len(row.by_run)} x {len(row.by_run)}"
        found = "{:>10}{:>18}".format(*_shown(row.estimate, row.by_return))
        score = f"{row.score.value:>8.1f}{_interval(row.score):>18}" if row.score else ""
        ahead = "  <" if several and row.estimate.value == most else ""
        lines.append(f"{row.method:<{wide}}{weight:>12}{found}{n:>11}{score}{ahead}")
    for d in results.differences:
        name, (value, interval) = f"{d.ours} - {d.theirs}", _shown(d.estimate, d.by_return, "+")
        lines.append(f"{name:<32}{value.replace('%', 'points')}  {interval}")
    lines.append(f"n = episodes x training seeds. {interval_note(rows[0])}")
    lines += ["< marks the highest."] if several else []
    lines += _tried(results)
    return "\n".join([*lines, *(note for row in rows for note in _notes(row, results))])


def _tried(results: Comparison) -> Iterator[str]:
    """The weights that the tuning episodes chose from, methods with the same ones together."""
    by_weights: dict[str, list[str]] = {}
    weights: dict[str, list[Number]] = {}
    for row in results.tuning:
        weights.setdefault(row.method, []).append(row.weight)
    for method, own in weights.items():
        text = ", ".join(map(_weight, sorted(own, key=size)))
        by_weights.setdefault(text, []).append(method)
    for text, methods in by_weights.items():
        yield f"Weights tried for {', '.join(methods)}: {text}."


def format_goals(results: Comparison) -> str:
    """Of a task with goals the share of successes for each, over all training seeds."""
    goals = results.goals
    lines = [f"{'goal':<28}" + "".join(f"{k:>8}" for k in range(1, goals + 1))]
    for method, runs in results.episodes.items():
        rates = []
        for k in range(1, goals + 1):
            found = [e.success for run in runs for e in run if 1 + e.number % goals == k]
            rates.append(f"{100 * sum(found) / len(found):>6.0f} %" if found else f"{'-':>8}")
        lines.append(f"{method:<28}" + "".join(rates))
    return "\n".join(lines)


def _weight(weight: Number) -> str:
    if isinstance(weight, LinearDecay):
        return str(weight)
    return f"{weight:g}" if weight else "-"


def _shown(found: Estimate, by_return: bool, sign: str = "") -> tuple[str, str]:
    """A mean and its interval, as they are printed: returns to four digits, rates in percent."""
    if by_return:
        return f"{found.value:{sign}.4g}", f"[{found.low:{sign}.4g}, {found.high:{sign}.4g}]"
    percent = found.scaled(100.0)
    return f"{percent.value:{sign}.1f} %", _interval(percent, sign)


def _interval(found: Estimate, sign: str = "") -> str:
    return f"[{found.low:{sign}.1f}, {found.high:{sign}.1f}]"


def _notes(row: Row, results: Comparison) -> Iterator[str]:
    if note := weight_note(row.choice):
        yield f"* {row.method}: {note}"
    if row.errors:
        broke = f"{row.errors} of {row.n} episodes broke, and"
        worst = "have the worst return of all" if row.by_return else "count as failures"
        first = next(e for es in results.episodes[row.method] for e in es if e.error)
        yield f"{row.method}: {broke} {worst}. Episode {first.number}: {first.error}."


def format_outcome(row: Row) -> str:
    """Success or return of a row, with its interval."""
    return "{:>10}  {}".format(*_shown(row.estimate, row.by_return))


def interval_note(row: Row) -> str:
    """The sentence that says what a row's interval is over."""
    if row.estimate.over == OVER_EPISODES:
        return (
            "Intervals are over the episodes of one training run: they do not cover other training "
            "seeds."
        )
    return (
        f"Intervals are over {len(row.by_run)} training seeds. They are Student's t, and never "
        "narrower than over all episodes."
    )


def weight_note(choice: Choice) -> str:
    """A remark on how a weight was chosen; empty if it is well inside its grid."""
    if choice.tied:
        return (
            "all weights that were tried did equally well on the tuning episodes, so they do not "
            "favour any weight; try more episodes or other weights."
        )
    beyond = {"upper": ("largest", "larger"), "lower": ("smallest", "smaller")}
    if choice.edge in beyond:
        last, further = beyond[choice.edge]
        return f"the weight is the {last} that was tried; a {further} one may be better."
    return ""
