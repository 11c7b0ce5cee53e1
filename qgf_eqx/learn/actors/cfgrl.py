"""Classifier-free guidance: a flow that knows which actions were better than the state's value."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ... import objectives
from ..._sample import sample
from ..._types import Action, Key, Obs, Policy
from ...data import Chunk
from ...nn import VelocityMLP
from ...steering import ClassifierFree
from .._learner import Judges, Learner, Networks, Spec


@dataclass(frozen=True)
class CFGRL(Learner):
    """A flow of `(obs, condition)`, trained on the condition "Q above V" and on none; it samples
    `v_0 + weight (v_1 - v_0)`. The critic must have a state value.

    Source: Frans et al., *Diffusion Guidance Is a Controllable Policy Improvement Operator*, 2025.
    """

    weight: float = 3.0
    """Of the difference of the two fields; 1 is the flow of the better actions."""
    share: float = 0.1
    """Of the unconditioned loss."""

    def init(self, spec: Spec, key: Key) -> Networks:
        """The field of `(obs, condition)`."""
        make = partial(VelocityMLP, spec.obs_size + 1, spec.action_shape, **self.size)
        return Networks(make(key=key))

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

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """An action of the combined field, in ten steps."""
        return sample(self.policy(nets), judges.critic, obs, key, weight=0)
