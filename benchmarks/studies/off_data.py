"""When does OOD fail, when does the Jacobian hurt, and how far does one get without tuning?

    python -m benchmarks.studies.off_data FOLDER [TASK ...]

Collects, trains five seeds, measures and plays one task after another, and writes
`FOLDER/TASK.json` for each; what is done is not done again. Meta-World's tasks need an environment
with `qgf_eqx[metaworld]`, the others one with `qgf_eqx[ogbench]`.

Written before the first run
----------------------------
OOD asks the critic at the noisy point, QGF at the predicted action. What could make OOD fail?

- **H1, width.** The actions that fit an observation are narrow beside the unit noise, so the noisy
  point is far from them, in units of what the critic has seen. Predicts: the loss of OOD grows as
  the conditional width of the data's actions falls. The number needs the data alone.
- **H2, direction.** At noisy points the critic's gradient points elsewhere. Predicts: the loss
  grows as the cosine of the two gradients falls, and OOD's direction with QGF's length (`turned`)
  fails as OOD does.
- **H3, length.** At noisy points the gradient is longer, so the same weight is stronger. Predicts:
  QGF's direction with OOD's length (`stretched`) fails as OOD does, and OOD's curve is QGF's,
  shifted along the weight: its best is as good.
- **H4, bounds.** Where the data lie at their bounds, a push outwards is harmless and one inwards is
  not. Predicts: the loss grows with the share of the data's actions at their bounds.
- **H5, chunks.** The more numbers an action has, the less a noisy point looks like one. Predicts:
  less loss with chunks of one action.
- **H6, layer norm.** It bounds what the critic's hidden layers can be off the data. Predicts: more
  loss without it.
- **H7, steps.** More Euler steps ask the critic at more noisy points, but each counts for less.
  Predicts: no effect.
- **H8, early steps.** All of the loss comes from the first half of the flow. Predicts: OOD from
  t = 0.5 on (`late`) loses nothing, and OOD until then with QGF after (`early`) loses as much.
- **H9, chains.** What matters is that the critic is asked at some action that fits the observation,
  not at that of this chain. Predicts: the gradient at the leap from zero noise (`at-mean`) does as
  well as QGF.

For the Jacobian: **J1**, it vanishes early, so that the same push needs a larger weight: its curve
is QGF's, shifted. **J2**, it stretches some directions where a flow has several modes: its best is
worse where the flow's Jacobian at t = 0.5 has a wide range of singular values.

The loss of a method is the mean, over the weights from 0.1 to 10 times the starting weight, of
QGF's success less its own, on the same episodes; the loss at its best compares the best weights.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_eqx._norms import norm
from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.data import collect
from qgf_eqx.engines import Local
from qgf_eqx.evaluate import Sampler, evaluate
from qgf_eqx.evaluate._auto import start_of
from qgf_eqx.evaluate._offline import observations, open_offline
from qgf_eqx.evaluate._sources import as_source
from qgf_eqx.evaluate._tuning import _best
from qgf_eqx.evaluate.names import method, size
from qgf_eqx.evaluate.task import dataset_of, task_of
from qgf_eqx.learn import TrainConfig, train_seeds
from qgf_eqx.learn.actors import BC
from qgf_eqx.learn.critics import IQL

from ._off_data_arms import OWN, PlainIQL

SEEDS = (0, 1, 2, 3, 4)
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the starting weight."""
COUNTED = FACTORS[1:-1]
"""Over which a method's loss is the mean."""
CURVES = range(12)
REPORT = range(1_000_000, 1_000_030)
OBSERVATIONS, NOISES, TIMES = 64, 4, (0, 3, 6, 9)
NEIGHBOURS = 16
MEASURED = ("qgf", "ood", "ood-clipped", "qgf-jacobian")


class Study(NamedTuple):
    """A task, or a variant of one."""

    env: str
    transitions: int = 100_000
    horizon: int = 5
    steps: int = 10
    layer_norm: bool = True
    arms: tuple[str, ...] = ()
    """What is played beside QGF, OOD and QGF-Jacobian."""
    rules: bool = False
    gamma: float = 0.98
    ema_rate: float = 0.005
    depth: int = 4
    updates: int = 10_000


