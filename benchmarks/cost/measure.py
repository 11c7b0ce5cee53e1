"""What one method costs at one width, measured in this process and printed as JSON.

`__main__.py` starts a fresh process for each, and says what in one argument, as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qgf_eqx._jit_sampler import CONSTANT, for_one
from qgf_eqx.flops import count

from .methods import METHODS, OBS, SHAPE, STEPS, Method, Nets, bytes_read, make_nets

IMPORTED = time.time()

Job = dict[str, Any]
"""What is to be measured; see `job` in `__main__.py`."""
Found = dict[str, Any]
"""What was measured, by name and unit."""


class Program(NamedTuple):
    """A compiled control step `(obs, key) -> (action, key)`."""

    step: Callable
    facts: dict[str, float]
    bytes: int  # that XLA plans for temporaries, arguments and results


def control_step(act: Callable, nets: Nets, batch: int, constant: bool = False) -> Program:
    """Compiles a step of the control loop.

    The nets are flattened once, and the key is split inside: both cost more than the dispatch.
    `constant`: small nets are constants of the program, as `jit_sampler` has them.
    """
    arrays, static = eqx.partition(nets, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def step(leaves, obs, key):
        nets = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        key, drawn = jax.random.split(key)
        if batch == 1:
            return act(nets, obs, drawn), key
        keys = jax.random.split(drawn, batch)
        return jax.vmap(lambda o, k: act(nets, o, k))(obs, keys), key

    run, given = step, (leaves,)
    if constant and sum(leaf.nbytes for leaf in leaves) <= CONSTANT:
        run, given = partial(step, leaves), ()
    started = time.perf_counter()
    lowered = jax.jit(run).lower(*given, observations(batch), jax.random.key(0))
    traced = time.perf_counter()
    compiled = lowered.compile()
    facts = {"trace (s)": traced - started, "compile (s)": time.perf_counter() - traced}
    plan = compiled.memory_analysis()
    parts = ("temp_size_in_bytes", "argument_size_in_bytes", "output_size_in_bytes")
    planned = sum(getattr(plan, part) for part in parts)
    return Program(
        partial(compiled, *given), facts | {"planned memory (MB)": planned / 1e6}, planned
    )


def alone(act: Callable, method: Method) -> Callable:
    """For one action at a time, as `jit_sampler` does."""

    def alone(nets, obs, key):
        if nets.critic is None:
            return act(nets, obs, key)
        critic = for_one(nets.critic, {"best_of": method.best_of})
        return act(nets._replace(critic=critic), obs, key)

    return alone


def observations(batch: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(OBS,) if batch == 1 else (batch, OBS)).astype(np.float32)


def ticks(step: Callable, batch: int, most: int, seconds: float) -> tuple[np.ndarray, float]:
    """Clock and CPU seconds of every control tick; at most so many, at most so long."""
    obs, key = observations(batch), jax.random.key(1)
    clock, cpu, started = [], time.process_time(), time.perf_counter()
    while len(clock) < most and (not clock or time.perf_counter() - started < seconds):
        before = time.perf_counter()
        action, key = step(obs, key)
        np.asarray(action)
        clock.append(time.perf_counter() - before)
    return np.array(clock), (time.process_time() - cpu) / len(clock)


def bare_products(nets: Nets, rows: int) -> tuple[Callable, list, Array]:
    """Only the matrix products of the nets, on `rows` rows, as often as the flow has steps: what
    the device can do at these shapes."""
    kernels = []
    for net in jax.tree.leaves(nets, is_leaf=lambda x: hasattr(x, "mlp")):
        layers = [layer.kernel for layer in (*net.mlp.layers, net.mlp.head)]
        kernels.append(layers)
    widest = max(len(layers[0]) for layers in kernels)

    def run(kernels, x):
        def step(x, _):
            for layers in kernels:
                h = x[:, : len(layers[0])]
                for kernel in layers:
                    h = h @ kernel
                x = x + 1e-3 * jnp.mean(h, axis=1, keepdims=True)
            return x, None

        return jax.lax.scan(step, x, length=STEPS)[0]

    kernels = [tuple(layers) for layers in kernels]
    return run, kernels, jnp.ones((rows, widest), kernels[0][0].dtype)


def bare_speed(nets: Nets, rows: int, seconds: float) -> dict[str, float]:
    """FLOP and bytes per second of the bare products."""
    run, kernels, x = bare_products(nets, rows)
    compiled = jax.jit(run).lower(kernels, x).compile()
    times, started = [], time.perf_counter()
    while len(times) < 3 or (len(times) < 100 and time.perf_counter() - started < seconds):
        before = time.perf_counter()
        jax.block_until_ready(compiled(kernels, x))
        times.append(time.perf_counter() - before)
    median = float(np.median(times))
    read = STEPS * sum(kernel.nbytes for layers in kernels for kernel in layers)
    return {"FLOP/s": count(run, kernels, x) / median, "bytes/s": read / median}


def refusal(program: Program, estimate: float, seconds: float) -> str | None:
    """Why a program is not run: too much memory or, at the floor already, too long."""
    free = free_memory()
    if program.bytes > free / 2:
        return f"needs {program.bytes / 1e9:.1f} GB, more than half of the {free / 1e9:.1f} GB free"
    if 3 * estimate > seconds:
        return f"three calls take more than {3 * estimate:.1f} s, the limit is {seconds:g} s"
    return None


def free_memory() -> int:
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> dict[str, float]:
    """Of the process so far: the device's own, or the resident set (on Linux)."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return {"peak device memory (MB)": stats["peak_bytes_in_use"] / 1e6}
    status = Path("/proc/self/status")  # `getrusage` would count the parent's before the exec
    if not status.exists():
        return {}
    kilobytes = status.read_text().partition("VmHWM:")[2].split()[0]
    return {"peak RSS (MB)": int(kilobytes) * 1024 / 1e6}


