"""A guided policy on a robot: the control loop, an export, a server. Needs the core only."""

from .act import ControlLoop as ControlLoop
from .act import Statistics as Statistics
