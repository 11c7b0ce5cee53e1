"""Critics, one file each."""

from .dqc import DQC as DQC
from .iql import IQL as IQL
from .sarsa import SARSA as SARSA
from .td import TD as TD
