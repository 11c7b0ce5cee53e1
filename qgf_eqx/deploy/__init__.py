"""A guided policy on a robot: the control loop, an export, a server. Needs the core only."""

from ._statistics import Statistics as Statistics
from .act import ControlLoop as ControlLoop
