"""Groups of options that verbs share. Nothing here imports JAX: `--help` must be quick."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional as Positional
from tyro.conf import arg

Reduce = Literal["min", "mean"]
# What may be left out: the help says what happens then, and shows no `None`.
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
MaybeInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
MaybeFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
MaybeText = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Tracker = Literal["tensorboard", "wandb", "trackio"]
MaybeTracker = Annotated[
    Tracker | None, arg(metavar="{tensorboard,wandb,trackio}", help_behavior_hint="")
]


@dataclasses.dataclass(frozen=True)
class Common:
    """Options common to all commands."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where JAX computes, in this process and in its workers."""
    json: bool = False
    """Print the result as JSON, and nothing else."""
    quiet: bool = False
    """Print the result without progress and remarks."""

    def begin(self) -> None:
        """Before JAX is imported."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers share a GPU
        if self.device != "auto":
            platform = {"cpu": "cpu", "gpu": "cuda"}[self.device]
            os.environ["JAX_PLATFORMS"] = platform
            if "jax" in sys.modules:
                sys.modules["jax"].config.update("jax_platforms", platform)

    @property
    def progress(self) -> bool:
        """Whether progress bars are shown."""
        return not (self.quiet or self.json)

    def say(self, sentence: str) -> None:
        """A remark, which is not the result."""
        if self.progress:
            print(sentence, flush=True)

    def result(self, found: dict[str, Any], text: str) -> None:
        """The result, as text or as JSON."""
        print(json.dumps(found, indent=1, default=str) if self.json else text)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How an action is drawn."""

    steps: int = 10
    """Euler steps of the flow."""
    reduce: Reduce = "min"
    """How to combine the critics' values: the minimum (the paper's) or the mean."""

    @property
    def reduction(self) -> Callable:
        """As a function."""
        import jax.numpy as jnp

        return {"min": jnp.min, "mean": jnp.mean}[self.reduce]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One guidance weight."""

    weight: MaybeFloat = None
    """The guidance weight. Default: 0.3 of the starting weight, which `diagnose` prints."""
    decay: MaybeFloat = None
    """A weight that falls linearly from this to zero, instead of `weight`."""

    @property
    def given(self) -> Any:
        """A number, or a `LinearDecay`; None without either."""
        from ..evaluate.sampler import plain_weight
        from ..weights import LinearDecay

        if self.decay is not None and self.weight is not None:
            raise ValueError("`weight` and `decay` are two weights: give one of them.")
        for name, given in (("weight", self.weight), ("decay", self.decay)):
            if given is not None and not given >= 0:
                raise ValueError(f"`{name}` must not be negative or NaN, got {given}.")
        if self.weight is None and self.decay is None:
            return None
        return plain_weight(self.weight if self.decay is None else LinearDecay(self.decay))

    def is_for(self, sampler: Any) -> bool:
        """Whether a method takes it: an actor that has a factor of its own, only if it is given."""
        return sampler.has_guidance_weight or (sampler.weighted and self.given is not None)

    def value(self, run: Path, flow: Drawing, env: str | None, common: Common) -> Any:
        """What is given, or else 0.3 of the starting weight of a run on a task, which is said."""
        if self.given is not None:
            return self.given
        from ..evaluate._auto import start_of
        from ..evaluate._sources import as_source
        from ..learn import load_config

        source: Any = as_source(run)
        try:
            start = start_of(source, env or load_config(run)[0].env, flow.reduction)
        except ValueError as error:  # a run of recorded data alone has no task
            raise ValueError(f"give --weight: guessing it needs the run's task: {error}") from None
        return untuned(start, run, common)


def untuned(start: float, run: Path, common: Common) -> float:
    """The weight where none is given, by the starting weight; the user is told."""
    from ..evaluate import _auto

    found = _auto.untuned(start)
    common.say(f"Weight {found:g}, a guess; `qgf-eqx choose {run}` finds one on episodes.")
    return found


@dataclasses.dataclass(frozen=True)
class Grid:
    """Guidance weights to choose from."""

    weights: tuple[float | Literal["auto"], ...] = ("auto",)
    """Weights to choose from; a single one is used as it is. auto: 0.01 to 3 times the starting
    weight, which `diagnose` prints."""
    decays: tuple[float, ...] = ()
    """Further weights to choose from, which fall linearly from this to zero."""
    extensions: MaybeInt = None
    """How many times to extend the grid while the best weight lies at its edge. Default: 3, with
    auto 12."""

    @property
    def options(self) -> dict[str, Any]:
        """As `comparison.compare` takes them."""
        from ..weights import LinearDecay

        if "auto" in self.weights and self.weights != ("auto",):
            raise ValueError("`weights` are auto or numbers, and not both.")
        return {
            "weights": None if self.weights == ("auto",) else list(self.weights),
            "decays": [LinearDecay(decay) for decay in self.decays],
            "extensions": self.extensions,
        }


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the datasets are."""

    data_dir: Path = Path("data")
    """Folder of the datasets; a missing one is downloaded if that is possible."""


