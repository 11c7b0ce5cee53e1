"""The verb `train`. Its options are those of every learner, so it imports JAX to be parsed."""

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .. import learn
from ..learn import Learner, TrainConfig
from ..learn._kinds import ACTORS, CRITICS, learners
from ._options import Common, DataFiles, Devices, MaybePath, MaybeText, Watching, Workers
from ._refuse import as_arguments, at_least

Option = tuple[str, dataclasses.Field, str]
"""A name, the setting behind it, and what it is."""


_WORDS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "STR", str | None: "STR"}


def _settings(kind: type, known: Iterable[str] = (), prefix: str = "") -> list[Option]:
    """The plain settings of a dataclass, but for those that are known already."""
    documented: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        documented |= _documented(cls)
    plain = {int, float, bool, str, str | None}
    return [
        (prefix + field.name, field, documented.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.name not in known and field.type in plain
    ]


def _documented(kind: type) -> dict[str, str]:
    """What a class says below each of its fields."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    found = {}
    body: list[Any] = tree.body  # type: ignore[attr-defined]
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            said = getattr(text.value, "value", "")
            found[getattr(field.target, "id", "")] = inspect.cleandoc(said)
    return found


def _group(name: str, settings: list[Option], what: str) -> Any:
    """A dataclass of options, of which those are None, or False, that are not given."""
    fields = []
    for option, field, text in settings:
        default = f"(default: {field.default})"
        if field.default is dataclasses.MISSING:
            default = "(required)"
        elif field.default is None:
            default = ""
        choices = field.metadata.get("options")
        kind: Any = Literal[choices] if choices else field.type
        options: dict[str, Any] = {"help": text, "help_behavior_hint": default}
        if choices:
            options["metavar"] = f"{{{','.join(choices)}}}"
        if kind is bool:  # --x, --no-x or neither
            flag = Annotated[bool | None, tyro.conf.DisallowNone, tyro.conf.arg(**options)]
            fields.append((option, flag, None))
            continue
        if kind in _WORDS:
            options["metavar"] = _WORDS[kind]
        fields.append((option, Annotated[kind | None, tyro.conf.arg(**options)], None))
    made = dataclasses.make_dataclass(name, fields, frozen=True)
    made.__doc__ = what
    return made


SHARED = tuple(field.name for field in dataclasses.fields(Learner))
Run = _group("Run", _settings(TrainConfig), "What is trained, except its learners.")
Shared = _group("Shared", _settings(Learner), "Options of all learners.")
Own = _group(
    "Own",
    [
        option
        for name, kind in (CRITICS | ACTORS).items()
        for option in _settings(kind, SHARED, name.replace("-", "_") + "_")
    ],
    "Options of single learners.",
)
if TYPE_CHECKING:
    _Run = _Shared = _Own = Any
else:
    _Run, _Shared, _Own = (tyro.conf.OmitArgPrefixes[kind] for kind in (Run, Shared, Own))


def train(
    run: _Run = Run(),  # noqa: B008 (frozen)
    critic: MaybeText = None,
    actors: Annotated[
        tuple[str, ...] | None, tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="")
    ] = None,
    shared: _Shared = Shared(),  # noqa: B008 (frozen)
    own: _Own = Own(),  # noqa: B008 (frozen)
    config: MaybePath = None,
    preset: MaybeText = None,
    run_dir: MaybePath = None,
    seeds: tuple[int, ...] = (),
    data: DataFiles = DataFiles(),  # noqa: B008 (frozen)
    save_every: int = 10_000,
    stream: bool = False,
    watching: Watching = Watching(),  # noqa: B008 (frozen)
    divided: Devices = Devices(),  # noqa: B008 (frozen)
    workers: Workers = Workers(processes=1),  # noqa: B008 (frozen)
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Train a critic and actors: by default a flow by behaviour cloning, and implicit Q-learning.

    Defaults are the paper's; on a laptop try --width 128 --batch 256 --updates 40000
    --gamma 0.99. All actors see the same batches, and are trained against the same critic.
    If interrupted, the same command resumes where it stopped.

    Args:
        run: What is trained, except its learners. The task is an OGBench name, a family's such as
            metaworld:push-v3, or package.module:make_task.
        critic: {critics}, or package.module:Class of your own. Default: iql.
        actors: Any of {actors}, or package.module:Class of your own; a number sets a method's
            strength, as in fql-30. Default: flow.
        shared: Options of all learners.
        own: Options of single learners.
        config: A file whose settings are the defaults, such as a run's config.json.
        preset: The defaults, by name: {presets}.
        run_dir: Folder for config.json, metrics.jsonl and checkpoint.safetensors. Default:
            runs/<env>/seed<seed>. With --seeds: the folder of seed<seed>.
        seeds: Train these seeds, in one program, instead of --seed.
        data: Where the data are.
        save_every: Updates between checkpoints; a crash loses at most these.
        stream: Read chunks from the dataset's files, for datasets larger than memory. The
            batches are identical to the bit.
        watching: Monitoring during training.
        divided: The devices among which each batch is divided, on one host or on several.
        workers: The number of processes among which the seeds are divided.
        common: Options common to all commands.
    """
    at_least(1, save_every=save_every, processes=workers.processes)
    common.begin()
    from ..data._families import family_of
    from ..engines import Local
    from ..evaluate._play import check_task_outcome
    from ..evaluate.task import check_widths, task_of

    with as_arguments():
        settings = _chosen(
            _base(config, preset), critic, actors, vars(run), vars(shared), vars(own)
        )
        task = task_of(settings.env)
        if settings.goals and not task.goals:
            raise ValueError(f"`goals` needs a task that has goals, and `{task.name}` has none.")
        settings = dataclasses.replace(settings, goals=task.goals > 0)
        for seed in seeds:
            dataclasses.replace(settings, seed=seed)
    if workers.processes != 1 and divided != Devices():
        raise ValueError("`devices` are of one process: leave out `processes`.")
    if len(set(seeds)) < len(seeds):
        raise ValueError("`seeds` names a seed twice.")
    if family_of(settings.env)[0] is None:  # a task of one's own: before hours of training
        check_task_outcome(task)
    folder = run_dir or Path("runs") / task.name
    if not seeds and run_dir is None:
        folder /= f"seed{settings.seed}"
    # Streamed chunks wait in memory for their update: fewer of them at a time.
    options = {"streamed": True, "updates_per_call": 50} if stream else {}
    with as_arguments():
        on_save = _periodic(watching, settings)
    if on_save is not None:
        save_every = min(save_every, on_save.every)
        if on_save.every % save_every:
            raise ValueError(
                f"`evaluate_every` must be a multiple of `save_every`, {save_every:,}, got "
                f"{on_save.every:,}: only checkpoints are evaluated."
            )
        options["on_save"] = on_save
    options |= {"save_every": save_every} | ({} if common.progress else {"progress": False})
    options |= {"hindsight": task.hindsight} if task.goals else {}
    if data.data is not None:
        from ..data import open_dataset

        dataset, assumed = open_dataset(data.data, cache_dir=data.cache_dir)
        common.say(assumed)
        with as_arguments():
            check_widths(task, dataset)
    count = workers.processes or len(seeds) or 1
    groups = [seeds[i::count] for i in range(min(count, len(seeds)))] or [()]
    if workers.processes == 1 and (devices := divided.begin()) is not None:
        options["devices"] = devices
    work = partial(_train_group, settings, folder, data, options, watching)
    done = Local(workers.processes).map(work, list(enumerate(groups)))
    paths = sorted(str(path) for _, found in done for path in found)
    common.result({"checkpoints": paths}, f"The trained networks are in {' and '.join(paths)}")


train.__doc__ = (train.__doc__ or "").format(
    critics=", ".join(CRITICS), actors=", ".join(ACTORS), presets=", ".join(learn.presets())
)


def _train_group(
    config: TrainConfig,
    folder: Path,
    data: DataFiles,
    options: dict[str, Any],
    watching: Watching,
    cell: tuple[int, tuple[int, ...]],
) -> list[Path]:
    from ..evaluate import task_of
    from ._offline import dataset_for

    position, seeds = cell
    options = {**options, "position": position} if position else options
    dataset = dataset_for(task_of(config.env), data)
    with ExitStack() as stack:
        if watching.track:
            sent = learn.tracker(watching.track, config.as_dict(), watching.track_project)
            options = {**options, "track": stack.enter_context(sent)}
        if not seeds:
            return [learn.train(config, dataset, folder, **options)]
        return learn.train_seeds(config, seeds, dataset, folder, **options)


def _periodic(watching: Watching, config: TrainConfig) -> Any:
    """What plays episodes during the training, if that is asked for."""
    from ..evaluate.names import method
    from ..evaluate.periodic import Periodic

    if watching.evaluate_every is None:
        return None
    names, actors = watching.evaluate_methods, config.actors
    for name in names:
        if (needed := method(name, actors=actors).actor or "flow") not in actors:
            raise ValueError(f"`evaluate_methods` has {name}, and no actor `{needed}` is trained.")
    return Periodic(watching.evaluate_every, config.updates, names, watching.evaluate_episodes)


def _base(file: Path | None, name: str | None) -> TrainConfig | None:
    """The config of a file, or of a preset."""
    if file is not None and name is not None:
        raise ValueError("`config` and `preset` are both defaults: leave out one of them.")
    if file is None:
        return None if name is None else learn.preset(name)
    if not file.is_file():
        raise ValueError(f"`config` must be a file, such as a run's config.json, got `{file}`.")
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is not a JSON file.") from None
    return learn.read_config(found, file)


def _as_in(kept: dict[str, Any], name: str, actor: Any) -> Any:
    """An actor with the settings of the base's, or of one there that differs in its strength."""
    like = next((one for one in kept.values() if type(one) is type(actor)), None)
    if name in kept or like is None:
        return kept.get(name, actor)
    strength = {actor.strength: getattr(actor, actor.strength)} if actor.strength else {}
    return dataclasses.replace(like, **strength)


def _chosen(
    base: TrainConfig | None,
    critic: str | None,
    actors: tuple[str, ...] | None,
    run: dict[str, Any],
    shared: dict[str, Any],
    own: dict[str, Any],
) -> TrainConfig:
    """The config that the options make, over a given one."""
    given, all_of_them, of_one = (
        {name: value for name, value in options.items() if value is not None}
        for options in (run, shared, own)
    )
    if base is None and "env" not in given:
        raise ValueError("`env` is missing: name a task, or settings by --config or --preset.")
    sizes = {} if base is None else {name: getattr(base.critic, name) for name in shared}
    every = {**sizes, **all_of_them}  # new learners are as large as the base's
    found = learners(critic or "iql", ("flow",) if actors is None else actors, **every)
    if base is not None:
        known: dict[str, Any] = dict(base.actors)
        kept = {n: dataclasses.replace(one, **all_of_them) for n, one in known.items()}
        one: Any = base.critic
        if critic is None or type(found["critic"]) is type(one):
            found["critic"] = dataclasses.replace(one, **all_of_them)
        if actors is None:
            found["actors"] = kept
        else:
            found["actors"] = {n: _as_in(kept, n, one) for n, one in found["actors"].items()}
    changed = {name: dict[str, Any]() for name in CRITICS | ACTORS}
    for option, value in of_one.items():
        # The longest name: `robust_q_linex` is of `robust-q`.
        kind = max((n for n in changed if option.startswith(n.replace("-", "_") + "_")), key=len)
        changed[kind][option[len(kind) + 1 :]] = value
    for kind, settings in changed.items():
        cls = (CRITICS | ACTORS)[kind]
        used = [one for one in (found["critic"], *found["actors"].values()) if type(one) is cls]
        if settings and not used:
            option = f"--{kind}-{next(iter(settings)).replace('_', '-')}"
            raise ValueError(f"`{option}` is of `{kind}`, which is not trained.")
        if not settings:
            continue
        if type(found["critic"]) is cls:
            found["critic"] = dataclasses.replace(found["critic"], **settings)
        for name, one in found["actors"].items():
            if type(one) is cls:
                found["actors"][name] = dataclasses.replace(one, **settings)
    return (
        TrainConfig(**given, **found)
        if base is None
        else dataclasses.replace(base, **given, **found)
    )
