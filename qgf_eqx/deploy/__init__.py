"""A guided policy on a robot: the control loop, an export, a server. Needs the core only."""

from ._act import ControlLoop as ControlLoop
from ._statistics import Statistics as Statistics
