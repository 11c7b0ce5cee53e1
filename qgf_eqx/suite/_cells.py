"""The cells of a plan. A cell's result is a file named by the hash of what it depends on, so that
nothing is done twice, wherever it was interrupted."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from ..evaluate._outcomes import source_of
from ._plan import Plan, Study, weights_of

DATA, TRAIN, PLAY, ANALYSE = STAGES = ("data", "train", "play", "analyse")
"""Each needs what stands before it."""


@dataclass(frozen=True)
class DataCell:
    """The data of a task: found, or collected; the result says what they are."""

    study: Study
    path: Path
    """Of the result."""
    stage: str = DATA

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"data of {self.study.config.env}"


@dataclass(frozen=True)
class TrainCell:
    """Training seeds that are trained in one program."""

    study: Study
    seeds: tuple[int, ...]
    path: Path
    identity: Any = None
    """Of the data that the suite began with."""
    stage: str = TRAIN

    @property
    def folder(self) -> Path:
        """Of the run folders, beside the result."""
        return self.path.with_suffix("")

    @property
    def runs(self) -> list[Path]:
        """The folder of each seed."""
        return [self.folder / f"seed{seed}" for seed in self.seeds]

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{self.study.label}, seed {', '.join(map(str, self.seeds))}"


@dataclass(frozen=True)
class PlayCell:
    """One method on all training seeds of a task: its weight chosen, its episodes reported."""

    study: Study
    method: str
    trainings: tuple[TrainCell, ...]
    path: Path
    stage: str = PLAY

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{self.study.label}, {self.method}"


@dataclass(frozen=True)
class AnalysisCell:
    """The paper's analyses of gradients and values, of all training seeds of a task."""

    study: Study
    trainings: tuple[TrainCell, ...]
    path: Path
    stage: str = ANALYSE

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"analyses of {self.study.label}"


Cell: TypeAlias = DataCell | TrainCell | PlayCell | AnalysisCell


def cells_of(plan: Plan, out: str | Path) -> list[Cell]:
    """All cells of a plan, stage by stage. Those of trainings and evaluations are named once the
    data are known: before that there are only the cells of data.

    **Arguments:** the plan, and the folder of its results.
    """
    out = Path(out)
    data = [
        DataCell(study, _named(out, DATA, study.config.env, _data(study))) for study in plan.studies
    ]
    found: list[Cell] = [*{cell.path: cell for cell in data}.values()]  # one for each task
    known = [(cell.study, _identity(cell.path)) for cell in data if is_done(cell)]
    trained = [(study, _trainings(out, study, identity)) for study, identity in known]
    found += [cell for _, trainings in trained for cell in trainings]
    found += [cell for study, trainings in trained for cell in _plays(out, study, trainings)]
    found += [_analysis(out, *one) for one in trained if one[0].analyses]
    return found


def is_done(cell: Cell) -> bool:
    """Whether its result is there."""
    return cell.path.exists()


def log_of(out: str | Path, cell: Cell) -> Path:
    """Where the traceback of a failed cell is."""
    return Path(out) / "errors" / f"{cell.path.stem}.txt"


def can_be_done(cell: Cell) -> bool:
    """Whether all that it needs is there: of evaluations and analyses all trainings."""
    return all(map(is_done, getattr(cell, "trainings", ())))


def sizes_of(plan: Plan) -> dict[str, int]:
    """How many cells each stage has; without the analyses, if the plan asks for none."""
    trainings = sum(len(_groups(study)) for study in plan.studies)
    methods = sum(len(study.methods) for study in plan.studies)
    data = len({str(_data(study)) for study in plan.studies})
    counts = dict(zip(STAGES, (data, trainings, methods), strict=False))
    analyses = sum(study.analyses for study in plan.studies)
    return counts | ({ANALYSE: analyses} if analyses else {})


