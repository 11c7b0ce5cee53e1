"""A 50 Hz control loop of chunks for ten minutes, without and with stalls of the sampler.

    python -m benchmarks.studies.control_loop --minutes 10
    python -m benchmarks.studies.control_loop --minutes 10 --stall 0.2

Prints the loop's statistics, how many commands came after the next tick was due (and of how many
the tick itself began late, because the system woke the process late), and the growth of the
process's memory after the first tenth; writes JSON with `--out`.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

import qgf_eqx
from qgf_eqx.deploy import ControlLoop
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

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


def main() -> None:
    """Runs the loop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=50, help="ticks a second")
    parser.add_argument("--stall", type=float, default=0, help="seconds, every 100 ticks")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    period, rng = 1 / options.rate, np.random.default_rng(0)
    ticks, late, worst, before = round(60 * options.minutes * options.rate), 0, 0.0, 0.0
    woken, slowest = 0, 0.0  # late commands whose tick began late already; and the longest call
    with make_loop(options.stall, period) as loop:
        start = time.perf_counter()
        for tick in range(ticks):
            due = start + tick * period
            time.sleep(max(0.0, due - time.perf_counter()))
            obs, began = rng.normal(size=OBS), time.perf_counter()
            action = loop(obs)
            behind = time.perf_counter() - due
            slowest = max(slowest, time.perf_counter() - began)
            woken += behind > period and began - due > 0.5 * period
            assert np.isfinite(action).all() and (np.abs(action) <= 1).all()
            late += behind > period
            worst = max(worst, behind)
            if tick == ticks // 10:
                before = resident()
        found = loop.statistics
    print(found)
    growth = resident() - before
    print(f"{late} of {ticks} commands late, the worst {1000 * worst:.1f} ms after its tick")
    print(f"{woken} of them because the tick began late; the longest call {1000 * slowest:.1f} ms")
    print(f"memory: {growth:+.1f} MiB after the first tenth")
    if options.out:
        parts = {"commands late": late, "of them woken late": woken}
        parts |= {"slowest_call_ms": 1000 * slowest}
        parts |= {"worst_ms": 1000 * worst, "growth_mib": growth}
        about = {"minutes": options.minutes, "rate": options.rate, "stall": options.stall}
        nets = f"three of {DEPTH} x {WIDTH}, observation {OBS}, chunk {CHUNK}"
        content = {**about, "networks": nets, **parts, **found._asdict()}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
