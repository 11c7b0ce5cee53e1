"""A 50 Hz control loop of chunks for ten minutes, without and with stalls of the sampler.

    python -m benchmarks.studies.control_loop --minutes 10
    python -m benchmarks.studies.control_loop --minutes 10 --stall 0.2

Prints the loop's statistics, how many commands came after the next tick was due (and how many of
those while the machine itself stood still: another process of each core, which does nothing but
sleep for 1 ms at a time, did not run for 10 ms), and the growth of the process's memory after the
first tenth; writes JSON with `--out`. For a robot's priority: `chrt -f 50 python -m ...`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

import qgf_eqx
from qgf_eqx.deploy import ControlLoop
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

from .. import RESULTS

OBS, CHUNK, WIDTH, DEPTH = 46, (5, 5), 512, 4
EVERY = 100  # ticks from stall to stall


def make_loop(stall: float, period: float) -> ControlLoop:
    """QGF of three networks of 4 x 512; a draw in 100 ticks takes `stall` longer."""
    keys = jax.random.split(jax.random.key(0), 3)
    policy = VelocityMLP(OBS, CHUNK, width=WIDTH, depth=DEPTH, key=keys[0])
    make = lambda key: CriticMLP(OBS, CHUNK, width=WIDTH, depth=DEPTH, key=key)  # noqa: E731
    critic = qgf_eqx.bounded(Ensemble(make, 2, key=keys[1]))
    obs, deadline = np.zeros(OBS, np.float32), 0.75 * period
    options = {"ahead": True, "execution_horizon": 3}
    loop = ControlLoop(policy, critic, obs, keys[2], deadline=deadline, **options)
    if stall:
        loop._draws = loop._draws._replace(following=_stalling(loop, stall))
    return loop


def _stalling(loop: ControlLoop, stall: float):
    draw, last = loop._draws.following, [0]

    def stalled(*inputs):
        ticks = loop._counts.ticks
        if ticks - last[0] >= EVERY:
            last[0] = ticks
            time.sleep(stall)
        return draw(*inputs)

    return stalled


def resident() -> float:
    """MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


_WATCH = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
try:  # above all else, so that it waits for nothing but the machine
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(90))
except PermissionError:
    pass
last = time.perf_counter()
while True:
    time.sleep(0.001)
    now = time.perf_counter()
    if now - last > 0.01:
        print(last, now, flush=True)
    last = now
"""


@contextmanager
def watched() -> Iterator[list[tuple[float, float]]]:
    """A list that at the end holds the pauses of this machine's cores, as their ends in time."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    lines = [sys.executable, "-c", _WATCH]
    pauses, pipes = [], {"stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*lines, str(core)], **pipes) for core in cores]
    try:
        yield pauses
    finally:
        for process in started:
            process.terminate()
            rows = map(str.split, process.communicate()[0].splitlines())
            pauses += [(float(begin), float(end)) for begin, end in rows]


RUNS = {
    "idle, no stalls": "control_loop",
    "idle, stalls": "control_loop_stalls_quiet",
    "idle, stalls, again": "control_loop_stalls_quiet_again",
    "beside other programs, stalls": "control_loop_stalls",
    "beside more programs, stalls": "control_loop_stalls_again",
}
"""What the machine did, and the file of the run in `results/`."""


def table() -> str:
    """The table of docs/robot.md."""
    lines = [
        "| the machine was | late | of them in pauses | pauses (longest) | deadlines missed | "
        "held ticks | plain chunks | call, p99 / longest | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, file in RUNS.items():
        of = json.loads((RESULTS / f"{file}.json").read_text())
        cells = [name, of["commands late"], of["of them in pauses of the machine"]]
        cells += [f"{of['pauses']} ({of['longest_pause_ms']:.0f} ms)", of["missed"], of["held"]]
        cells += [of["late"], f"{of['tick_p99']:.1f} / {of['slowest_call_ms']:.1f} ms"]
        cells += [f"+{of['growth_mib']:.1f} MiB"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the loop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=50, help="ticks a second")
    parser.add_argument("--stall", type=float, default=0, help="seconds, every 100 ticks")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    period, rng = 1 / options.rate, np.random.default_rng(0)
    ticks, worst, before = round(60 * options.minutes * options.rate), 0.0, 0.0
    commands, slowest = [], 0.0  # when late ones were due and came; and the longest call
    with watched() as pauses, make_loop(options.stall, period) as loop:
        start = time.perf_counter()
        for tick in range(ticks):
            due = start + tick * period
            time.sleep(max(0.0, due - time.perf_counter()))
            obs, began = rng.normal(size=OBS), time.perf_counter()
            action = loop(obs)
            behind = time.perf_counter() - due
            slowest = max(slowest, time.perf_counter() - began)
            assert np.isfinite(action).all() and (np.abs(action) <= 1).all()
            if behind > period:
                commands.append((due, due + behind))
            worst = max(worst, behind)
            if tick == ticks // 10:
                before = resident()
        found = loop.statistics
    print(found)
    growth = resident() - before
    late = len(commands)
    paused = sum(any(a < came and due < b for a, b in pauses) for due, came in commands)
    longest = max((b - a for a, b in pauses), default=0.0)
    print(f"{late} of {ticks} commands late, the worst {1000 * worst:.1f} ms after its tick")
    print(f"{paused} of them in one of {len(pauses)} pauses, at most of {1000 * longest:.1f} ms")
    print(f"the longest call {1000 * slowest:.1f} ms")
    print(f"memory: {growth:+.1f} MiB after the first tenth")
    if options.out:
        parts = {"commands late": late, "of them in pauses of the machine": paused}
        parts |= {"pauses": len(pauses), "longest_pause_ms": 1000 * longest}
        parts |= {"slowest_call_ms": 1000 * slowest}
        parts |= {"worst_ms": 1000 * worst, "growth_mib": growth}
        about = {"minutes": options.minutes, "rate": options.rate, "stall": options.stall}
        nets = f"three of {DEPTH} x {WIDTH}, observation {OBS}, chunk {CHUNK}"
        content = {**about, "networks": nets, **parts, **found._asdict()}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
