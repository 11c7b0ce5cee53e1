"""Fitted Q evaluation: what a policy would be worth, from logged episodes, without playing it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._checks import check_count
from .._types import Action, Critic, Key, Obs
from ..data import Chunk, Dataset, check_horizon
from ..data.goals import Hindsight
from ._config import TrainConfig
from ._learner import Judges, Networks, Spec
from ._units import action_range, fit_units
from ._updates import init, make_updates, stacked
from .critics import TD


def fitted_q(
    dataset: Dataset,
    act: Callable[[Obs, Key], Action],
    *,
    horizon: int,
    gamma: float,
    updates: int = 5000,
    batch: int = 256,
    seed: int = 0,
    critic: TD = TD(width=128, depth=2, learning_rate=1e-3, critics=2, rho=0.0),  # noqa: B008 (frozen)
) -> Critic:
    """The Q function of a policy, guided or not, by temporal differences on logged transitions:

    `Q(s, a) <- r + gamma^H Q(s', act(s', key))`

    It has seen only logged states and actions: where the policy leaves them, it extrapolates,
    usually too high. Use it to compare two policies, with several seeds, and trust it less the
    further guidance goes (`analysis.flow_distance`).

    **Arguments:**

    - `dataset`: the episodes; observations are rows of numbers.
    - `act`: the policy: a chunk of `horizon` actions for one observation, such as
      `lambda obs, key: sample(policy, critic, obs, key, weight=0.1)`.
    - `gamma`: the discount of one step, that of the critic which guides.
    - `updates`, `batch`, `seed`: of the fit. An update draws `batch` actions of the policy.
    - `critic`: sizes and settings; `rho` is pessimism: use 0 to compare policies.

    **Returns:** a critic, `(obs, action) -> value`, the mean of the target ensemble. The policy's
    value is its mean over start states and actions of `act`.

    **Raises:** `DatasetError` if no chunk of that length is in the data; `ValueError` for counts
    that are not positive, and observations that are not rows of numbers.

    Source: Le, Voloshin and Yue, *Batch Policy Learning under Constraints*, 2019.
    """
    check_count("updates", updates, "it counts gradient steps")
    if not hasattr(dataset.obs, "ndim") or dataset.obs.ndim != 2:
        raise ValueError(
            "`dataset` must have rows of numbers as observations: join the parts of a dict, or "
            "give features of them."
        )
    team: Any = {"critic": critic, "actors": {"given": _Given(act)}, "next_actor": "given"}
    config = TrainConfig("fitted", updates, batch, horizon, gamma, seed, **team)
    check_horizon(dataset, horizon)
    units = fit_units(config, dataset)
    shape = horizon, dataset.actions.shape[1]
    spec = Spec(dataset.obs.shape[1], shape, *action_range(dataset, units))
    run = make_updates(config, spec, units, hindsight=Hindsight())
    state, _ = run(jax.tree.map(jnp.asarray, dataset), stacked([init(config, spec)]), updates)
    nets = jax.tree.map(lambda leaf: leaf[0] if isinstance(leaf, jax.Array) else leaf, state.nets)
    return nets["critic"].kept


@dataclass(frozen=True)
class _Given:
    """An actor that is not trained."""

    function: Callable[[Obs, Key], Action]

    def init(self, spec: Spec, key: Key) -> Networks:
        return Networks(jnp.zeros(()))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        return {"none": 0 * nets.trained}

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        return self.function(obs, key)

    def follow(self, nets: Networks) -> Networks:
        return nets

    def optimizer(self) -> optax.GradientTransformation:
        return optax.identity()
