"""Classifier-free guidance: a flow that knows which actions were better than the state's value."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from ... import objectives
from ..._sample import sample
from ..._types import Action, Key, Obs, Policy
from ...data import Chunk
from ...nn import VelocityMLP
from ...steering import ClassifierFree
from .._learner import Judges, Learner, Networks, Spec
from .._settings import setting


@dataclass(frozen=True)
class CFGRL(Learner):
    """A flow of `(obs, condition)`, trained on the condition "Q above V" and on none; it samples
    `v_0 + weight (v_1 - v_0)`. The critic must have a state value.

    Source: Frans et al., *Diffusion Guidance Is a Controllable Policy Improvement Operator*, 2025.
    """

    weight: float = setting(3.0, least=0)
    """The factor of the difference of the two velocities; 1 is the flow of the better actions."""
    share: float = 0.1
    """Of the unconditioned loss."""

    label: ClassVar[str] = "CFGRL"
    colour: ClassVar[str] = "#ff7f00"
    weights: ClassVar[tuple[float, ...]] = (0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0)
    """To choose from, with no training in between: the paper's from 1 to 15, and one below them."""

    def init(self, spec: Spec, key: Key) -> Networks:
        """The field of `(obs, condition)`."""
        make = partial(VelocityMLP, action_shape=spec.action_shape, **self.size)
        return Networks(spec.net(make, key, more=1))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`cfgrl_loss`."""
        if judges.value is None:
            raise ValueError("`cfgrl` needs a critic with a state value, such as `iql`.")
        obs, action = chunk.obs, chunk.action
        advantage = judges.critic(obs, action) - judges.value(obs)
        loss = objectives.cfgrl(nets.trained, advantage, obs, action, key, share=self.share)
        return {"cfgrl_loss": loss}

    def policy(self, nets: Networks) -> Policy:
        """The combined field."""
        return ClassifierFree(nets.trained, self.weight)

    def act(
        self, nets: Networks, judges: Judges, obs: Obs, key: Key, *, weight: Any = None
    ) -> Action:
        """An action of the combined field, in ten steps; of its own weight, or another."""
        weight = self.weight if weight is None else weight
        policy = ClassifierFree(nets.trained, weight)
        return sample(policy, judges.critic, obs, key, weight=0)
