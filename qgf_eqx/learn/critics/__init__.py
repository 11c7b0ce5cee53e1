"""Critics, one file each."""

from .iql import IQL as IQL
from .td import TD as TD
