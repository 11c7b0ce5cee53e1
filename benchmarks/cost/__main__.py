"""What an action costs: FLOPs, weight reads, latency, throughput, memory, start-up, by method.

    python -m benchmarks.cost                       # all, on the device that JAX finds
    python -m benchmarks.cost --quick               # small networks, few repeats: does it work?
    python -m benchmarks.cost --figure              # and docs/images/cost.svg
    python -m benchmarks.cost --only-show --figure  # from the results, nothing is measured

Every method and width is measured in a fresh process, batches ascending: a control loop that hands
an observation from the host and waits for the action. Networks of the paper's sizes, random
weights. The plain formulation is run alternately with the library, A B A B, in the same process.
The floor of a method is the time of its FLOPs at the speed of bare matrix products of its networks'
shapes, which at batch 1 is the time to read the weights. What would take too long or too much
memory is not run, and the row says why.

On a GPU all of it is done with TF32, with full float32 and with bfloat16 weights, and batch 1 with
and without command buffers, scanned and unrolled. All of it needs the extra `evaluate`, the method
`training` also `train` and `ogbench`, the figure `plot`.

Writes `benchmarks/results/cost_<device>.json` after every process. What is there already of the
same machine and versions is kept, but for what is measured again, so that a long measurement may be
made in parts; every row names its commit. Results of another machine or other versions are never
overwritten.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from qgf_eqx._provenance import machine, versions, write_json

from .. import IMAGES, RESULTS
from .methods import METHODS, OBS, SHAPE
from .report import figure, table, tables

RECORDED = ("widths", "batches", "ticks", "repeats", "rounds", "seconds")
CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


class Variant(NamedTuple):
    """How XLA runs a method."""

    precision: str | None = None  # of float32 products; None is JAX's default, TF32 on a GPU
    half: bool = False  # bfloat16 weights
    unroll: bool = False
    buffers: bool | None = None  # XLA's command buffers; None is XLA's default

    def environment(self) -> dict[str, str]:
        """XLA reads its flags once, when a process starts."""
        if self.buffers is None:
            return {}
        kinds = "+WHILE,+CONDITIONAL" if self.buffers else ""
        flags = f"--xla_gpu_enable_command_buffer={kinds} --xla_gpu_graph_min_graph_size=1"
        return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}


VARIANTS = {
    "default": Variant(),
    "highest": Variant(precision="highest"),
    "bf16": Variant(half=True),
    "no buffers": Variant(buffers=False),
    "buffers": Variant(buffers=True),
    "unrolled, no buffers": Variant(buffers=False, unroll=True),
    "unrolled, buffers": Variant(buffers=True, unroll=True),
}


def plan(options: Namespace, variants: list[str]) -> Iterator[tuple[str, int, str]]:
    """Method, width and variant of every process."""
    for name in options.methods:
        for width in options.widths:
            for variant in variants:
                scanned = not VARIANTS[variant].unroll
                if variant == "default" or (
                    name != "training" and (scanned or METHODS[name].unrolls)
                ):
                    yield name, width, variant


def job(options: Namespace, name: str, width: int, variant: str) -> dict[str, Any]:
    """What `measure` is told. Command buffers are a matter of batch 1."""
    batches = options.batches if VARIANTS[variant].buffers is None else [1]
    return {
        "method": name,
        "width": width,
        **VARIANTS[variant]._asdict(),
        "batches": sorted(batches),
        "ticks": options.ticks,
        "repeats": options.repeats,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "only start": False,
    }


def run(what: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """One process; what it printed last."""
    job = json.dumps(what | {"spawned": time.time()})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost.measure", job],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        return {"failed": f"the process ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def cached_start(what: dict[str, Any], environment: dict[str, str]) -> dict[str, float] | None:
    """The cold start of a process that finds its programs in JAX's compilation cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = environment | CACHE | {"JAX_COMPILATION_CACHE_DIR": folder}
        run(what | {"only start": True}, environment)  # fills the cache
        return run(what | {"only start": True}, environment).get("cold start")


def find_device() -> list[str]:
    """Asked in another process, so that this one holds no memory of it."""
    code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='\\n')"
    asked = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return asked.stdout.splitlines()[-2:]


