"""A MuJoCo task through the policy server and a client, at its control rate.

    python -m benchmarks.studies.served RUN... --methods flow qgf --weight 0.07 --out served.json

Starts a server for each training run and method, on loopback. The environment is stepped in real
time, 20 steps a second as OGBench's arms are: a step waits until it is due, and one whose action
came after that is counted as late. Prints success with its interval, the time from request to
answer, and late steps; writes JSON and a film of the first episodes of the first run.
"""

import argparse
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from websockets.sync.client import connect

from qgf_eqx import film
from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.deploy._wire import pack, unpack
from qgf_eqx.deploy.serve import PolicyServer
from qgf_eqx.evaluate import Episode, method, open_policy, rollout, task_of
from qgf_eqx.evaluate._runs import PER_RUN, REPORT_FROM
from qgf_eqx.evaluate.statistics import paired_difference, success_rate
from qgf_eqx.learn import load_config


class RealTime(gymnasium.Wrapper):
    """Steps when they are due."""

    def __init__(self, env: gymnasium.Env, rate: float):
        super().__init__(env)
        self.period, self.due, self.steps, self.late = 1 / rate, 0.0, 0, 0

    def reset(self, **options: Any) -> Any:
        found = super().reset(**options)
        self.due = time.perf_counter() + self.period
        return found

    def step(self, action: Any) -> Any:
        left = self.due - time.perf_counter()
        self.steps, self.late = self.steps + 1, self.late + (left < 0)
        time.sleep(max(0.0, left))
        self.due = max(self.due, time.perf_counter()) + self.period
        return super().step(action)


class Client:
    """What `rollout` plays: a chunk from the server for one observation."""

    def __init__(self, connection: Any):
        self.connection, self.seconds = connection, []
        self.about = unpack(connection.recv())

    def __call__(self, obs: Any, numbers: Any, count: int) -> np.ndarray:
        begin = time.perf_counter()
        seed = 1000 * int(numbers[0]) + count
        self.connection.send(pack({"obs": np.asarray(obs)[0], "seed": seed}))
        found = unpack(self.connection.recv())
        self.seconds.append(time.perf_counter() - begin)
        return np.asarray(found["actions"])[None]


def play(
    run: Path, name: str, weight: float, numbers: range, rate: float, filmed: int
) -> tuple[list[Episode], RealTime, list[float], list]:
    """Episodes of one method of one run; and the panels of the first few, which are played once
    more, since drawing takes the time of several steps."""
    sampler = method(name, weight=weight)
    found, task = open_policy(run, sampler), task_of(load_config(run)[0].env)
    env, panels, key = RealTime(task.make_env(), rate), [], jax.random.key(0)
    with (
        PolicyServer(found.draw, found.obs, key, port=0, largest_batch=1) as server,
        connect(f"ws://127.0.0.1:{server.port}", compression=None) as connection,
        closing(env),
    ):
        client, options = Client(connection), {"seed": 0, "outcome": task.outcome}
        episodes = [rollout([env], client, [number], **options)[0] for number in numbers]
        seconds = list(client.seconds)
        for number in numbers[:filmed]:
            with closing(film._Filmed(film._rendering(task), 3)) as filming:
                (episode,) = rollout([filming], client, [number], **options)
                caption = f"{name}: {'success' if episode.success else 'no success'}"
                panels.append(film._captioned(filming.frames, caption, episode.success))
    return episodes, env, seconds, panels


def main() -> None:
    """Plays, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--methods", nargs="+", default=["flow", "qgf"])
    parser.add_argument("--weight", type=float, required=True, help="chosen on tuning episodes")
    parser.add_argument("--episodes", type=int, default=20, help="per run")
    parser.add_argument("--rate", type=float, default=20, help="steps a second")
    parser.add_argument("--film", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    won: dict[str, list] = {name: [] for name in options.methods}
    rows, films = [], []
    for i, run in enumerate(options.runs):
        first = REPORT_FROM + PER_RUN * i
        numbers = range(first, first + options.episodes)
        for name in options.methods:
            filmed = 4 if options.film and i == 0 else 0
            args = run, name, options.weight, numbers, options.rate, filmed
            episodes, env, seconds, panels = play(*args)
            films += [panels] if panels else []
            won[name].append([e.success for e in episodes])
            p50, p99 = (1000 * np.percentile(seconds, q) for q in (50, 99))
            row = {"run": run.name, "method": name, "steps": env.steps, "late": int(env.late)}
            row |= {"requests": len(seconds), "p50_ms": p50, "p99_ms": p99}
            row |= {"success": "".join(str(int(e.success)) for e in episodes)}
            rows.append(row)
            print(json.dumps(row))
    table = {name: success_rate(by_run)._asdict() for name, by_run in won.items()}
    ours, theirs = (won[name] for name in (options.methods[-1], options.methods[0]))
    content = {"weight": options.weight, "rate": options.rate, "runs": rows, "success": table}
    content |= {"difference": paired_difference(ours, theirs)._asdict()}
    write_json(options.out, content | {"versions": versions(), "machine": machine()})
    print(json.dumps({"success": table, "difference": content["difference"]}, indent=1))
    if films:
        film._save(films, options.film, 8)


if __name__ == "__main__":
    main()
