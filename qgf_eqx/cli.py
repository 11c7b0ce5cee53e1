"""The command line: `qgf-eqx demo | collect | train | evaluate | plot`, one function a verb."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

try:
    import jax.numpy as jnp
    import tyro

    from . import experiment, plot
    from .checkpoint import CheckpointError
    from .datasets import DatasetError, env_id, load, make_env
    from .datasets import collect as collect_data
    from .experiment import paths_of
    from .train import RunError, TrainConfig
    from .train import train as train_run
    from .weights import LinearDecay
except ImportError as error:
    raise SystemExit(
        f"the command line needs more packages ({error}): pip install 'qgf_eqx[cli]'"
    ) from error

_Positional = tyro.conf.Positional


def demo(
    task: Annotated[Literal["pointmaze", "cube"], tyro.conf.arg(name="task")] = "pointmaze",
    /,
    out: Path | None = None,
    data_dir: Path = Path("data"),
    processes: int | None = None,
) -> None:
    """Collect data, train a flow and a critic, guide at test time, print the table.

    `pointmaze` takes some minutes on two cores: a point in a maze. `cube` takes about a quarter of
    an hour: a robot arm moves a cube. Interrupted, the same command goes on where it was.

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
    """
    run_dir = run_dir or Path("runs") / config.env / f"seed{config.seed}"
    path = train_run(config, load(config.env, data_dir), run_dir, save_every=save_every)
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
    reduce: Literal["min", "mean"] = "min",
    out: Path | None = None,
    processes: int | None = None,
) -> None:
    """Compare test-time methods on trained runs of one task.

    The weight of each guided method is chosen on tuning episodes and reported on others.

    Args:
        runs: Folders of training runs of one task, one or more.
        methods: flow, best-of-N, qgf, ood, qgf-jacobian, qgf-chain, bptt.
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
        reduce={"min": jnp.min, "mean": jnp.mean}[reduce],
        record=True,
        processes=processes,
    )
    experiment.write_json(out, results)
    if paths:
        experiment.write_json(paths_of(out), paths)
    _report(results, out)


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
    except (DatasetError, CheckpointError, RunError, ValueError) as error:
        raise SystemExit(_complain(str(error))) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.filename or 'a file'}: {error.strerror}.")) from None
    except KeyboardInterrupt:
        _complain("interrupted. The same command goes on where it was.")
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
