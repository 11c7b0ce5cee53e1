"""The behaviour's own value: a critic of the policy that made the data, without improvement."""

from dataclasses import dataclass

from .._settings import setting
from .iql import IQL


@dataclass(frozen=True)
class SARSA(IQL):
    """`V` is the mean of the target critic over the data's actions, and `Q = r + discount V(s')`:
    the fixed point of SARSA, with the mean over next actions in place of the one that was recorded.

    IQL with an expectile of 0.5. Such a critic values the behaviour policy, not a better one, so
    guidance with it gains one step of policy improvement.

    Source: Rummery and Niranjan, *On-Line Q-Learning Using Connectionist Systems*, 1994.
    """

    expectile: float = setting(0.5, least=0.5, most=0.5)
    """The expectile of the value; 0.5 is the mean, and IQL's is higher."""
