"""The command line, `qgf-eqx VERB`: one thin function a verb."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

try:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import tyro

    from . import analysis, experiment, figures, plot
    from ._fields import bounded
    from .checkpoint import CheckpointError
    from .datasets import DatasetError, env_id, load, make_env
    from .datasets import collect as collect_data
    from .evaluate import ESTIMATORS, method, target_critic
    from .experiment import paths_of
    from .film import RenderError
    from .film import film as film_run
    from .train import RunError, TrainConfig, load_nets
    from .train import train as train_run
    from .weights import LinearDecay
except ImportError as error:
    raise SystemExit(
        f"the command line needs more packages ({error}): pip install 'qgf_eqx[cli]'"
    ) from error

_Positional = tyro.conf.Positional
_Reduce = Literal["min", "mean"]
_REDUCE = {"min": jnp.min, "mean": jnp.mean}


def demo(
    task: Annotated[Literal["pointmaze", "cube"], tyro.conf.arg(name="task")] = "pointmaze",
    /,
    out: Path | None = None,
    data_dir: Path = Path("data"),
    processes: int | None = None,
) -> None:
    """Collect data, train a flow and a critic, guide at test time, print the table.

    `pointmaze` takes some minutes on two cores: a point in a maze. `cube` takes about a quarter of
    an hour: a robot arm moves a cube. Interrupted, the same command goes on with the collection or
    the training where it was.

    Args:
        task: Which of the two.
        out: Folder for the results. Default: runs/<task>.
        data_dir: Folder of the datasets; the data are collected into it if they are not there.
        processes: How many processes to use. Default: all cores.
    """
    out = out or Path("runs") / task
    chosen = {"pointmaze": experiment.POINTMAZE, "cube": experiment.CUBE}[task]
    results = experiment.run(chosen, out, data_dir, processes=processes)
    _report(results, out / "results.json")


def collect(
    dataset: _Positional[str],
    /,
    data_dir: Path = Path("data"),
    transitions: int = 1_000_000,
    seed: int = 0,
    processes: int | None = None,
) -> None:
    """Make an OGBench dataset on this machine, with OGBench's own oracles.

    The file has the public format and name. Interrupted, the same command goes on where it was.

    Args:
        dataset: pointmaze-<size>-navigate-v0, or <cube-..., scene, puzzle-...>-<play or
            noisy>-v0, for example cube-single-play-v0.
        data_dir: Folder for the files.
        transitions: How many, rounded up to whole episodes (of 1000, giant mazes 2000); a tenth
            more is made for validation. The public files have a million or more.
        seed: Of every random choice.
        processes: How many processes to use. Default: all cores.
    """
    path = collect_data(dataset, data_dir, transitions=transitions, seed=seed, processes=processes)
    print(f"The dataset is in {path}")


def train(
    config: tyro.conf.OmitArgPrefixes[TrainConfig],
    run_dir: Path | None = None,
    data_dir: Path = Path("data"),
    save_every: int = 10_000,
    stream: bool = False,
) -> None:
    """Train a flow by behaviour cloning, and a critic by implicit Q-learning.

    Defaults are the paper's; on a laptop try --width 128 --batch 256 --updates 40000
    --gamma 0.99. Interrupted, the same command goes on where it was.

    Args:
        config: What to train.
        run_dir: Folder for config.json, metrics.jsonl and checkpoint.safetensors. Default:
            runs/<env>/seed<seed>.
        data_dir: Folder of the datasets; a missing one is downloaded if that is possible.
        save_every: Updates between checkpoints: what a crash costs at most.
        stream: Read chunks from the dataset's files, for datasets larger than memory. The same
            result to the bit.
    """
    run_dir = run_dir or Path("runs") / config.env / f"seed{config.seed}"
    # Streamed chunks wait in memory for their update: fewer of them at a time.
    options = {"streamed": True, "updates_per_call": 50} if stream else {}
    dataset = load(config.env, data_dir)
    path = train_run(config, dataset, run_dir, save_every=save_every, **options)
    print(f"The trained networks are in {path}")


def evaluate(
    runs: _Positional[tuple[Path, ...]],
    /,
    methods: tuple[str, ...] = ("flow", "qgf", "ood", "best-of-4"),
    weights: tuple[float, ...] = (0.03, 0.1, 0.3),
    decays: tuple[float, ...] = (),
    episodes: int = 50,
    tuning_episodes: int = 20,
    steps: int = 10,
    reduce: _Reduce = "min",
    out: Path | None = None,
    processes: int | None = None,
) -> None:
    """Compare test-time methods on trained runs of one task.

    The weight of each guided method is chosen on tuning episodes and reported on others.

    Args:
        runs: Folders of training runs of one task, one or more.
        methods: flow, qgf, ood, qgf-jacobian, qgf-chain, bptt; best-of-N, qgf-best-of-N.
        weights: Guidance weights to choose from; a single one is used as it is.
        decays: Further weights to choose from, which fall linearly from this to zero.
        episodes: Reported episodes, per run.
        tuning_episodes: Episodes per run and weight for choosing the weight.
        steps: Euler steps of the flow.
        reduce: How the critics' values become one: the minimum (the paper's) or the mean.
        out: The results file. Default: results.json in the first run's folder.
        processes: How many processes to use. Default: all cores.
    """
    if not runs:
        raise ValueError("`runs` is empty: name the folder of a training run.")
    out = out or runs[0] / "results.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results, paths = experiment.compare(
        runs,
        methods,
        weights=(*weights, *map(LinearDecay, decays)),
        tuning_episodes=tuning_episodes,
        episodes=episodes,
        steps=steps,
        reduce=_REDUCE[reduce],
        record=True,
        processes=processes,
    )
    experiment.write_json(out, results)
    if paths:
        experiment.write_json(paths_of(out), paths)
    _report(results, out)


def choose(
    runs: _Positional[tuple[Path, ...]],
    /,
    method: str = "qgf",
    weights: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3),
    decays: tuple[float, ...] = (),
    episodes: int = 20,
    budget: float | None = None,
    measure: Literal["distance", "kl"] = "distance",
    observations: int = 64,
    steps: int = 10,
    reduce: _Reduce = "min",
    data_dir: Path = Path("data"),
    processes: int | None = None,
) -> None:
    """Choose the guidance weight: on tuning episodes, or offline with --budget.

    On episodes, the weight with the most successes. Offline, the strongest weight whose actions
    stay within the budget of distance or KL divergence to the plain flow: no environment is
    stepped, so it says how far guidance goes and not whether it helps. Prints what was spent.

    Args:
        runs: Folders of training runs of one task; offline the first is used.
        method: qgf, ood, qgf-jacobian, qgf-chain or bptt.
        weights: Weights to choose from, weak to strong.
        decays: Weights that fall linearly from this to zero; offline they replace `weights`.
        episodes: Tuning episodes per run and weight; `evaluate` reports others.
        budget: Offline: root mean square distance of actions from the plain flow's, or nats.
        measure: Offline: of what the budget is.
        observations: Offline: how many, from the validation data.
        steps: Euler steps of the flow.
        reduce: How the critics' values become one: the minimum (the paper's) or the mean.
        data_dir: Offline: folder of the datasets.
        processes: How many processes to use. Default: all cores.
    """
    if not runs:
        raise ValueError("`runs` is empty: name the folder of a training run.")
    if method not in ESTIMATORS:
        raise ValueError(f"`{method}` has no weight; guided are {', '.join(ESTIMATORS)}.")
    start = time.perf_counter()
    if budget is None:
        grid = (*weights, *map(LinearDecay, decays))
        options = {"steps": steps, "reduce": _REDUCE[reduce], "processes": processes}
        found = experiment.choose_weight(runs, method, weights=grid, episodes=episodes, **options)
        for row in found["tuning"]:
            low, high = (100 * x for x in row["interval"])
            print(f"{row['weight']!s:>12}  {100 * row['success']:5.1f} %  [{low:.1f}, {high:.1f}]")
        spent = ", ".join(f"{n:,} {what}" for what, n in found["spent"].items())
        print(f"Spent: {spent}, {time.perf_counter() - start:.0f} s")
        print(f"The weight: {found['weight']} (report it on other episodes)")
        return
    policy, critic, _, obs = _offline(runs[0], observations, reduce, data_dir)
    grid = tuple(map(LinearDecay, decays)) or weights
    kind = {"distance": analysis.flow_distance, "kl": analysis.flow_kl}[measure]
    found = analysis.choose_weight(
        policy,
        critic,
        obs,
        jax.random.key(0),
        weights=grid,
        budget=budget,
        measure=jax.tree_util.Partial(kind, steps=steps),
        guidance=ESTIMATORS[method],
    )
    for weight, mean, error in zip(grid, found.spent, found.error, strict=True):
        print(f"{weight!s:>12}  {measure} {mean:.4f} +- {error:.4f}")
    print(f"Spent: no episode, {len(obs)} observations, {time.perf_counter() - start:.0f} s")
    if found.weight is None:
        raise ValueError(f"no weight is within the budget of {budget}: add weaker `weights`.")
    print(f"The weight: {found.weight} (the strongest within {budget})")


def diagnose(
    run: _Positional[Path],
    /,
    method: str = "qgf",
    weight: float = 0.1,
    decay: float | None = None,
    observations: int = 32,
    noises: int = 16,
    steps: int = 10,
    reduce: _Reduce = "min",
    data_dir: Path = Path("data"),
    out: Path | None = None,
) -> None:
    """Look at what guidance does, step by step, before trusting its gain.

    Prints the strength of guidance beside the flow, its direction, how much is clipped, how far
    the critics disagree and actions move, warns where guidance is far too weak or very strong, says
    around which weight to search, and draws it all.

    Args:
        run: Folder of a training run.
        method: qgf, ood, qgf-jacobian, qgf-chain or bptt.
        weight: Of guidance.
        decay: A weight that falls linearly from this to zero, in place of `weight`.
        observations: How many, from the validation data.
        noises: How many at each observation.
        steps: Euler steps of the flow.
        reduce: How the critics' values become one: the minimum (the paper's) or the mean.
        data_dir: Folder of the datasets.
        out: The picture. Default: diagnostics.png in the run's folder.
    """
    if method not in ESTIMATORS:
        raise ValueError(f"`{method}` has no weight; guided are {', '.join(ESTIMATORS)}.")
    policy, critic, values, obs = _offline(run, observations, reduce, data_dir)
    shape = (len(obs), noises, *policy.action_shape)

    def one(obs, noise):
        options = {"guidance": ESTIMATORS[method], "steps": steps, "values": values}
        chosen = weight if decay is None else LinearDecay(decay)
        return analysis.diagnose(policy, critic, obs, noise, weight=chosen, **options)

    each = jax.jit(jax.vmap(jax.vmap(one, (None, 0))))
    found = each(obs, jax.random.normal(jax.random.key(0), shape))
    columns = ("t", "share", "cosine", "clipped", "spread", "value", "distance")
    print("".join(f"{name:>10}" for name in columns))
    for row in np.stack([np.mean(getattr(found, name), (0, 1)) for name in columns], 1):
        print("".join(f"{x:10.3f}" for x in row))
    for warning in analysis.judge(found) or ["neither far too weak nor very strong"]:
        print(f"Guidance: {warning}.")
    start = jax.jit(lambda obs, key: analysis.starting_weight(policy, critic, obs, key))
    print(f"A weight to start a search from: {start(obs, jax.random.key(0)):.2g}")
    path = plot.diagnostics(found, out or run / "diagnostics.png")
    print(f"The figure is in {path}")


def film(
    run: _Positional[Path],
    /,
    methods: tuple[str, ...] = ("flow", "qgf"),
    weight: float = 0.1,
    decay: float | None = None,
    episodes: int = 3,
    first: int = experiment.REPORT_FROM,
    steps: int = 10,
    reduce: _Reduce = "min",
    out: Path | None = None,
) -> None:
    """Film methods side by side on the same episodes: a row a method, a column an episode.

    Args:
        run: Folder of a training run.
        methods: The rows, named as for `evaluate`.
        weight: Of guidance.
        decay: A weight that falls linearly from this to zero, in place of `weight`.
        episodes: The columns.
        first: The first episode's number. Default: the first of those that `evaluate` reports.
        steps: Euler steps of the flow.
        reduce: How the critics' values become one: the minimum (the paper's) or the mean.
        out: The film, .webp or .gif. Default: film.webp in the run's folder.
    """
    chosen = weight if decay is None else LinearDecay(decay)
    shown = [
        dataclasses.replace(method(name, weight=chosen, steps=steps), reduce=_REDUCE[reduce])
        for name in methods
    ]
    path = out or run / "film.webp"
    reached = film_run(run, shown, range(first, first + episodes), path)
    for m, successes in zip(shown, reached, strict=True):
        print(f"{m.name:>12}  {sum(successes)} of {episodes} succeed")
    print(f"The film is in {path}")


def analyse(
    what: _Positional[Literal["example", "instability", "noise", "value"]],
    runs: _Positional[tuple[Path, ...]] = (),
    /,
    out: Path = Path("figures"),
    data_dir: Path = Path("data"),
    count: int = 64,
    reduce: _Reduce = "min",
    format: Literal["svg", "png", "pdf"] = "svg",
) -> None:
    """Make one of the paper's analyses: the numbers as JSON, and the figure.

    `example` and `instability` are the one-dimensional example, without and with a look at
    back-propagation through the chain; they need no run. `noise` asks how sensitive every
    estimator of RUN is to noise. `value` compares the Q that guidance reaches, by its own critic
    and by that of a second, independent RUN, with best-of-N and the distance to the data.

    Args:
        what: Which analysis.
        runs: Folders of training runs: none, one, or one and its judge.
        out: Folder for the JSON and the figure.
        data_dir: Folder of the datasets.
        count: Observations of the validation data.
        reduce: How the critics' values become one: the minimum (the paper's) or the mean.
        format: Of the figure.
    """
    needed = {"example": 0, "instability": 0, "noise": 1, "value": 2}[what]
    if len(runs) != needed:
        raise ValueError(f"`analyse {what}` takes {needed} training runs, got {len(runs)}.")
    options = {"count": count, "reduce": _REDUCE[reduce]}
    if needed == 0:
        found = getattr(figures, what)()
    else:
        found = getattr(figures, what)(*runs, data_dir, **options)
        found |= {"task": load_nets(runs[0])[1].env, "critics reduced by": reduce}
    found |= {"versions": experiment.versions(), "machine": experiment.machine()}
    out.mkdir(parents=True, exist_ok=True)
    experiment.write_json(out / f"{what}.json", found)
    path = getattr(plot, what)(found, out / f"{what}.{format}")
    print(f"The numbers are in {out / f'{what}.json'}, the figure in {path}")


def _offline(run: Path, count: int, reduce: str, data_dir: Path):
    """Policy, bounded critic, every member's value, and observations of the validation data."""
    nets, config = load_nets(run)
    held_out = load(config.env, data_dir, split="val").observations
    rows = np.linspace(0, len(held_out) - 1, count).astype(int)
    critic = bounded(target_critic(nets, _REDUCE[reduce]))
    return nets.policy, critic, nets.target.values, jnp.asarray(held_out[rows])