def latency(clock: np.ndarray, cpu: float) -> dict[str, float]:
    p50, p95, p99 = (1e6 * np.percentile(clock, q) for q in (50, 95, 99))
    return {
        "latency p50 (us)": p50,
        "latency p95 (us)": p95,
        "latency p99 (us)": p99,
        "jitter p95 - p50 (us)": p95 - p50,
        "CPU time per action (us)": 1e6 * cpu,
        "ticks": len(clock),
    }


def throughput(clock: np.ndarray, cpu: float, batch: int) -> dict[str, float]:
    median = float(np.median(clock))
    return {
        "time per batch (ms)": 1e3 * median,
        "throughput (actions/s)": batch / median,
        "CPU time per action (us)": 1e6 * cpu / batch,
        "ticks": len(clock),
    }


def ratio(ours: Program, other: Program, batch: int, job: Job, name: str) -> Found:
    """The two alternate; a round is up to 20 ticks of each. At least 3 rounds, however slow."""
    pairs, started = [], time.perf_counter()
    while len(pairs) < job["rounds"]:
        if len(pairs) >= 3 and time.perf_counter() - started > job["seconds"]:
            break
        pairs.append([])
        for program in (ours, other):
            clock, cpu = ticks(program.step, batch, 20, job["seconds"] / job["rounds"] / 2)
            pairs[-1].append((np.median(clock), cpu))
    return compare(np.array(pairs), name)


def compare(times: np.ndarray, other: str = "plain") -> Found:
    """The shares ours / other, medians over rounds with quartiles; `times[round, which, clock]`."""
    found: Found = {"rounds": len(times)}
    for k, name in enumerate(("clock", "CPU")):
        low, middle, high = np.percentile(times[:, 0, k] / times[:, 1, k], (25, 50, 75))
        found[f"ours / {other}, {name}"] = middle
        found[f"ours / {other}, {name}, quartiles"] = [low, high]
        found[f"{other} time, {name} (ms)"] = 1e3 * np.median(times[:, 1, k])
    return found


def measure(job: Job) -> Found:
    """All about one method at one width, but for its training."""
    method = METHODS[job["method"]]
    jax.config.update("jax_default_matmul_precision", job["precision"])
    nets = make_nets(method.passes, job["width"], job["half"])
    jax.block_until_ready(eqx.filter(nets, eqx.is_array))
    built = time.time()
    act = partial(method.act, unroll=job["unroll"])
    first = control_step(alone(act, method), nets, 1, constant=True)
    np.asarray(first.step(observations(1), jax.random.key(0))[0])
    acted = time.time()
    row: Found = {
        "cold start": {
            "import (s)": IMPORTED - job["spawned"],
            "build (s)": built - IMPORTED,
            "first action (s)": acted - built,
            "total (s)": acted - job["spawned"],
        }
    }
    if job["only start"]:
        return row
    flop = count(act, nets, observations(1), jax.random.key(0))
    row["GFLOP per action"] = flop / 1e9
    row["weight reads per action (MB)"] = bytes_read(nets, method) / 1e6
    row["batches"] = measure_batches(job, method, act, nets, first, flop)
    return row