ARMS = ("ood-clipped", "late", "early", "turned", "stretched", "at-mean")
meta = lambda name, **more: Study(f"metaworld:{name}-v3", **more)  # noqa: E731
MAIN: dict[str, Any] = {"arms": ARMS, "rules": True}
STUDIES = {
    "drawer-open": meta("drawer-open", **MAIN),
    "push": meta("push", **MAIN),
    "cube-single": Study(
        "cube-single-play-singletask-task2-v0",
        gamma=0.99,
        ema_rate=0.001,
        updates=20_000,
        **MAIN,
    ),
    "pointmaze": Study(
        "pointmaze-medium-navigate-singletask-task1-v0",
        500_000,
        gamma=0.99,
        depth=3,
        updates=20_000,
        **MAIN,
    ),
    "window-open": meta("window-open", **MAIN),
    "pick-place": meta("pick-place", **MAIN),
    "door-open": meta("door-open", **MAIN),
    "soccer": meta("soccer", **MAIN),
    "button-press": meta("button-press-topdown", **MAIN),
    "drawer-open, H = 1": meta("drawer-open", horizon=1),
    "push, H = 1": meta("push", horizon=1),
    "drawer-open, no layer norm": meta("drawer-open", layer_norm=False),
    "push, no layer norm": meta("push", layer_norm=False),
    "drawer-open, T = 30": meta("drawer-open", steps=30),
    "push, T = 30": meta("push", steps=30),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(STUDIES)}; by default all")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    for name in arguments.tasks or STUDIES:
        path = arguments.folder / f"{name}.json"
        if not path.exists():
            write_json(path, run(name, STUDIES[name], arguments.folder, arguments.data_dir))
            print(f"{name}: {path}", flush=True)


def run(name: str, study: Study, folder: Path, data_dir: Path) -> dict[str, Any]:
    """All that is measured of one task."""
    task = task_of(study.env)
    collect(_dataset_of(study.env), data_dir, transitions=study.transitions)
    data = dataset_of(task, data_dir)
    trained = f"{name.partition(',')[0]}-{study.horizon}-{'norm' if study.layer_norm else 'plain'}"
    runs = [path.parent for path in train_seeds(config(study), SEEDS, data, folder / trained)]
    starts = [start_of(as_source(run), task, jnp.min) for run in runs]
    start = float(np.exp(np.mean(np.log(starts))))
    held_out = observations(dataset_of(task, data_dir, split="val"), OBSERVATIONS)
    found = {
        "study": study._asdict(),
        "starting weight": starts,
        "data": data_numbers(data, study.horizon),
        "networks": [
            network_numbers(run, judge, held_out, start)
            for run, judge in zip(runs, runs[1:] + runs[:1], strict=True)
        ],
    }
    with Local(None).kept() as workers:
        arms = ("qgf", "ood", "qgf-jacobian", *study.arms)
        samplers = {
            (arm, factor): _arm(arm, _round(factor * start), study.steps)
            for arm in arms
            for factor in FACTORS
        }
        played = _play(runs, samplers, CURVES, workers)
        found["curves"] = {arm: {str(f): played[arm, f] for f in FACTORS} for arm in arms}
        if study.rules:
            samplers = _rules(found["curves"], start)
            played = _play(runs, samplers, REPORT, workers)
            found["rules"] = {
                rule: {"weight": samplers[rule].weight, "success": each}
                for rule, each in played.items()
            }
    return found | {"versions": versions(), "machine": machine()}


def config(study: Study) -> TrainConfig:
    """Of the training."""
    size = {"width": 128, "depth": study.depth, "learning_rate": 1e-3}
    critic = (IQL if study.layer_norm else PlainIQL)(**size, ema_rate=study.ema_rate)
    return TrainConfig(
        study.env,
        updates=study.updates,
        batch=256,
        horizon=study.horizon,
        gamma=study.gamma,
        normalise_obs="standardise" if ":" in study.env else "none",
        critic=critic,
        actors={"flow": BC(**size)},
    )


def _dataset_of(env: str) -> str:
    if ":" in env:
        return env
    from qgf_eqx.data import dataset_name  # needs OGBench

    return dataset_name(env)


def _round(weight: float) -> float:
    return float(f"{weight:.2g}")


def _cosine(x: Any, y: Any) -> Any:
    return jnp.vdot(x, y) / (norm(x) * norm(y))


def _arm(name: str, weight: float, steps: int) -> Sampler:
    if name in OWN:
        return Sampler(OWN[name], weight, steps=steps, name=name)
    return method(name, weight=weight, steps=steps)


def _rules(curves: dict[str, dict[str, list[str]]], start: float) -> dict[str, Sampler]:
    """The methods as tuned on the curves' episodes, and what asks for no episodes."""
    tuned = {}
    for arm in ("qgf", "ood", "qgf-jacobian"):
        scores: dict[Any, Any] = {
            float(f): sum(s.count("1") for s in each) for f, each in curves[arm].items()
        }
        tuned[f"{arm}, tuned"] = method(arm, weight=_round(start * size(_best(scores))))
    untuned = {f"qgf, {f:g}": method("qgf", weight=_round(start * f)) for f in COUNTED}
    names = ("flow", "norm-matched", "spread-matched", "best-of-4", "best-of-16")
    free = {name: method(name) for name in names}
    for name in ("gated", "keep-best", "qgf-best-of-4"):
        free[f"{name}, 1"] = method(name, weight=_round(start))
    return tuned | untuned | free


