"""Behaviour cloning as a flow: the policy that is guided at test time."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from ... import objectives
from ..._sample import sample
from ..._types import Action, Key, Obs, Policy
from ...data import Chunk
from ...nn import VelocityMLP, low_frequency_time, paper_time
from .._learner import Judges, Learner, Networks, Spec


@dataclass(frozen=True)
class BC(Learner):
    """A velocity field of the data's actions, by flow matching. It does not use the critic. In a
    run with goals it does not see them: it models all actions of a state."""

    paper_time: bool = False
    """The paper's time embedding and time grid, for parity: ties the flow to T = 10."""

    label: ClassVar[str] = "flow"
    colour: ClassVar[str] = "#7f7f7f"
    sees_goal: ClassVar[bool] = False

    def init(self, spec: Spec, key: Key) -> Networks:
        """The velocity field."""
        embed = paper_time if self.paper_time else low_frequency_time
        make = partial(VelocityMLP, action_shape=spec.action_shape, **self.size)
        return Networks(spec.net(partial(make, embed=embed), key, goal=self.sees_goal))

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`flow_loss`."""
        grid = partial(objectives.grid_time, steps=10)
        time = grid if self.paper_time else objectives.uniform_time
        loss = objectives.flow_matching(nets.trained, chunk.obs, chunk.action, key, time=time)
        return {"flow_loss": loss}

    def policy(self, nets: Networks) -> Policy:
        """The velocity field."""
        return nets.trained

    def act(self, nets: Networks, judges: Judges, obs: Obs, key: Key) -> Action:
        """The plain flow's action, in ten steps."""
        return sample(self.policy(nets), judges.critic, obs, key, weight=0)
