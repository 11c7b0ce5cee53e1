"""The verbs that look: `diagnose`, `analyse`, `plot`, `methods`."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from ._options import Common, DataFiles, Drawing, MaybePath, Positional, Weight, untuned
from ._refuse import at_least, check_folders, check_new, refuse_own_judge


def diagnose(
    run: Positional[Path],
    /,
    method: str = "qgf",
    weight: Weight = Weight(),  # noqa: B008 (frozen)
    observations: int = 32,
    noises: int = 16,
    flow: Drawing = Drawing(),  # noqa: B008 (frozen)
    data: DataFiles = DataFiles(),  # noqa: B008 (frozen)
    judge: MaybePath = None,
    out: MaybePath = None,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Look at what guidance does, step by step, before trusting its gain.

    Prints the strength of guidance compared with the flow, its direction, how much is clipped, how
    far the critics disagree and how far actions move. Warns where guidance is far too weak or too
    strong, and plots everything. Then prints a table of weights around a good starting weight:
    the value of the actions according to the run's critic, and to that of `judge`.

    Args:
        run: Folder of a training run.
        method: An estimator that `qgf-eqx methods` lists.
        weight: The guidance weight.
        observations: How many, from the validation data.
        noises: Noise samples per observation, two or more.
        flow: How an action is drawn.
        data: Where the datasets are.
        judge: Folder of another training seed's run, whose critic did not guide. Weights at which
            its value falls are too strong.
        out: The picture. Default: diagnostics.png in the run's folder.
        common: Options common to all commands.
    """
    check_folders(run, *([judge] if judge else []))
    refuse_own_judge(run, judge)
    at_least(1, observations=observations, steps=flow.steps)
    at_least(2, noises=noises)
    out = out or run / "diagnostics.png"
    check_new(out, ".png", ".svg", ".pdf")
    common.begin()
    import jax
    import numpy as np

    from .. import analysis, plot
    from ..evaluate import _offline as offline
    from ..evaluate._auto import first_weight
    from ..evaluate.names import estimator_of, guided
    from ..evaluate.side_by_side import side_by_side
    from ._offline import dataset_for, open_offline

    estimator = estimator_of(method, steps=flow.steps)
    given = weight.given
    opened, obs = open_offline(run, observations, flow, data)
    policy, critic, values, task, _ = opened
    first = first_weight(policy, critic, obs)
    chosen = guided(method, weight=untuned(first, run, common) if given is None else given)
    shape = (observations, noises, *policy.action_shape)

    def one(obs, noise):
        options = {"guidance": estimator, "steps": flow.steps, "values": values}
        return analysis.diagnose(policy, critic, obs, noise, weight=chosen.weight, **options)

    each = jax.jit(jax.vmap(jax.vmap(one, (None, 0))))
    found = each(obs, jax.random.normal(jax.random.key(0), shape))
    columns = ("t", "share", "cosine", "clipped", "spread", "value", "distance")
    rows = np.stack([np.mean(getattr(found, name), (0, 1)) for name in columns], 1)
    lines = ["".join(f"{name:>10}" for name in columns)]
    lines += ["".join(f"{x:10.3f}" for x in row) for row in rows]
    warnings = analysis.warnings_of(found)
    lines += [f"Guidance: {w}." for w in warnings or ["neither far too weak nor strong"]]
    actions = offline.actions(dataset_for(task, data, "val"))
    edges = critic.low, critic.high
    at_bounds = analysis.share_at_bounds(opened.trained.units.from_action(actions), *edges)
    lines.append(
        f"Of the data's actions {at_bounds:.0%} lie at their bounds. Over nine tasks `ood` tended "
        "to fall further behind `qgf` at strong weights where there were more (docs/off_data.md)."
    )
    table = []
    if 0 < first < math.inf:
        other = offline.critic_of(judge, opened, flow.reduction) if judge else None
        options = {"methods": ["flow", method], "judge": other, "steps": flow.steps}
        beside = side_by_side(policy, critic, obs, jax.random.key(0), **options)
        known = lambda row: {k: v for k, v in asdict(row).items() if v == v}  # noqa: E731 (no NaN)
        table = [known(row) for row in beside.rows]
        lines += ["", f"The starting weight: {first:.2g}. Around it:", str(beside), ""]
        if task is not None:
            lines.append(f"To choose among them on episodes: qgf-eqx choose {run} --episodes 20")
    else:
        lines.append("No starting weight: the critic's gradient is zero or not finite.")
    path = plot.diagnostics(found, out)
    steps = [dict(zip(columns, map(float, row), strict=True)) for row in rows]
    content = {"steps": steps, "warnings": warnings, "starting weight": first, "figure": str(path)}
    content |= {"weights": table, "actions at bounds": at_bounds}
    common.result(content, "\n".join(lines))
    common.say(f"The figure is in {path}")


