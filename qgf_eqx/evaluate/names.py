"""The test-time methods by name: the one table that commands, figures, benchmarks and docs read.

Actors that are trained beside a run's flow are methods too, by the names of `learn.actors`: their
rows are made from their classes. `steering.Inpainted`, which takes the chunk that is being
executed, has no name.
"""

import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Scalar

from .. import guidance
from .._sample import sample
from .._types import Guidance
from ..steering import keep_best
from ..weights import LinearDecay
from ._actors import own_action, strengths
from ._controls import (
    curvature,
    fk,
    gated,
    grad_steps,
    jacobian_smooth,
    look_ahead_2,
    look_ahead_4,
    monte_carlo,
    norm_matched,
    random_direction,
    spread_matched,
)
from .sampler import Draw, Sampler, plain_weight


@dataclasses.dataclass(frozen=True)
class Named:
    """A row of the table of methods."""

    name: str
    """On the command line, in tables and in files."""
    what: str
    """What it is, in a sentence."""
    label: str
    """In figures."""
    colour: str
    """In figures."""
    weighted: bool = True
    """Whether it takes a weight."""
    estimator: Guidance = guidance.qgf
    draw: Draw = sample
    takes_best_of: bool = True
    """Whether `NAME-best-of-N` is a method too."""
    actor: str = ""
    """Of a run's actors, the one that it needs."""
    choices: tuple[float, ...] = ()
    """Weights to choose from, if they are its own."""


_ROWS = (
    Named("flow", "The plain flow: behaviour cloning.", "flow", "#7f7f7f", False),
    Named("qgf", "The critic's gradient at the Euler leap, J = I.", "QGF", "#1f77b4"),
    Named("ood", "Its gradient at the noisy point.", "OOD", "#d95f02", estimator=guidance.ood),
    Named(
        "ood-clipped",
        "Its gradient at the noisy point, clipped to the bounds.",
        "OOD (clipped)",
        "#e7994d",
        estimator=guidance.ood_clipped,
    ),
    Named(
        "qgf-jacobian",
        "QGF with the leap's exact Jacobian.",
        "QGF-Jacobian",
        "#2ca02c",
        estimator=guidance.qgf_jacobian,
    ),
    Named(
        "qgf-chain",
        "The gradient at the end of the flow, J = I.",
        "QGF-chain",
        "#9467bd",
        estimator=guidance.qgf_chain,
    ),
    Named(
        "bptt",
        "The exact gradient, through the whole chain.",
        "BPTT",
        "#8c564b",
        estimator=guidance.bptt,
    ),
    Named(
        "look-ahead-2",
        "The gradient after two Euler steps to the end.",
        "look-ahead 2",
        "#17becf",
        estimator=look_ahead_2,
    ),
    Named(
        "look-ahead-4",
        "The gradient after four Euler steps to the end.",
        "look-ahead 4",
        "#0e8a99",
        estimator=look_ahead_4,
    ),
    Named(
        "curvature",
        "The exactly tilted direction of a Gaussian posterior and a quadratic critic.",
        "curvature",
        "#bcbd22",
        estimator=curvature,
    ),
    Named(
        "monte-carlo",
        "The gradient of the soft value of 16 clean actions around the leap.",
        "Monte Carlo",
        "#e377c2",
        estimator=monte_carlo,
    ),
    Named(
        "jacobian-regularized",
        "Half of QGF and half of QGF-Jacobian.",
        "Jacobian, regularized",
        "#393b79",
        estimator=guidance.jacobian_regularized,
    ),
    Named(
        "jacobian-ortho",
        "QGF with the orthogonal factor of the leap's Jacobian.",
        "Jacobian, orthogonal",
        "#4d7c0f",
        estimator=guidance.jacobian_ortho,
    ),
    Named(
        "jacobian-smooth",
        "QGF-Jacobian with the Jacobian averaged around the point.",
        "Jacobian, smooth",
        "#98df8a",
        estimator=jacobian_smooth,
    ),
    Named(
        "gated",
        "QGF, down-weighted where an ensemble's members disagree.",
        "gated",
        "#1b9e77",
        estimator=gated,
    ),
    Named(
        "keep-best",
        "The guided action or the plain flow's, whichever the critic scores higher.",
        "keep best",
        "#7570b3",
        draw=keep_best,
    ),
    Named(
        "grad-step",
        "The plain flow, then three gradient steps on the clean action; the weight is their size.",
        "gradient steps",
        "#a6761d",
        draw=grad_steps,
    ),
    Named(
        "norm-matched",
        "QGF without a weight to choose: 0.3 of the velocity's norm at every step.",
        "norm-matched",
        "#3f3fd9",
        weighted=False,
        draw=norm_matched,
    ),
    Named(
        "spread-matched",
        "QGF without a weight to choose: each observation's own starting weight.",
        "spread-matched",
        "#9c9ede",
        weighted=False,
        draw=spread_matched,
    ),
    Named(
        "fk-steering",
        "16 particles of the tilted law, by values alone; the weight is 1 / temperature.",
        "FK steering",
        "#e7298a",
        draw=fk,
        takes_best_of=False,
    ),
    Named(
        "random-direction",
        "A control: as strong as QGF, in a random direction.",
        "random direction",
        "#b0b0b0",
        estimator=random_direction,
    ),
    Named(
        "zero",
        "A control: no gradient, through the guided code; must equal the flow.",
        "zero",
        "#4d4d4d",
        estimator=guidance.zero,
    ),
)