def measure(options: Namespace, platform: str, device: str, path: Path) -> None:
    variants = options.variants or (["default"] if platform == "cpu" else list(VARIANTS))
    if options.device_variants:
        variants = list(VARIANTS)
    if variants == ["default"]:
        print("Precision, command buffers and unrolling are a matter of a GPU: skipped.")
    results = {
        "device": device,
        "platform": platform,
        "machine": machine(),
        "versions": versions(),
        "sizes": f"obs {OBS}, chunk {SHAPE}, 4 layers, 2 critics, T = 10",
        "options": {name: getattr(options, name) for name in RECORDED},
        "rows": earlier_rows(path),
    }
    for name, width, variant in tqdm(list(plan(options, variants)), unit=" processes"):
        what, environment = job(options, name, width, variant), VARIANTS[variant].environment()
        row: dict[str, Any] = {"method": name, "width": width, "variant": variant}
        row |= run(what, environment)
        if "cold start" in row and variant == "default":
            row["cold start, cached"] = cached_start(what, environment)
        for batch, found in row.get("batches", {}).items():
            if "skipped" in found:
                tqdm.write(f"{name}, width {width}, batch {batch}: {found['skipped']}", sys.stderr)
        row["commit"] = results["versions"]["commit"]
        others = [r for r in results["rows"] if identity(r) != identity(row)]
        (before,) = [r for r in results["rows"] if identity(r) == identity(row)] or [{}]
        if before.get("commit") == row["commit"] and "batches" in row:
            row["batches"] = before.get("batches", {}) | {
                str(b): m for b, m in row["batches"].items()
            }
        results["rows"] = [*others, row]
        write_json(path, results)


def identity(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["method"], row["width"], row["variant"]


def earlier_rows(path: Path) -> list[dict[str, Any]]:
    """Of the same machine and versions, whatever the commit: all others would be no comparison."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    for name, now in ("machine", machine()), ("versions", versions()):
        changed = {k for k in now if found[name].get(k) != now[k]} - {"commit"}
        if changed:
            raise SystemExit(
                f"{path} was measured with another {name} ({', '.join(sorted(changed))}), and is "
                "not overwritten: move it away, or name another file by --out."
            )
    return found["rows"]


def parse() -> Namespace:
    parser = ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    names = [*METHODS, "training"]
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--widths", nargs="+", type=int, default=[512, 1024])
    batches = "default: 1, 50 and 256, and on a GPU 4096"
    parser.add_argument("--batches", nargs="+", type=int, help=batches)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="NAME")
    parser.add_argument("--device-variants", action="store_true", help="all of them, on a CPU too")
    parser.add_argument("--ticks", type=int, default=2000, help="at batch 1")
    parser.add_argument("--repeats", type=int, default=20, help="at other batches")
    parser.add_argument("--rounds", type=int, default=9, help="of the library and plain")
    parser.add_argument("--seconds", type=float, default=60, help="at most, for each of these")
    parser.add_argument("--quick", action="store_true", help="small and few, whatever the above")
    parser.add_argument("--out", type=Path, help="of the results")
    parser.add_argument("--figure", nargs="?", type=Path, const=IMAGES / "cost.svg", metavar="PATH")
    parser.add_argument("--only-show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.quick:
        options.widths, options.batches, options.seconds = [64], [1, 8], 5
        options.ticks, options.repeats, options.rounds = 50, 5, 3
    return options


def main() -> None:
    options = parse()
    platform, device = find_device()
    options.batches = options.batches or [1, 50, 256] + [4096] * (platform != "cpu")
    name = f"cost_{device.lower().replace(' ', '_')}{'_quick' if options.quick else ''}.json"
    path = options.out or RESULTS / name
    if not options.only_show:
        measure(options, platform, device, path)
    results = json.loads(path.read_text())
    print(table(results), tables(results), sep="\n\n")
    if options.figure:
        figure(results, options.figure)
    if any("failed" in row for row in results["rows"]):
        raise SystemExit("Some processes failed; the rows say which.")


if __name__ == "__main__":
    main()