def measure_batches(
    job: Job, method: Method, act: Callable, nets: Nets, first: Program, flop: int
) -> dict[int, Found]:
    """The plain formulation comes last: the peak of memory is the process's, and only grows."""
    found: dict[int, Found] = {}
    ran: dict[int, tuple[Program, float]] = {}
    for batch in job["batches"]:
        program = first if batch == 1 else control_step(act, nets, batch)
        speed = bare_speed(nets, method.rows * batch, job["seconds"] / 10)
        estimate = batch * flop / speed["FLOP/s"]
        found[batch] = program.facts | {"bare products": speed}
        reason = refusal(program, estimate, job["seconds"])
        if reason:
            found[batch]["skipped"] = reason
            continue
        ran[batch] = program, estimate
        ticks(program.step, batch, 1, 0)  # warms up
        most = job["ticks"] if batch == 1 else job["repeats"]
        clock, cpu = ticks(program.step, batch, most, job["seconds"])
        found[batch] |= latency(clock, cpu) if batch == 1 else throughput(clock, cpu, batch)
        found[batch]["multiple of the floor"] = float(np.median(clock)) / estimate
        found[batch] |= peak_memory()
    from . import plain  # only here: it is no part of a cold start

    stacked = nets if nets.critic is None else nets._replace(critic=plain.stack(nets.critic))
    sampler = plain.SAMPLERS.get(job["method"])
    if sampler is None or job["half"]:  # as written, it would promote bfloat16 to float32
        return found
    for batch, (program, estimate) in ran.items():
        written = lambda nets, obs, key: sampler(nets.policy, nets.critic, obs, key)  # noqa: E731
        theirs = control_step(written, stacked, batch)
        reason = refusal(theirs, estimate, job["seconds"])
        times = {"skipped": reason} if reason else ratio(program, theirs, batch, job, "plain")
        found[batch]["plain"] = theirs.facts | times
    return found


def measure_training(job: Job) -> Found:
    """Updates per second of `qgf_eqx.learn` and of the plain loop, at every batch above 1."""
    try:
        from qgf_eqx.data import Dataset
        from qgf_eqx.learn import Spec, TrainConfig, Units, learners, make_updates
        from qgf_eqx.learn._updates import init, stacked
    except ImportError as error:
        return {"skipped": str(error)}
    from . import plain

    rng, rows = np.random.default_rng(0), 100_000
    data = Dataset(
        rng.normal(size=(rows, OBS)).astype(np.float32),
        rng.uniform(-1, 1, (rows, SHAPE[1])).astype(np.float32),
        -np.ones(rows, np.float32),
        np.zeros(rows, np.float32),
        (np.arange(rows) % 1001 == 1000).astype(np.float32),
    )
    on_device = jax.tree.map(jnp.asarray, data)
    found = {}
    for batch in [b for b in job["batches"] if b > 1]:
        config = TrainConfig("none", batch=batch, **learners(width=job["width"]))
        spec = Spec(OBS, SHAPE)
        updates = make_updates(config, spec, Units(None, None))
        fresh = eqx.filter_jit(partial(init, config, spec))
        nets = plain.stacked(fresh())
        state: dict[str, Any] = {"ours": stacked([fresh()])}
        state["plain"] = nets, plain.init_optimizer(nets, config)

        def ours(n: int, state=state, updates=updates) -> None:
            state["ours"], _ = jax.block_until_ready(updates(on_device, state["ours"], n))

        def other(n: int, state=state, config=config) -> None:
            nets, memory = state["plain"]
            state["plain"] = plain.train(nets, memory, data, rng, n, config)
            jax.block_until_ready(eqx.filter(state["plain"], eqx.is_array))

        found[batch] = training_ratio(ours, other, job)
    return {"batches": found}


def training_ratio(ours: Callable, other: Callable, job: Job) -> Found:
    ours(10)  # compiles
    other(10)
    start = time.perf_counter()
    other(10)
    each = (time.perf_counter() - start) / 10
    # As many updates a call as `train` makes, or what the time allows.
    n = int(np.clip(job["seconds"] / (2 * job["rounds"] * each), 10, 500))
    pairs = []
    for _ in range(job["rounds"]):
        pairs.append([])
        for run in (ours, other):
            clock, cpu = time.perf_counter(), time.process_time()
            run(n)
            pairs[-1].append((time.perf_counter() - clock, time.process_time() - cpu))
    times = np.array(pairs) / n
    speed = {"updates per call": n, "updates per second": 1 / np.median(times[:, 0, 0])}
    return speed | {"plain": compare(times)}


def main() -> None:
    job = json.loads(sys.argv[1])
    row = measure_training(job) if job["method"] == "training" else measure(job)
    device = jax.devices()[0]
    print(json.dumps(row | {"device": device.device_kind, "platform": device.platform}))


if __name__ == "__main__":
    main()