def analyse(
    what: Positional[Literal["example", "instability", "noise", "value"]],
    runs: Positional[tuple[Path, ...]] = (),
    /,
    out: Path = Path("figures"),
    data: DataFiles = DataFiles(),  # noqa: B008 (frozen)
    weights: tuple[float, ...] = (),
    count: int = 64,
    reduce: Literal["min", "mean"] = "min",
    format: Literal["svg", "png", "pdf"] = "svg",
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Make one of the paper's analyses: the numbers as JSON, and the figure.

    `example` and `instability` are the one-dimensional example, without and with
    back-propagation through the chain; they need no run. `noise` measures how sensitive every
    estimator of RUN is to noise. `value` compares the Q that guidance reaches, by its own critic
    and by that of a second, independent RUN, with best-of-N and the distance to the data. For
    several runs or pairs, the figure shows the mean, with the standard error over the runs.

    Args:
        what: Which analysis.
        runs: Folders of training runs: none; for `noise` one or more; for `value` a run and its
            judge, and more such pairs.
        out: Folder for the JSON and the figure.
        data: Where the datasets are.
        weights: For `value`, which weights. Default: 0.01 to 3 times the starting weight,
            which `diagnose` prints.
        count: How many observations of the validation data.
        reduce: How to combine the critics' values: the minimum (the paper's) or the mean.
        format: The format of the figure.
        common: Options common to all commands.
    """
    size = {"example": 0, "instability": 0, "noise": 1, "value": 2}[what]
    if size == 0 and runs:
        raise ValueError(f"`analyse {what}` takes no training runs, got {len(runs)}.")
    if size and (not runs or len(runs) % size):
        several = "one training run or more" if size == 1 else "pairs of training runs"
        raise ValueError(f"`analyse {what}` takes {several}, got {len(runs)}.")
    if runs:
        check_folders(*runs)
    if what == "value":
        for one, other in zip(runs[::2], runs[1::2], strict=True):
            refuse_own_judge(one, other)
    at_least(1, count=count)
    check_new(out / f"{what}.json")
    common.begin()
    from .. import figures, plot
    from .._provenance import machine, versions, write_json
    from ..learn import load_config

    if size == 0:
        found = getattr(figures, what)()
    else:
        options = {"count": count, "reduce": Drawing(reduce=reduce).reduction}
        options |= {"cache_dir": data.cache_dir, "instead": data.data}
        groups = [runs[i : i + size] for i in range(0, len(runs), size)]
        if what == "value":
            if weights and len(groups) > 1:
                raise ValueError("`weights` is for one pair of runs: each of several has its own.")
            options["weights"] = weights or None
        each = [getattr(figures, what)(*group, data.data_dir, **options) for group in groups]
        found = each[0] if len(each) == 1 else getattr(figures, f"{what}_over_runs")(each)
        tasks = dict.fromkeys(load_config(group[0])[0].env for group in groups)
        found |= {"task": ", ".join(tasks), "critics reduced by": reduce}
    found |= {"versions": versions(), "machine": machine()}
    out.mkdir(parents=True, exist_ok=True)
    numbers = out / f"{what}.json"
    write_json(numbers, found)
    path = getattr(plot, f"draw_{what}")(found, out / f"{what}.{format}")
    text = f"The numbers are in {numbers}, the figure in {path}"
    common.result({"numbers": str(numbers), "figure": str(path)}, text)


def plot(
    results: Positional[Path],
    /,
    format: Literal["svg", "png", "pdf"] = "png",
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Draw the figures of a results file: success rates or returns and, for mazes, the paths.

    Args:
        results: A results.json of `demo` or `evaluate`, or the folder that holds it.
        format: The format of the pictures, which are saved next to the file.
        common: Options common to all commands.
    """
    common.begin()
    from ..evaluate.results import read
    from ._report import draw

    file = results / "results.json" if results.is_dir() else results
    drawn = [str(path) for path in draw(read(file), file, format)]
    common.result({"figures": drawn}, "\n".join(f"The figure is in {path}" for path in drawn))


def methods(common: Common = Common()) -> None:  # noqa: B008 (frozen)
    """List the methods that `evaluate` compares: at test time, and the actors of a run.

    Every method except `fk-steering` also has a best-of-N variant: best-of-16, qgf-best-of-4. A
    guided one has a variant whose weight is not tuned, but 0.3 of the starting weight: qgf-untuned.

    Args:
        common: Options common to all commands.
    """
    common.begin()
    from ..evaluate.names import METHODS, learned

    lines = [f"{row.name:<22}{row.what}" for row in METHODS.values()]
    lines += ["", "Actors, for runs that have trained them (`train --actors`):"]
    lines += [f"{row.name:<22}{row.what}" for row in learned().values()]
    rows = (METHODS | learned()).values()
    found = {row.name: {"what": row.what, "weight": row.weighted} for row in rows}
    common.result(found, "\n".join(lines))
