"""What was measured as Markdown tables, and as a figure."""

from pathlib import Path
from typing import Any

from qgf_eqx.evaluate.names import label

from .methods import METHODS

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
    last = [f"ours / plain, {by}" for by in ("clock", "CPU")]
    header = [*first, *columns.values(), *last]
    lines = ruled(header)
    for row, batch, found in batches:
        cells = [row["method"], str(row["width"]), row["variant"], str(batch)]
        cells += [number(row.get(k)) for k in GIVEN]
        measured = [number(found.get(k)) for k in columns]
        cells += [found["skipped"], *measured[1:]] if "skipped" in found else measured
        cells += [share(found.get("plain", {}), f"ours / plain, {by}") for by in ("clock", "CPU")]
        lines.append(cells)
    return "\n".join([markdown(lines), "", starts(results)])


def markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


GIVEN = ("GFLOP per action", "weight reads per action (MB)")


def starts(results: dict[str, Any]) -> str:
    """Seconds from the start of a process to its first action."""
    parts = ("import (s)", "build (s)", "first action (s)", "total (s)")
    header = ["method", "width", *parts, "total, cached (s)"]
    lines = ruled(header)
    for row in results["rows"]:
        if row.get("cold start, cached"):
            times = [row["cold start"][part] for part in parts]
            times += [row["cold start, cached"]["total (s)"]]
            lines.append([row["method"], str(row["width"]), *map(number, times)])
    return markdown(lines)


def tables(results: dict[str, Any]) -> str:
    """For the documentation, two tables a width: what an action takes, and ratios to plain."""
    found = (r for r in results["rows"] if r["variant"] == "default" and r["method"] in METHODS)
    rows = {(r["method"], r["width"]): r for r in found}
    names = [name for name in METHODS if any(method == name for method, _ in rows)]
    widths = sorted({width for _, width in rows})
    batches = sorted({int(b) for r in rows.values() for b in r.get("batches", {})} - {1})
    parts = [_costs(rows, names, w, batches) for w in widths]
    parts += [_ratios(rows, names, w, [1, *batches]) for w in widths]
    return "\n\n".join(map(markdown, parts))


def _costs(rows: dict, names: list[str], width: int, batches: list[int]) -> list[list[str]]:
    head = [f"4 x {width}", "GFLOP", "batch 1, p50 (ms)", "batch 1, p95 (ms)"]
    lines = ruled([*head, *(f"batch {b}, actions/s" for b in batches)])
    for name in names:
        row = rows.get((name, width), {})
        found = row.get("batches", {})
        one = found.get("1", {})
        times = [one.get(f"latency {p} (us)") for p in ("p50", "p95")]
        rates = [found.get(str(b), {}).get("throughput (actions/s)") for b in batches]
        cells = [_to(3, row.get("GFLOP per action"))]
        cells += [_to(2, x and 1e-3 * x) for x in times]
        lines.append([shown(name), *cells, *(_to(0, x) for x in rates)])
    return lines


def _to(digits: int, x: float | None) -> str:
    return "" if x is None else f"{x:.{digits}f}"


def _ratios(rows: dict, names: list[str], width: int, batches: list[int]) -> list[list[str]]:
    lines = ruled([f"4 x {width}", *(f"batch {batch}" for batch in batches)])
    for name in names:
        found = rows.get((name, width), {}).get("batches", {})
        cells = [_speedups(found.get(str(b), {}).get("plain", {})) for b in batches]
        lines += [[shown(name), *cells]] if any(cells) else []
    return lines


def ruled(header: list[str]) -> list[list[str]]:
    return [header, ["---"] * len(header)]


def _speedups(plain: dict[str, Any]) -> str:
    """How many times faster than the plain formulation: by the clock, and by CPU time."""
    shares = [plain.get(f"ours / plain, {by}") for by in ("clock", "CPU")]
    return ", ".join(f"{1 / share:.2f}" for share in shares if share)


def number(x: float | None) -> str:
    return "" if x is None else f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def share(plain: dict[str, Any], name: str) -> str:
    if name not in plain:
        return ""
    low, high = plain[f"{name}, quartiles"]
    return f"{plain[name]:.2f} [{low:.2f}, {high:.2f}]"


FAMILIES = {
    "the flow": ("#666666", ("flow", "cfgrl")),
    "a gradient in each step": ("#d95f02", ("qgf", "ood", "qgf-jacobian", "robust")),
    "steps of the flow ahead": ("#7570b3", ("look-ahead-2", "look-ahead-4", "qgf-chain", "bptt")),
    "gradients after the flow": ("#e6ab02", ("grad-step",)),
    "best-of-N": ("#66a61e", ("best-of-4", "best-of-16", "best-of-32")),
    "QGF with best-of-N": ("#1b9e77", ("qgf-best-of-4", "qgf-best-of-16")),
}
"""Of the figure: a colour, and the methods that have it."""


def figure(results: dict[str, Any], path: Path) -> None:
    """GFLOP per action, and latency at batch 1 with its 95th percentile; of the widest networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [r for r in results["rows"] if r["variant"] == "default"]
    rows = [r for r in rows if "latency p50 (us)" in r.get("batches", {}).get("1", {})]
    width = max(r["width"] for r in rows)
    found = {r["method"]: r for r in rows if r["width"] == width}
    cpu = f"{results['machine']['cores']} cores, {results['machine']['processor']}"
    title = cpu if results["platform"] == "cpu" else results["device"]
    pyplot.rcParams["svg.hashsalt"] = "cost"
    size = (9, 1.4 + 0.28 * len(found))
    drawn, (left, right) = pyplot.subplots(1, 2, figsize=size, layout="constrained", sharey=True)
    for family, (colour, names) in FAMILIES.items():
        for name in [name for name in names if name in found]:
            one = found[name]["batches"]["1"]
            p50, p95 = (1e-3 * one[f"latency {p} (us)"] for p in ("p50", "p95"))
            left.barh(shown(name), found[name]["GFLOP per action"], color=colour, label=family)
            right.barh(shown(name), p50, xerr=[[0], [p95 - p50]], color=colour, ecolor="black")
    left.invert_yaxis()
    left.set(xlabel="GFLOP per action", title=f"networks 4 x {width}, T = 10")
    right.set(xlabel="latency at batch 1 (ms), p50 and p95", title=title)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    drawn.legend(once.values(), once, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, metadata={"Date": None})
