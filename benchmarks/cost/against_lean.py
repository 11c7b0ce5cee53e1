"""How many times faster than the lean formulation, by method, width and batch; in two runs.

    python -m benchmarks.cost.against_lean       # half an hour on two cores; resumes

Ours is as the documentation has it, `jit_sampler` or a jitted `vmap` around networks of its own,
which below 4 MB are constants of the program; the lean formulation is one jitted function of its
parameters. The two alternate in one process, a fresh one for each run and width: where the memory
of a process lies changes a ratio by some per cent. Writes `benchmarks/results/cost_cpu_lean.json`
(of a GPU `cost_gpu_lean.json`) after every cell, and does only what is missing there.
"""

import json
import subprocess
import sys
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from qgf_eqx._provenance import machine, versions, write_json

from .. import RESULTS
from . import lean, plain
from .measure import alone, control_step, ratio, ticks
from .methods import METHODS, make_nets
from .report import markdown, ruled, shown

WIDTHS, BATCHES, RUNS = (128, 512, 1024), (1, 2, 4, 8, 16, 50, 256), (1, 2)
JOB = {"rounds": 11, "seconds": 4.0}


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.cost.against_lean", description=__doc__)
    parser.add_argument("--only", nargs=2, type=int, metavar=("RUN", "WIDTH"))
    only = parser.parse_args().only
    if only:
        return measure(*only)
    for run in RUNS:
        for width in WIDTHS:
            command = [sys.executable, "-m", __spec__.name, "--only", str(run), str(width)]
            subprocess.run(command, check=True)
    print(tables(read()))


def measure(run: int, width: int) -> None:
    found = read()
    done = {(c["run"], c["width"], c["method"], c["batch"]) for c in found["cells"]}
    cells = [(name, batch) for name in lean.SAMPLERS for batch in BATCHES]
    for name, batch in tqdm(cells, desc=f"run {run}, 4 x {width}", unit=" cells"):
        if (run, width, name, batch) in done:
            continue
        nets = make_nets(METHODS[name].passes, width, False)
        stacked = nets._replace(critic=nets.critic and plain.stack(nets.critic))
        act, theirs = partial(METHODS[name].act, unroll=False), lean.SAMPLERS[name]
        act = alone(act, METHODS[name]) if batch == 1 else act
        ours = control_step(act, nets, batch, constant=True)
        other = control_step(lambda n, o, k, f=theirs: f(*n[:2], o, k), stacked, batch)
        for program in (ours, other):
            ticks(program.step, batch, 3, 1)  # warms up
        cell = {"run": run, "width": width, "method": name, "batch": batch}
        found["cells"].append(cell | ratio(ours, other, batch, JOB, "lean"))
        write_json(_path(), found)


def read() -> dict[str, Any]:
    """What is there of this machine and these versions."""
    now = {"machine": machine(), "versions": versions()}
    path = _path()
    if not path.exists():
        return now | {"cells": []}
    found = json.loads(path.read_text())
    now["versions"]["commit"] = found["versions"]["commit"]
    if any(found[name] != value for name, value in now.items()):
        raise SystemExit(f"{path} is of another machine or other versions: move it away first.")
    return found


def _path() -> Path:
    # Asked late: a process that knows its device holds the device's memory.
    return RESULTS / f"cost_{jax.default_backend()}_lean.json"


def tables(found: dict[str, Any]) -> str:
    """A table for each width: the lean formulation's CPU time over ours, the mean of the runs."""
    parts = []
    for width in WIDTHS:
        lines = ruled([f"4 x {width}", *(f"batch {b}" for b in BATCHES)])
        for name in lean.SAMPLERS:
            means = (np.mean(speedups(found, width, name, batch)) for batch in BATCHES)
            lines.append([shown(name), *(f"{mean:.2f}" for mean in means)])
        parts.append(markdown(lines))
    return "\n\n".join(parts)


def speedups(found: dict[str, Any], width: int, method: str, batch: int) -> list[float]:
    """Of each run the lean formulation's CPU time over ours."""
    return [1 / cell["ours / lean, CPU"] for cell in _cells(found, width, method, batch)]


def growth(found: dict[str, Any], width: int, method: str, few: int, many: int) -> float:
    """By the clock, how many times more than its rows the time of the larger batch is."""

    def time(batch: int) -> float:
        cells = _cells(found, width, method, batch)
        return float(np.mean([c["lean time, clock (ms)"] * c["ours / lean, clock"] for c in cells]))

    return time(many) / time(few) * few / many


def _cells(found: dict[str, Any], width: int, method: str, batch: int) -> list[dict[str, Any]]:
    at = {"width": width, "method": method, "batch": batch}
    return [cell for cell in found["cells"] if at.items() <= cell.items()]


if __name__ == "__main__":
    main()