def plot_results(
    results: _Positional[Path], /, format: Literal["svg", "png", "pdf"] = "png"
) -> None:
    """Draw the figures of a results file: success rates and, for mazes, the paths.

    Args:
        results: A results.json of `demo` or `evaluate`, or the folder that holds it.
        format: Of the pictures, which are put beside the file.
    """
    file = results / "results.json" if results.is_dir() else results
    try:
        content = json.loads(file.read_text())
        _ = content["table"], content["task"]
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{file} is no results file of `demo` or `evaluate`.") from None
    for path in _draw(content, file, format):
        print(f"The figure is in {path}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; errors are one sentence on stderr and exit code 2."""
    verbs = {
        "demo": demo,
        "collect": collect,
        "train": train,
        "evaluate": evaluate,
        "choose": choose,
        "diagnose": diagnose,
        "analyse": analyse,
        "film": film,
        "plot": plot_results,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="qgf-eqx",
            description="Q-Guided Flow: test-time guidance of flow policies. Try `qgf-eqx demo`.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except (DatasetError, CheckpointError, RunError, RenderError, ValueError) as error:
        raise SystemExit(_complain(str(error))) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.filename or 'a file'}: {error.strerror}.")) from None
    except KeyboardInterrupt:
        _complain(
            "interrupted. `collect` and `train` go on where they were, the others begin again."
        )
        raise SystemExit(130) from None


def _complain(sentence: str) -> int:
    print(f"qgf-eqx: {sentence}", file=sys.stderr)
    return 2


def _report(results: dict, path: Path) -> None:
    print(f"\n{results['task']}\n{experiment.format_table(results)}\n")
    figures = _draw(results, path, "png")
    print(f"The results are in {path}, the figures in {' and '.join(map(str, figures))}")


def _draw(results: dict, path: Path, format: str) -> list[Path]:
    prefix = path.stem.removeprefix("results")
    drawn = [plot.success_bars(results, path.with_name(f"{prefix}success.{format}"))]
    if sum("best-of" in row["method"] for row in results["table"]) > 1:
        drawn.append(plot.best_of(results, path.with_name(f"{prefix}best_of.{format}")))
    paths = paths_of(path)
    if paths.exists():
        maze = make_env(env_id(results["task"]))
        shown = json.loads(paths.read_text())
        methods = tuple(name for name in ("flow", "qgf") if name in shown) or tuple(shown)
        picture = path.with_name(f"{prefix}maze.{format}")
        drawn.append(plot.maze_paths(maze, shown, picture, methods))
    return drawn


if __name__ == "__main__":
    main()
