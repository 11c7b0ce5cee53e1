"""The verb `suite`: many trainings and evaluations from one file."""

from pathlib import Path
from typing import Literal

from ._options import Common, MaybePath, Positional, Workers
from ._refuse import as_arguments


def suite(
    action: Positional[Literal["plan", "run", "report"]],
    file: Positional[Path],
    /,
    out: MaybePath = None,
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    measure: bool = False,
    engine: Literal["local", "slurm", "ray"] = "local",
    engine_options: tuple[str, ...] = (),
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Train and evaluate many tasks, seeds and methods from a plan file.

    `plan` lists the cells and which are done. `run` does the missing ones: data, then trainings,
    then evaluations; after a kill, the same command resumes. `report` writes tables and figures
    of what exists so far.

    Args:
        action: plan, run or report.
        file: The plan, a TOML file; or the name of one that comes with the package: paper, goals,
            model_size, critics, best_of; for two cores cpu, cpu_goals, cpu_model_size,
            cpu_critics, cpu_best_of.
        out: The folder of all results, which all workers must be able to access. Default:
            results/NAME.
        workers: How many processes, on this machine.
        measure: With plan: make some updates and play two episodes of each task, to estimate how
            long all of it will take on this machine, and how large the checkpoints are.
        engine: Where cells run: local, slurm (needs submitit) or ray.
        engine_options: For slurm and ray, as name=value: timeout_min=120 gpus_per_node=1
            slurm_partition=gpu (submitit's names); or address=auto num_gpus=0.25.
        common: Options common to all commands.
    """
    common.begin()
    from .. import suite as suites

    with as_arguments():
        plan = suites.read_plan(file)
    out = out or Path("results") / plan.name
    if action == "plan" and measure:
        found = []
        for measured in suites.measure(plan):
            found.append(measured)
            common.say(
                f"{len(found)} of {len(plan.studies)}, {measured.study.label}: training "
                f"{measured.training:.3g} h, playing {measured.playing:.3g} h at most"
            )
        rows = [
            {"task": m.study.label, "training hours": m.training}
            | {"playing hours at most": m.playing, "checkpoint bytes": m.disk}
            for m in found
        ]
        return common.result({"tasks": rows}, suites.format_measured(found))
    if action == "plan":
        cells = [(c.stage, c.title, c.path.exists()) for c in suites.cells_of(plan, out)]
        total = suites.sizes_of(plan)
        lines = [
            f"{'done' if done else 'to do':<6} {stage:<6} {title}" for stage, title, done in cells
        ]
        sizes = ", ".join(f"{n} of {stage}" for stage, n in total.items())
        known = (
            ""
            if len(cells) == sum(total.values())
            else " More cells follow once the data are there."
        )
        if count := suites.others(plan, out):
            known += (
                f" {out} also has {count} results that this plan does not use: of other tasks, "
                "methods, settings, versions or sources of your own modules."
            )
        missing = suites.unavailable(plan)
        lines += [f"cannot run here: {env}: {why}" for env, why in missing.items()]
        found = [{"stage": s, "title": t, "done": d} for s, t, d in cells]
        text = "\n".join([*lines, f"Cells: {sizes}.{known} {suites.spent(plan, out)}".strip()])
        return common.result({"cells": found, "total": total, "not here": missing}, text)
    if action == "run":
        options = {"processes": workers.processes, "progress": common.progress}
        from ..engines import EngineError, by_name

        if engine != "local":
            with as_arguments():
                options["engine"] = by_name(engine, engine_options, out / "jobs")
        try:
            suites.run_suite(plan, out, **options)
        except (suites.SuiteError, EngineError):
            suites.write_report(plan, out)  # of what was finished
            raise
    path = suites.write_report(plan, out)
    common.result({"report": str(path)}, f"The report is in {path}")
