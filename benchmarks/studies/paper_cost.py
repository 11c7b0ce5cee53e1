"""What the paper's first table takes: its operations, counted, and its time here, measured.

    python -m benchmarks.studies.paper_cost

One task of each of the plan's environments is trained for some updates and played for two
episodes (`qgf_eqx.suite.measure`), on data that are random numbers; the others are of the same
sizes. Writes `benchmarks/results/paper_cost.json`, about ten minutes on two cores, and prints a
table. Run it on an idle machine: other work makes its hours longer.
"""

import os
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.data import Chunk
from qgf_eqx.evaluate import task_of
from qgf_eqx.flops import count
from qgf_eqx.learn import Spec, TrainConfig, init_team, update_team
from qgf_eqx.suite import Plan, Study, measure, read_plan

from .. import RESULTS

PATH = RESULTS / "paper_cost.json"
H100 = 494.7e12
"""Products in TF32, dense, in operations a second: NVIDIA's data sheet of the SXM card."""


def main() -> None:
    os.environ.setdefault("NPROC", str(os.cpu_count()))  # all cores for one training
    print("\n".join(table(found := run())))
    write_json(PATH, found)


def run() -> dict[str, Any]:
    """For each environment of the plan, how many tasks and seeds it has and what they take."""
    plan, found = read_plan("paper"), {}
    tasks = Counter(map(_environment, plan.studies))
    for study in plan.studies:
        name = _environment(study)
        if name in found:
            continue
        (took,) = measure(Plan(name, (study,)))
        found[name] = {
            "tasks": tasks[name],
            "seeds": len(study.seeds),
            "updates": study.config.updates,
            "FLOP of an update": operations(study.config),
            "seconds of an update": took.update,
            "hours of playing at most, a task": took.playing,
            "bytes of a seed": took.checkpoint,
        }
        print(f"{name}: {took.update:.3g} s an update", flush=True)
    return {"plan": "paper", "environments": found, "versions": versions(), "machine": machine()}


def operations(config: TrainConfig) -> dict[str, int]:
    """The products of one update, by learner: the critic's, and what each actor adds."""
    spec = spec_of(config)
    team, key = config.team, jax.random.key(0)
    row: Any = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    rows = {"obs": (spec.obs_size,), "action": spec.action_shape, "next_obs": (spec.obs_size,)}
    chunks = Chunk(*(row((config.batch, *rows.get(name, ()))) for name in Chunk._fields))
    state = eqx.filter_eval_shape(partial(init_team, team, spec), key)

    def cost(actors: dict) -> int:
        update = partial(update_team, replace(team, actors=actors), spec)
        return count(lambda *given: update(*given), state, chunks, key)

    critic = cost({})
    return {"critic": critic} | {n: cost({n: actor}) - critic for n, actor in team.actors.items()}


def spec_of(config: TrainConfig) -> Spec:
    """The sizes of a task's networks."""
    with closing(task_of(config.env).make_env()) as env:
        (obs,), (action,) = env.observation_space.shape, env.action_space.shape
    return Spec(obs, (config.horizon, action))


def table(found: dict[str, Any]) -> list[str]:
    """What all tasks and seeds of a plan take."""
    lines = [
        "| | training, PFLOP | at an H100's peak, h | training here, h "
        "| playing here, h | disk, GB |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    total = [0.0] * 5
    for name, one in found["environments"].items():
        runs = one["tasks"] * one["seeds"]
        flop = runs * one["updates"] * sum(one["FLOP of an update"].values())
        row = [
            flop / 1e15,
            flop / H100 / 3600,
            runs * one["updates"] * one["seconds of an update"] / 3600,
            one["tasks"] * one["hours of playing at most, a task"],
            runs * one["bytes of a seed"] / 1e9,
        ]
        total = [a + b for a, b in zip(total, row, strict=True)]
        lines.append(f"| {name}, {one['tasks']} tasks | {' | '.join(f'{x:,.0f}' for x in row)} |")
    return [*lines, f"| all | {' | '.join(f'{x:,.0f}' for x in total)} |"]


def _environment(study: Study) -> str:
    return study.config.env.partition("-singletask")[0]


if __name__ == "__main__":
    main()
