"""The verbs that make something: `demo`, `collect`; `train` is in `_train`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ._options import Common, Data, MaybePath, Positional, Workers
from ._refuse import as_arguments, at_least, check_new


def demo(
    task: Annotated[Literal["pointmaze", "cube"], tyro.conf.arg(name="task")] = "pointmaze",
    /,
    out: MaybePath = None,
    data: Data = Data(),  # noqa: B008 (frozen)
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Collect data, train a flow and a critic, guide at test time, print the table.

    `pointmaze` takes some minutes on two cores: a point in a maze. `cube` takes about
    twenty minutes: a robot arm moves a cube. If interrupted, the same command resumes where it
    stopped.

    Args:
        task: Which demo to run.
        out: Folder for the results. Default: runs/<task>.
        data: Where the data are, or will be.
        workers: How many processes.
        common: Options common to all commands.
    """
    at_least(1, processes=workers.processes)
    out = out or Path("runs") / task
    check_new(out / "results.json")
    common.begin()
    from .. import experiment
    from ._report import report

    chosen = {"pointmaze": experiment.POINTMAZE, "cube": experiment.CUBE}[task]
    options = {"processes": workers.processes, "progress": common.progress, "say": common.say}
    results = experiment.run(chosen, out, data.data_dir, **options)
    report(common, results, out / "results.json")
    run, weight = out / f"seed{chosen.seeds[0]}", results.row("qgf").weight
    option = (
        f"--weight {weight}" if isinstance(weight, float | int) else f"--decay {weight.start:g}"
    )
    common.say(
        f"Look at it: qgf-eqx film {run} --methods flow qgf {option}\n"
        f"What guidance does: qgf-eqx diagnose {run} --data-dir {data.data_dir} {option}\n"
        "On your own data: qgf-eqx train --data FILE --env my_module:make_task"
    )


def collect(
    dataset: Positional[str],
    /,
    data: Data = Data(),  # noqa: B008 (frozen)
    transitions: int = 1_000_000,
    seed: int = 0,
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Make a dataset on this machine, with OGBench's oracles or Meta-World's experts.

    OGBench's have the public format and name. If interrupted, the same command resumes where it
    stopped.

    Args:
        dataset: pointmaze-<size>-navigate-v0, or <cube-..., scene, puzzle-...>-<play or
            noisy>-v0, for example cube-single-play-v0; or metaworld:<task>, for example
            metaworld:push-v3.
        data: Folder for the files.
        transitions: How many, rounded up to whole episodes (1000 transitions, giant mazes 2000,
            Meta-World up to 200), plus a tenth for validation. OGBench's public files have a
            million or more.
        seed: The seed of every random choice.
        workers: How many processes.
        common: Options common to all commands.
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