METHODS: dict[str, Named] = {row.name: row for row in _ROWS}
"""The table, by name. Each, except `fk-steering`, also has a best-of-N variant: `NAME-best-of-N`,
and `best-of-N` of the plain flow."""

ESTIMATORS: dict[str, Guidance] = {
    row.name: row.estimator for row in _ROWS if row.weighted and row.draw is sample
}
"""The methods that are one estimator, by name."""


def method(
    text: str,
    *,
    weight: float | LinearDecay | Scalar = 0.0,
    steps: int = 10,
    reduce: Callable = jnp.min,
    actors: Mapping[str, Any] = MappingProxyType({}),
) -> Sampler:
    """A method from its name: one of `METHODS`, `best-of-16` of the plain flow, or
    `qgf-best-of-4`; an actor, such as `fql`; or a method on the flow of an actor, such as
    `qgf-on-gcbc`. Those that take no weight ignore it. A guided one followed by `-untuned` takes
    0.3 of the starting weight in a comparison, where others have their weight chosen on episodes.

    **Arguments:** the name, the sampler's, and

    - `actors`: of a run. Where it has trained an actor with several strengths, `fql-30` and
      `fql-100`, `fql` is the one whose strength is the weight.

    **Raises:** `ValueError` if there is no such method, or the weight is not finite.
    """
    row, best_of = _parse(text, actors)
    number: Any = plain_weight(weight) if row.weighted else 0.0
    parts = row.estimator, number, best_of, steps, reduce, text, row.draw, row.weighted
    own = {"actor": row.actor, "choices": row.choices, "untuned": split_untuned(text)[1]}
    return Sampler(*parts, **own)


def check_weight(sampler: Sampler) -> None:
    """**Raises:** `ValueError` for a named guided method without a weight, which would be the plain
    flow under another name."""
    row = METHODS.get(split_best_of(split_untuned(sampler.name)[0])[0])
    if row is None or not (row.weighted and sampler.weighted) or sampler.draw is not row.draw:
        return
    if isinstance(sampler.weight, float | int) and sampler.weight == 0:
        raise ValueError(
            f"`{sampler.name}` has no weight, so it would be the plain flow: give one, "
            f'`method("{sampler.name}", weight=0.1)`, or name the method `flow`.'
        )


def _parse(text: str, actors: Mapping[str, Any] = MappingProxyType({})) -> tuple[Named, int]:
    """The row of a name, and of how many the best is taken."""
    tuned, untuned = split_untuned(text)
    plain, best_of = split_best_of(tuned)
    row = METHODS.get(plain) or _row_on_actor(plain, actors) or _row_of_actor(plain, actors)
    if row is None:
        known = [*METHODS, *learned()]
        labels = {name.lower(): name for name in known}
        labels |= {row.label.lower(): name for name, row in METHODS.items()}
        close = [labels[name] for name in difflib.get_close_matches(plain.lower(), labels, 1)]
        guess = f"did you mean {close[0] + text[len(plain) :]}? " if close else ""
        raise ValueError(
            f"unknown method `{text}`; {guess}known are {', '.join(known)}, "
            "and of each the best of several, such as best-of-16 or qgf-best-of-4."
        )
    if untuned and (row.choices or not row.weighted):
        raise ValueError(f"unknown method `{text}`: `{tuned}` has no weight of guidance.")
    if plain != tuned and not row.takes_best_of:
        raise ValueError(f"unknown method `{text}`: there is no best of several of `{plain}`.")
    return row, best_of


def learned() -> dict[str, Named]:
    """The rows of the actors of `learn.actors`, by name; none without the extra `train`."""
    try:
        from ..learn._kinds import ACTORS
    except ImportError:
        return {}
    return {name: _row_of(name, kind) for name, kind in ACTORS.items() if name not in METHODS}


