"""What training several things at once saves: seeds in one program, and actors beside one critic.

```bash
python -m benchmarks.cost.teams            # on two cores about ten minutes
```

Measured is the time of an update in the compiled loop that `qgf-eqx train` runs, interleaved, and
once the time until the first update has been made. Writes `benchmarks/results/teams.json`.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.learn import Spec, TrainConfig, Units, learners, make_updates
from qgf_eqx.learn._updates import init, stacked

from .. import RESULTS
from .training import ACTION, OBS, fake_data

ACTORS = ("flow", "edp", "fql", "qam", "dac", "qsm", "cfgrl", "robust-q")
SPEC = Spec(OBS, (5, ACTION))


class Program:
    """Updates of some actors and seeds."""

    def __init__(self, actors: Sequence[str], seeds: int, width: int, batch: int):
        start = time.perf_counter()
        config = TrainConfig("none", batch=batch, **learners("iql", actors, width=width))
        self.updates = make_updates(config, SPEC, Units(None, None), range(seeds))
        self.state: Any = stacked([init(config, SPEC) for _ in range(seeds)])
        self.data = fake_data()
        self.run(1)
        self.start = time.perf_counter() - start

    def run(self, count: int) -> tuple[float, float]:
        """Seconds an update, by the clock and of the processors."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.state, _ = jax.block_until_ready(self.updates(self.data, self.state, count))
        return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def measured(programs: dict[str, Program], count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Of each program the median time of an update, by the clock and of the processors, in ms."""
    times: dict[str, list] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(program.run(count))
    found = {}
    for name, program in programs.items():
        wall, cpu = np.median(times[name], axis=0) * 1e3
        found[name] = {"ms": wall, "CPU ms": cpu, "s to the first update": program.start}
    return found


def seeds(width: int, batch: int, count: int, rounds: int, n: int = 8) -> dict[str, Any]:
    """`n` runs in one program, and one run."""
    programs = {f"{k} seeds": Program(["flow"], k, width, batch) for k in (1, n)}
    found = measured(programs, count, rounds)
    one, many = found["1 seeds"], found[f"{n} seeds"]
    ratios = {"an update": many["ms"] / (n * one["ms"])}
    for updates in (1000, 10_000, 40_000):  # with the start of each process's program
        together = many["s to the first update"] + updates * many["ms"] / 1e3
        apart = n * (one["s to the first update"] + updates * one["ms"] / 1e3)
        ratios[f"runs of {updates} updates"] = together / apart
    return {"sizes": f"4 x {width}, batch {batch}", "n": n, **found, "together / apart": ratios}


def actors(width: int, batch: int, count: int, rounds: int) -> dict[str, Any]:
    """All actors beside one critic, and each of them beside one of its own."""
    programs = {name: Program([name], 1, width, batch) for name in ACTORS}
    programs["all"] = Program(ACTORS, 1, width, batch)
    found = measured(programs, count, rounds)
    apart = {key: sum(found[name][key] for name in ACTORS) for key in ("ms", "CPU ms")}
    ratios = {key: found["all"][key] / apart[key] for key in apart}
    return {"sizes": f"4 x {width}, batch {batch}", **found, "together / apart": ratios}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128], help="of seeds' nets")
    parser.add_argument("--width", type=int, default=128, help="of the actors' nets")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--count", type=int, default=20, help="updates per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    sizes = given.batch, given.count, given.rounds
    results = {
        "seeds": [seeds(width, *sizes) for width in given.widths],
        "actors": actors(given.width, *sizes),
        "versions": versions(),
        "machine": machine(),
    }
    write_json(RESULTS / "teams.json", results)
    for row in [*results["seeds"], results["actors"]]:
        print(row["sizes"], row["together / apart"])
    print(f"The results are in {RESULTS / 'teams.json'}")


if __name__ == "__main__":
    main()
