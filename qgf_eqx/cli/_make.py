"""The verbs that make something: `demo`, `collect`, `train`."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._train_config import TrainConfig
from ._options import Common, Data, DataFiles, Positional, Workers
from ._refuse import as_arguments, at_least, check_new


def demo(
    task: Annotated[Literal["pointmaze", "cube"], tyro.conf.arg(name="task")] = "pointmaze",
    /,
    out: Path | None = None,
    data: Data = Data(),  # noqa: B008 (frozen)
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Collect data, train a flow and a critic, guide at test time, print the table.

    `pointmaze` takes some minutes on two cores: a point in a maze. `cube` takes about
    twenty minutes: a robot arm moves a cube. Interrupted, the same command goes on where it was.

    Args:
        task: Which of the two.
        out: Folder for the results. Default: runs/<task>.
        data: Where the data are, or will be.
        workers: How many processes.
        common: What every verb has.
    """
    at_least(1, processes=workers.processes)
    out = out or Path("runs") / task
    check_new(out / "results.json")
    common.begin()
    from .. import experiment
    from ._report import report

    chosen = {"pointmaze": experiment.POINTMAZE, "cube": experiment.CUBE}[task]
    options = {"processes": workers.processes, "progress": common.progress}
    results = experiment.run(chosen, out, data.data_dir, **options)
    report(common, results, out / "results.json")


def collect(
    dataset: Positional[str],
    /,
    data: Data = Data(),  # noqa: B008 (frozen)
    transitions: int = 1_000_000,
    seed: int = 0,
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Make a dataset on this machine, by OGBench's oracles or Meta-World's experts.

    OGBench's have the public format and name. Interrupted, the same command goes on where it was.

    Args:
        dataset: pointmaze-<size>-navigate-v0, or <cube-..., scene, puzzle-...>-<play or
            noisy>-v0, for example cube-single-play-v0; or metaworld:<task>, for example
            metaworld:push-v3.
        data: Folder for the files.
        transitions: How many, rounded up to whole episodes (of 1000, giant mazes 2000,
            Meta-World 200 at most); a tenth more is made for validation. OGBench's public files
            have a million or more.
        seed: Of every random choice.
        workers: How many processes.
        common: What every verb has.
    """
    at_least(1, transitions=transitions, processes=workers.processes)
    at_least(0, seed=seed)
    common.begin()
    from .. import data as datasets
    from ..data._collecting import source_of

    with as_arguments():
        source_of(dataset)
    options = {"transitions": transitions, "seed": seed, "processes": workers.processes}
    options |= {} if common.progress else {"progress": False}
    path = datasets.collect(dataset, data.data_dir, **options)
    common.result({"dataset": str(path)}, f"The dataset is in {path}")


def train(
    config: tyro.conf.OmitArgPrefixes[TrainConfig],
    run_dir: Path | None = None,
    seeds: tuple[int, ...] = (),
    data: DataFiles = DataFiles(),  # noqa: B008 (frozen)
    save_every: int = 10_000,
    stream: bool = False,
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Train a flow by behaviour cloning, and a critic by implicit Q-learning.

    Defaults are the paper's; on a laptop try --width 128 --batch 256 --updates 40000
    --gamma 0.99. Interrupted, the same command goes on where it was. --config FILE takes the
    settings of a file, such as a run's config.json; options override them.

    Args:
        config: What to train. The task is OGBench's name, a family's such as metaworld:push-v3, or
            package.module:make_task.
        run_dir: Folder for config.json, metrics.jsonl and checkpoint.safetensors. Default:
            runs/<env>/seed<seed>. With --seeds: the folder of seed<seed>.
        seeds: Train these seeds, several at once, in place of --seed.
        data: Where the data are.
        save_every: Updates between checkpoints: what a crash costs at most.
        stream: Read chunks from the dataset's files, for datasets larger than memory. The same
            result to the bit.
        workers: How many seeds at once.
        common: What every verb has.
    """
    at_least(1, save_every=save_every, processes=workers.processes)
    common.begin()
    from ..data._families import family_of
    from ..engines import Local
    from ..evaluate._play import check_task_outcome
    from ..evaluate.task import check_widths, task_of

    with as_arguments():
        task = task_of(config.env)
        configs = [dataclasses.replace(config, seed=seed) for seed in seeds] or [config]
    if len(set(seeds)) < len(seeds):
        raise ValueError("`seeds` names a seed twice.")
    if family_of(config.env)[0] is None:  # a task of one's own: before hours of training
        check_task_outcome(task)
    if run_dir is None:
        folder = Path("runs") / task.name
        run_dir = folder if seeds else folder / f"seed{config.seed}"
    cells = [
        (i, one, run_dir / f"seed{one.seed}" if seeds else run_dir) for i, one in enumerate(configs)
    ]
    # Streamed chunks wait in memory for their update: fewer of them at a time.
    options = {"streamed": True, "updates_per_call": 50} if stream else {}
    options |= {"save_every": save_every} | ({} if common.progress else {"progress": False})
    if data.data is not None:
        from ..data import open_dataset

        dataset, assumed = open_dataset(data.data, cache_dir=data.cache_dir)
        common.say(assumed)
        with as_arguments():
            check_widths(task, dataset)
    work = partial(_train_one, data, options)
    paths = sorted(str(path) for _, path in Local(workers.processes).map(work, cells))
    common.result({"checkpoints": paths}, f"The trained networks are in {' and '.join(paths)}")


def _train_one(
    data: DataFiles, options: dict[str, Any], cell: tuple[int, TrainConfig, Path]
) -> Path:
    from .. import train as training
    from ..evaluate import task_of
    from ._offline import dataset_for

    position, config, run_dir = cell
    options = {**options, "position": position} if position else options
    return training.train(config, dataset_for(task_of(config.env), data), run_dir, **options)