@dataclasses.dataclass(frozen=True)
class CachedData(Data):
    """Where the datasets are, and their converted arrays."""

    cache_dir: MaybePath = None
    """Folder of the arrays that an .npz is converted to once. Default: beside the file, or, if that
    folder cannot be written, ~/.cache/qgf_eqx."""


@dataclasses.dataclass(frozen=True)
class DataFiles(CachedData):
    """Recorded data."""

    data: MaybeText = None
    """A file, folder or id of your own data, in any format that is known: an .npz,
    D4RL's or robomimic's HDF5, a LeRobot folder, a Minari id. Default: the task's own data."""


@dataclasses.dataclass(frozen=True)
class Watching:
    """Monitoring during training, in addition to metrics.jsonl."""

    track: MaybeTracker = None
    """Send metrics and evaluations to a tracker too."""
    track_project: str = "qgf_eqx"
    """The name under which wandb and trackio show the runs."""
    evaluate_every: MaybeInt = None
    """Play some episodes after every N updates, and after the last: evaluations.jsonl."""
    evaluate_methods: tuple[str, ...] = ("flow", "qgf")
    """The methods that play them; guided ones use 0.3 of the starting weight."""
    evaluate_episodes: int = 20
    """Episodes of each method."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """How many processes."""

    processes: MaybeInt = None
    """How many processes to use. Default: all cores."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices among which each batch is divided, on one host or on several."""

    devices: int | Literal["all"] = 1
    """How many devices, or all."""
    coordinator: MaybeText = None
    """With several hosts: address and port of the first, such as 10.0.0.1:1234. Each host runs the
    same command, with its own --host."""
    hosts: MaybeInt = None
    """The number of hosts."""
    host: MaybeInt = None
    """The number of this host, from 0."""

    def begin(self) -> Any:
        """The devices, as `learn.train` takes them; connects to other hosts, if there are some."""
        import jax

        several = {"coordinator": self.coordinator, "hosts": self.hosts, "host": self.host}
        missing = [name for name, given in several.items() if given is None]
        if 0 < len(missing) < 3:
            raise ValueError(f"`{missing[0]}` is missing: several hosts need all three of them.")
        if not missing:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            jax.distributed.initialize(self.coordinator, self.hosts, self.host)
            return jax.devices()
        known = jax.devices()
        if self.devices == 1:
            return None
        count = len(known) if self.devices == "all" else self.devices
        if not 1 <= count <= len(known):
            raise ValueError(f"`devices` must be at most {len(known)}, as there are, got {count}.")
        return known[:count]


@dataclasses.dataclass(frozen=True)
class OtherTask:
    """The task, if it is not the run's own."""

    env: MaybeText = None
    """A task other than the runs' own: an OGBench name, a family's such as metaworld:push-v3, or
    package.module:make_task."""
