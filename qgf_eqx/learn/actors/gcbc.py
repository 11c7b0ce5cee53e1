"""Goal-conditioned behaviour cloning: the flow of what the data did on the way to a goal."""

from dataclasses import dataclass
from typing import ClassVar

from .flow import BC


@dataclass(frozen=True)
class GCBC(BC):
    """As `BC`, but for that it sees the goal, which lies ahead in the same episode. In a run
    without goals the two are the same.

    Source: Ghosh et al., *Learning to Reach Goals via Iterated Supervised Learning*, 2021.
    """

    label: ClassVar[str] = "GCBC"
    colour: ClassVar[str] = "#d4a017"
    sees_goal: ClassVar[bool] = True