def _play(runs: list[Path], samplers: dict, numbers: range, workers: Any) -> dict[Any, list[str]]:
    """Of every sampler, a string of outcomes for each run."""
    found = {key: [] for key in samplers}
    for run in runs:
        label = f"{run.parent.name} {run.name}"
        played = evaluate(run, list(samplers.values()), numbers, engine=workers, label=label)
        for key, episodes in zip(samplers, played, strict=True):
            found[key].append("".join("01"[episode.success] for episode in episodes))
    return found


def data_numbers(data: Any, horizon: int, *, queries: int = 512, rows: int = 20_000) -> dict:
    """What the actions of the data are like, before anything is trained. `width` is the standard
    deviation of the actions of neighbouring observations of other episodes: 1 is the unit noise."""
    count = min(len(data.rewards), rows)
    taken = np.sort(np.random.default_rng(0).choice(len(data.rewards), count, replace=False))
    obs, actions = (np.asarray(x[taken], np.float64) for x in (data.obs, data.actions))
    episode = np.cumsum(np.asarray(data.episode_end))[taken]
    obs = (obs - obs.mean(0)) / (obs.std(0) + 1e-6)
    widths = []
    for i in np.linspace(0, count - 1, queries).astype(int):
        far = np.sum((obs - obs[i]) ** 2, axis=1)
        near = np.argsort(np.where(episode == episode[i], np.inf, far))[:NEIGHBOURS]
        widths.append(actions[near].std(axis=0, ddof=1))
    rms = lambda x: float(np.sqrt(np.mean(np.square(x))))  # noqa: E731
    return {
        "width": rms(widths),
        "spread": rms(actions.std(0)),
        "offset": rms(actions.mean(0)),
        "size": rms(actions),
        "at the bounds": float(np.mean(np.abs(actions) > 0.99)),
        "numbers in a chunk": horizon * actions.shape[1],
    }


def network_numbers(run: Path, judge: Path, obs: Any, start: float) -> dict[str, Any]:
    """The gradients along the plain flow, medians over observations and noises; and how much the
    critic of another seed gains by each method, in standard deviations of its values of plain
    actions."""
    (policy, critic, *_), _ = open_offline(run, jnp.min)
    other = open_offline(judge, jnp.min)[0].critic
    key = jax.random.key(0)

    def along(o: Any, noise: Any) -> dict[str, Any]:
        def step(a: Any, k: Any) -> tuple[Any, Any]:
            t = k / 10
            g = {n: method(n).guidance(policy, critic, o, a, t) for n in MEASURED}
            jacobian = jax.jacobian(lambda x: (x + (1 - t) * policy(o, x, t)).ravel())(a)
            values = jnp.linalg.svd(jacobian.reshape(a.size, a.size), compute_uv=False)
            ours = g["qgf"]
            return a + policy(o, a, t) / 10, {
                "cosine, ood": _cosine(g["ood"], ours),
                "length, ood": norm(g["ood"]) / norm(ours),
                "cosine, ood-clipped": _cosine(g["ood-clipped"], ours),
                "length, ood-clipped": norm(g["ood-clipped"]) / norm(ours),
                "cosine, jacobian": _cosine(g["qgf-jacobian"], ours),
                "length, jacobian": norm(g["qgf-jacobian"]) / norm(ours),
                "singular values": values[jnp.array([0, -1])],
                "pull": ours,
                "push": g["ood"],
            }

        _, found = jax.lax.scan(step, noise, jnp.arange(10.0))
        pull, push = (jnp.mean(found.pop(name), axis=0) for name in ("pull", "push"))
        found["cosine of the sums"] = _cosine(pull, push)
        found["length of the sums"] = norm(push) / norm(pull)
        return found

    noises = jax.random.normal(key, (OBSERVATIONS, NOISES, *policy.action_shape))
    found = jax.jit(jax.vmap(jax.vmap(along, (None, 0))))(obs, noises)
    medians = {name: np.median(np.asarray(x), axis=(0, 1)) for name, x in found.items()}
    per_time = {n: m[list(TIMES)].tolist() if m.ndim else float(m) for n, m in medians.items()}

    keys = jax.random.split(key, (OBSERVATIONS, NOISES))

    def of(name: str) -> Any:
        """The other critic's values of a method's actions, as a function of the weight."""
        draw = partial(method(name, weight=1.0), policy, critic)
        one = lambda o, k, w: other(o, critic.to_bounds(draw(o, k, weight=w)))  # noqa: E731
        return jax.jit(jax.vmap(jax.vmap(one, (None, 0, None)), (0, 0, None)))

    plain = np.asarray(of("qgf")(obs, keys, 0.0))
    scale = np.sqrt(np.mean(plain.var(axis=1, ddof=1)))
    gains = {}
    for name in MEASURED:
        values = of(name)
        means = {f: float(np.mean(values(obs, keys, f * start) - plain)) for f in FACTORS}
        gains[name] = {str(f): mean / float(scale) for f, mean in means.items()}
    return per_time | {"gain by another critic": gains}


if __name__ == "__main__":
    main()