def spent(plan: Plan, out: str | Path) -> str:
    """Time of finished cells, and an estimate for the missing ones."""
    done, left = {}, {}
    for cell in cells_of(plan, out):
        if (
            is_done(cell)
            and (took := json.loads(cell.path.read_bytes()).get("seconds")) is not None
        ):
            done.setdefault((cell.stage, cell.study.label), []).append(took)
        elif not is_done(cell):
            left.setdefault((cell.stage, cell.study.label), []).append(cell)
    hours = {
        stage: sum(sum(t) for (s, _), t in done.items() if s == stage) / 3600 for stage in STAGES
    }
    said = [f"{stage} {took:.2f} h" for stage, took in hours.items() if took]
    known = [sum(done[k]) / len(done[k]) * len(cells) for k, cells in left.items() if k in done]
    unknown = sorted({f"{stage} of {task}" for stage, task in left.keys() - done.keys()})
    size = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file())
    if not said:
        return "Times are estimated once the first cell of a stage is done."
    return (
        f"Until now: {', '.join(said)} of one worker, {size / 1e9:.2f} GB. To do, by the cells of "
        f"the same task: {sum(known) / 3600:.2f} h"
        + (f", and what is not known yet: {', '.join(unknown)}." if unknown else ".")
    )


def others(plan: Plan, out: str | Path) -> int:
    """How many results are there of other settings, versions, or sources of one's own modules."""
    known = {cell.path for cell in cells_of(plan, out)}
    found = (path for stage in STAGES for path in (Path(out) / stage).glob("*.json"))
    return sum(path not in known for path in found)


def _trainings(out: Path, study: Study, identity: Any) -> list[TrainCell]:
    what = {"config": study.config.as_dict(), "data": identity, **_sources(study)}
    return [
        TrainCell(study, seeds, _named(out, TRAIN, f"{study.label}.{_span(seeds)}", what), identity)
        for seeds in _groups(study)
    ]


def _groups(study: Study) -> list[tuple[int, ...]]:
    """The seeds of each training."""
    count = study.seeds_per_cell
    return [study.seeds[i : i + count] for i in range(0, len(study.seeds), count)]


def _span(seeds: tuple[int, ...]) -> str:
    return "seed" + "_".join(map(str, seeds))


def _plays(out: Path, study: Study, trainings: Sequence[TrainCell]) -> list[PlayCell]:
    shared = {
        "runs": [cell.folder.name for cell in trainings],
        "episodes": study.episodes,
        "tuning budget": study.tuning_budget,
    }
    named = {
        name: _named(
            out, PLAY, f"{study.label}.{name}", {**shared, "weights": weights_of(study, name)}
        )
        for name in study.methods
    }
    return [PlayCell(study, name, tuple(trainings), path) for name, path in named.items()]


def _analysis(out: Path, study: Study, trainings: Sequence[TrainCell]) -> AnalysisCell:
    runs = {"runs": [cell.folder.name for cell in trainings]}
    return AnalysisCell(study, tuple(trainings), _named(out, ANALYSE, study.label, runs))


def _data(study: Study) -> dict[str, Any]:
    known = {
        "env": study.config.env,
        "data_dir": study.data_dir,
        "collect": study.collect,
        "transitions": study.transitions,
    }
    return known | _sources(study, learners=False)


def _sources(study: Study, *, learners: bool = True) -> dict[str, Any]:
    """The hashes of the modules that a task or a learner of one's own is in."""
    config = study.config.as_dict()
    kinds = [config["critic"]["kind"], *(actor["kind"] for actor in config["actors"].values())]
    names = [study.config.env, *(kinds if learners else ())]
    found = {name: source_of(name) for name in names if ":" in name}
    return {"sources": found} if any(found.values()) else {}


def _identity(path: Path) -> Any:
    """What a finished cell of data has found."""
    return json.loads(path.read_bytes())["fingerprint"]


def _named(out: Path, stage: str, title: str, what: dict[str, Any]) -> Path:
    text = json.dumps([version("qgf_eqx"), stage, title, what], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return (
        out / stage / f"{title.replace(':', '-').replace('/', '-').replace(' ', '_')}.{digest}.json"
    )