def _row_on_actor(name: str, actors: Mapping[str, Any]) -> Named | None:
    """The row of a method that draws from another flow than the run's own: `qgf-on-gcbc`."""
    base, _, actor = name.partition("-on-")
    row, of = METHODS.get(base), _row_of_actor(actor, actors)
    if row is None or of is None:
        return None
    what = f"{row.what.removesuffix('.')}; of the flow of `{actor}`."
    return dataclasses.replace(
        row, name=name, what=what, label=f"{row.label} on {of.label}", actor=actor
    )


def _row_of_actor(name: str, actors: Mapping[str, Any]) -> Named | None:
    """The row of an actor of a run, or of one that could be trained."""
    if name in actors:
        return _row_of(name, type(actors[name]))
    if trained := strengths(name, actors):
        row = _row_of(name, type(actors[f"{name}-{trained[0]:g}"]))
        return dataclasses.replace(row, weighted=True, choices=trained)
    rows = learned()
    base, _, number = name.rpartition("-")
    if name in rows or not (base in rows and number.replace(".", "", 1).isdigit()):
        return rows.get(name)
    row = rows[base]
    return dataclasses.replace(row, name=name, label=f"{row.label} ({number})", actor=name)


def _row_of(name: str, kind: type) -> Named:
    what = " ".join(
        (inspect.getdoc(sys.modules[kind.__module__]) or name).partition(".")[0].split()
    )
    label = getattr(kind, "label", "") or name
    weights = getattr(kind, "weights", ())
    guides = hasattr(kind, "estimator")
    return Named(
        name,
        f"{what}.",
        label,
        getattr(kind, "colour", "#000000"),
        weighted=guides or bool(weights),
        draw=sample if guides else own_action,
        takes_best_of=True,
        actor=name,
        choices=tuple(weights),
    )


def guided(text: str, *, weight: float | LinearDecay = 1.0, steps: int = 10) -> Sampler:
    """`method`, of a method that takes a weight.

    **Raises:** `ValueError` if it is unknown, or takes none.
    """
    found = method(text, weight=weight, steps=steps)
    if not is_guided(text):
        raise ValueError(
            f"`{text}` has no weight; guided are "
            f"{', '.join(name for name, row in METHODS.items() if row.weighted)}, and the best of "
            "several of each, such as qgf-best-of-4."
        )
    return found


def estimator_of(text: str, *, steps: int = 10) -> Guidance:
    """The estimator of a guided method, as `sample` takes it with these `steps`.

    **Raises:** `ValueError` if it is unknown, takes no weight, or is more than an estimator.
    """
    found = guided(text, steps=steps)
    if found.actor:
        raise ValueError(
            f"`{text}` is of the actor `{found.actor}`, which only a run has: `evaluate` plays it."
        )
    if found.draw is not sample:
        raise ValueError(
            f"`{text}` is not a single estimator of the gradient, as is needed here: take one of "
            f"{', '.join(ESTIMATORS)}."
        )
    return found.guidance


def is_guided(text: str) -> bool:
    """Whether the method of this name takes a weight."""
    return _parse(text)[0].weighted


def label(text: str) -> str:
    """A method's name in figures and tables: `QGF`, `best-of-16`, `QGF + best-of-4`; your own
    method keeps its name."""
    try:
        row, best_of = _parse(text)
    except ValueError:
        return text
    end = ", untuned" if split_untuned(text)[1] else ""
    if best_of == 1:
        return row.label + end
    return f"best-of-{best_of}" if row.name == "flow" else f"{row.label} + best-of-{best_of}{end}"


def colour(text: str) -> str:
    """The colour of a method in figures; green for best-of-N, black for your own."""
    text = split_untuned(text)[0]
    if split_best_of(text)[1] > 1:
        return "#66a61e"
    row = METHODS.get(text.partition("-on-")[0]) or _row_of_actor(text, {})
    return "#000000" if row is None else row.colour


def split_best_of(text: str) -> tuple[str, int]:
    """The base method and the N of best-of-N: `qgf-best-of-4` is `qgf` and 4, `best-of-16` is
    `flow` and 16, any other name is itself and 1."""
    match = re.fullmatch(r"(?:(.+)-)?best-of-([1-9][0-9]{0,5})", text)
    return (match[1] or "flow", int(match[2])) if match else (text, 1)


def split_untuned(text: str) -> tuple[str, bool]:
    """The method without `-untuned` at the end of its name, and whether that was there."""
    plain = text.removesuffix("-untuned")
    return plain, plain != text


def size(weight: float | LinearDecay) -> float:
    """The number that a weight is given by: itself, or where its decay starts."""
    return float(weight.start if isinstance(weight, LinearDecay) else weight)
