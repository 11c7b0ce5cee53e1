"""What each method costs: GFLOP per action, and per update beside a flow and its critic.

    python -m benchmarks.studies.methods

Counts the operations of the methods of `results/methods_cube.json`, with networks of those runs'
sizes (observation 28, chunk 5 x 5, 4 x 128, batch 128). Writes `results/methods_cost.json`, and
prints the table of docs/worth.md. Nothing is trained.
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qgf_eqx._provenance import versions, write_json
from qgf_eqx.data import Chunk, Dataset
from qgf_eqx.evaluate.names import label
from qgf_eqx.evaluate.results import Comparison, read
from qgf_eqx.evaluate.statistics import Estimate
from qgf_eqx.flops import count
from qgf_eqx.learn import TrainConfig, learners, load_run, train
from qgf_eqx.learn._learner import Spec
from qgf_eqx.learn.loop import init_team, update_team
from qgf_eqx.suite._costs import per_action

from .. import RESULTS

OBS, CHUNK, BATCH = 28, (5, 5), 128
SIZE = {"width": 128, "depth": 4}
SPEC = Spec(OBS, CHUNK, -1.0, 1.0)
ACTORS = ("edp-30", "fql-30", "qam-1", "dac-3", "qsm-0.3", "cfgrl", "robust-q", "distill-0.1")


def config(actors: list[str]) -> TrainConfig:
    """Of IQL and these actors."""
    return TrainConfig("e", horizon=CHUNK[0], batch=BATCH, **learners("iql", actors, **SIZE))


def per_update(actors: list[str]) -> int:
    """Operations of an update of a critic and these actors."""
    team = config(actors).team
    state = init_team(team, SPEC, jax.random.key(0))
    rows = {"obs": jnp.zeros((BATCH, OBS)), "action": jnp.zeros((BATCH, *CHUNK))}
    scalar = jnp.ones(BATCH)
    chunks = Chunk(rows["obs"], rows["action"], scalar, scalar, rows["obs"], scalar, scalar)
    arrays, static = eqx.partition(state, eqx.is_array)

    def update(arrays: Any, chunks: Chunk, key: jax.Array) -> Any:
        found, metrics = update_team(team, SPEC, eqx.combine(arrays, static), chunks, key)
        return eqx.filter(found, eqx.is_array), metrics

    return count(update, arrays, chunks, jax.random.key(0))


def trained(folder: Path) -> Any:
    """A run with all actors, of these sizes and one update: its operations do not depend on what
    it has learned."""
    rng, rows = np.random.default_rng(0), 200
    ends = (np.arange(rows) % 50 == 49).astype(np.float32)
    obs = rng.normal(size=(rows, OBS)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, CHUNK[1])).astype(np.float32)
    rewards = -np.ones(rows, np.float32)
    rewards[::7] = 0
    dataset = Dataset(obs, actions, rewards, (rewards == 0).astype(np.float32), ends)
    full = replace(config(["flow", *ACTORS]), updates=1)
    train(full, dataset, folder, progress=False)
    return load_run(folder)


def table() -> list[str]:
    """The table of docs/worth.md: success, what was tried, and what it costs."""
    found = read(RESULTS / "methods_cube.json")
    cost = json.loads((RESULTS / "methods_cost.json").read_text())["methods"]
    lines = [
        "| method | success, % | chosen weight (tried) | MFLOP an action | cost of an update |"
    ]
    lines += ["|---|---|---|---|---|"]
    for row, line in zip(found.table, successes(found), strict=True):
        action, update = cost[row.method].values()
        lines.append(f"{line} {action:.2f} | {update:.2f} |")
    return lines


def maze_table() -> list[str]:
    """The second table of docs/worth.md."""
    found = read(RESULTS / "methods_pointmaze.json")
    return ["| method | success, % | chosen weight (tried) |", "|---|---|---|", *successes(found)]


def successes(found: Comparison) -> list[str]:
    """Of each method the success, and the weights that were tried."""
    lines = []
    for row in found.table:
        tried = [t.weight for t in found.tuning if t.method == row.method]
        star = "*" if row.choice.edge else ""
        weight = f"{row.weight:g}{star}, of {', '.join(f'{w:g}' for w in tried)}" if tried else ""
        name = label(row.method).replace("\n", " ")
        lines.append(f"| {name} | {interval(row.estimate)} | {weight} |")
    return lines


def critics_table() -> list[str]:
    """The table of docs/worth.md on two critics."""
    iql, td = (read(RESULTS / f"methods_cube{name}.json") for name in ("", "_td"))
    lines = ["| | IQL critic | TD critic |", "|---|---|---|"]
    for name in ("flow", "qgf", "qam"):
        shown = " | ".join(interval(found.row(name).estimate) for found in (iql, td))
        lines.append(f"| {label(name)} | {shown} |")
    return lines


def goals_table(name: str) -> list[str]:
    """A table of docs/goals.md: success over all goals, and for each."""
    found = read(RESULTS / f"goals_{name}.json")
    count = found.goals
    lines = [f"| method | weight | all goals, % | {' | '.join(map(str, range(1, count + 1)))} |"]
    lines += ["|---" * (count + 3) + "|"]
    for row in found.table:
        shares = []
        for goal in range(count):
            played = [
                e.success
                for run in found.episodes[row.method]
                for e in run
                if e.number % count == goal
            ]
            shares.append(f"{100 * sum(played) / len(played):.0f}")
        weight = f"{row.weight:g}{'*' if row.choice.edge else ''}" if row.weight else ""
        cells = [label(row.method), weight, interval(row.estimate), *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def interval(found: Estimate) -> str:
    """In percent, with its ends."""
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def main() -> None:
    """Counts, writes and prints."""
    with TemporaryDirectory() as folder:
        run = trained(Path(folder))
    names = [row.method for row in read(RESULTS / "methods_cube.json").table]
    base = per_update(["flow"])
    of_actor = {a.rpartition("-")[0] if a[-1].isdigit() else a: a for a in ACTORS}
    rows = {
        name: {
            "MFLOP per action": per_action(run, name) / 1e6,
            "update beside flow and critic": (
                per_update(["flow", of_actor[name]]) / base if name in of_actor else 1.0
            ),
        }
        for name in names
    }
    sizes = f"observation {OBS}, chunk {CHUNK[0]} x {CHUNK[1]}, 4 x 128, batch {BATCH}"
    content = {"sizes": sizes, "GFLOP per update of flow and critic": base / 1e9}
    write_json(RESULTS / "methods_cost.json", {**content, "methods": rows, "versions": versions()})
    print("\n".join(table()))


if __name__ == "__main__":
    main()
