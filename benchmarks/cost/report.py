"""What was measured as Markdown tables, and as a figure."""

from pathlib import Path
from typing import Any

from qgf_eqx.evaluate.names import label

from .methods import METHODS

OTHERS = ("plain", "lean")
"""The formulations that the library is run against."""

UNNAMED = ("robust", "cfgrl")  # these take networks of their own, and are not in the table


def shown(name: str) -> str:
    """A method's name in the documentation."""
    return name if name in UNNAMED else label(name)


def table(results: dict[str, Any]) -> str:
    """In Markdown, a line for every method, width, variant and batch."""
    columns = {
        "latency p50 (us)": "p50 (us)",
        "latency p95 (us)": "p95 (us)",
        "jitter p95 - p50 (us)": "jitter (us)",
        "throughput (actions/s)": "actions/s",
        "updates per second": "updates/s",
        "CPU time per action (us)": "CPU (us)",
        "multiple of the floor": "x floor",
        "compile (s)": "compile (s)",
        "peak RSS (MB)": "RSS (MB)",
        "peak device memory (MB)": "device (MB)",
    }
    batches = [(r, b, m) for r in results["rows"] for b, m in r.get("batches", {}).items()]
    columns = {k: v for k, v in columns.items() if any(k in m for _, _, m in batches)}
    first = ["method", "width", "variant", "batch", "GFLOP", "weights (MB)"]
    last = [f"ours / {other}, {by}" for other in OTHERS for by in ("clock", "CPU")]
    header = [*first, *columns.values(), *last]
    lines = [header, ["---"] * len(header)]
    for row, batch, found in batches:
        cells = [row["method"], str(row["width"]), row["variant"], str(batch)]
        cells += [number(row.get(k)) for k in GIVEN]
        measured = [number(found.get(k)) for k in columns]
        cells += [found["skipped"], *measured[1:]] if "skipped" in found else measured
        cells += [share(found, other, by) for other in OTHERS for by in ("clock", "CPU")]
        lines.append(cells)
    return "\n".join([markdown(lines), "", starts(results)])


def markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


GIVEN = ("GFLOP per action", "weight reads per action (MB)")


def starts(results: dict[str, Any]) -> str:
    """Seconds from the start of a process to its first action."""
    parts = ("import (s)", "build (s)", "first action (s)", "total (s)")
    header = ["method", "width", *parts, "total, cached (s)"]
    lines = [header, ["---"] * len(header)]
    for row in results["rows"]:
        if row.get("cold start, cached"):
            times = [row["cold start"][part] for part in parts]
            times += [row["cold start, cached"]["total (s)"]]
            lines.append([row["method"], str(row["width"]), *map(number, times)])
    return markdown(lines)


def tables(results: dict[str, Any]) -> str:
    """Short tables for the documentation: latency, throughput, and ratios to plain and to lean."""
    rows = {(r["method"], r["width"]): r for r in results["rows"] if r["variant"] == "default"}
    widths = sorted({width for name, width in rows if name != "training"})
    names = list(dict.fromkeys(name for name, _ in rows if name != "training"))
    names.sort(key=list(METHODS).index)
    batches = sorted({int(b) for r in rows.values() for b in r.get("batches", {})} - {1})
    heads = [f"4 x {width}" for width in widths]

    def found(name, width, batch):
        return rows.get((name, width), {}).get("batches", {}).get(str(batch), {})

    latency = [["method", *(f"GFLOP, {h}" for h in heads), *(f"ms, {h}: p50, p95" for h in heads)]]
    throughput = [["actions per second", *(f"{b}, {h}" for h in heads for b in batches)]]
    header = ["method", "nets", *(f"batch {batch}" for batch in [1, *batches])]
    ratios = {other: [header] for other in OTHERS}
    for name in names:
        flop = [rows.get((name, w), {}).get("GFLOP per action") for w in widths]
        times = [
            [found(name, w, 1).get(f"latency {p} (us)") for p in ("p50", "p95")] for w in widths
        ]
        both = [", ".join(f"{1e-3 * x:.2f}" for x in pair if x) for pair in times]
        latency.append([shown(name), *("" if x is None else f"{x:.3f}" for x in flop), *both])
        key = "throughput (actions/s)"
        rates = [found(name, w, b).get(key) for w in widths for b in batches]
        throughput.append([shown(name), *("" if x is None else f"{x:.0f}" for x in rates)])
        for width, head in zip(widths, heads, strict=True):
            for other, lines in ratios.items():
                cells = [speedups(found(name, width, b), other) for b in [1, *batches]]
                if any(cells):
                    lines.append([shown(name), head, *cells])
    parts = (latency, throughput, *ratios.values())
    ruled = ([t[0], ["---"] * len(t[0]), *t[1:]] for t in parts)
    return "\n\n".join(map(markdown, ruled))


def speedups(found: dict[str, Any], other: str) -> str:
    """How many times faster than another formulation: by the clock, and by CPU time."""
    of = found.get(other, {})
    if f"ours / {other}, clock" not in of:
        return ""
    return ", ".join(f"{1 / of[f'ours / {other}, {by}']:.2f}" for by in ("clock", "CPU"))


def number(x: float | None) -> str:
    return "" if x is None else f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def share(found: dict[str, Any], other: str, clock: str) -> str:
    of, name = found.get(other, {}), f"ours / {other}, {clock}"
    if name not in of:
        return ""
    low, high = of[f"{name}, quartiles"]
    return f"{of[name]:.2f} [{low:.2f}, {high:.2f}]"


def figure(results: dict[str, Any], path: Path) -> None:
    """GFLOP per action, and latency at batch 1 with its 95th percentile; of the widest networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [r for r in results["rows"] if r["variant"] == "default"]
    rows = [r for r in rows if "latency p50 (us)" in r.get("batches", {}).get("1", {})]
    width = max(r["width"] for r in rows)
    rows = [r for r in rows if r["width"] == width]
    rows.sort(key=lambda r: list(METHODS).index(r["method"]), reverse=True)
    names = [shown(r["method"]) for r in rows]
    cpu = f"{results['machine']['cores']} cores, {results['machine']['processor']}"
    title = cpu if results["platform"] == "cpu" else results["device"]
    pyplot.rcParams["svg.hashsalt"] = "cost"
    size = (9, 1 + 0.28 * len(rows))
    drawn, (left, right) = pyplot.subplots(1, 2, figsize=size, layout="constrained", sharey=True)
    left.barh(names, [r["GFLOP per action"] for r in rows])
    left.set(xlabel="GFLOP per action", title=f"networks 4 x {width}, T = 10")
    p50, p95 = (
        [1e-3 * r["batches"]["1"][f"latency {p} (us)"] for r in rows] for p in ("p50", "p95")
    )
    spread = [[0] * len(rows), [b - a for a, b in zip(p50, p95, strict=True)]]
    right.barh(names, p50, xerr=spread, ecolor="grey")
    right.set(xlabel="latency at batch 1 (ms), p50 and p95", title=title)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, metadata={"Date": None})
