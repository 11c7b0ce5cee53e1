"""`choose --budget`: a weight without an episode."""

import time
from pathlib import Path

import jax

from .. import analysis
from ..evaluate._auto import first_weight, grid_around
from ..evaluate.comparison import check_weights
from ..evaluate.names import estimator_of
from ._offline import open_offline
from ._options import Common, DataFiles, Drawing, Grid


def choose_offline(
    common: Common,
    run: Path,
    method: str,
    grid: Grid,
    flow: Drawing,
    recorded: DataFiles,
    *,
    budget: float,
    measure: str,
    observations: int,
) -> None:
    """The strongest weight within a budget of distance or KL divergence to the plain flow."""
    estimator, start = estimator_of(method, steps=flow.steps), time.perf_counter()
    given, decays = grid.options["weights"], grid.options["decays"]
    if given is not None:
        check_weights([*given, *decays])
    (policy, critic, *_), obs = open_offline(run, observations, flow, recorded)
    around = given if given is not None else grid_around(first_weight(policy, critic, obs))
    weights = [*around, *decays]
    kind = {"distance": analysis.flow_distance, "kl": analysis.flow_kl}[measure]
    found = analysis.choose_weight(
        policy,
        critic,
        obs,
        jax.random.key(0),
        weights=weights,
        budget=budget,
        measure=jax.tree_util.Partial(kind, steps=flow.steps),
        guidance=estimator,
    )
    for weight, mean, error in zip(weights, found.spent, found.error, strict=True):
        common.say(f"{weight!s:>12}  {measure} {mean:.4f} +- {error:.4f}")
    common.say(
        f"Spent: no episode, {observations} observations, {time.perf_counter() - start:.0f} s"
    )
    if found.weight is None:
        raise ValueError(f"no weight is within the budget of {budget}: add weaker `weights`.")
    text = f"The weight: {found.weight} (the strongest within {budget})"
    common.result({"weight": str(found.weight), "budget": budget, "measure": measure}, text)
