"""Actors, one file each."""

from .cfgrl import CFGRL as CFGRL
from .dac import DAC as DAC
from .edp import EDP as EDP
from .flow import BC as BC
from .fql import FQL as FQL
from .ifql import IFQL as IFQL
from .qam import QAM as QAM
from .qsm import QSM as QSM
from .robust_q import RobustQ as RobustQ
