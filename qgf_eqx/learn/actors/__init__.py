"""Actors, one file each."""

from .cfgrl import CFGRL as CFGRL
from .dac import DAC as DAC
from .distill import Distill as Distill
from .edp import EDP as EDP
from .flow import BC as BC
from .fql import FQL as FQL
from .gcbc import GCBC as GCBC
from .ifql import IFQL as IFQL
from .qam import QAM as QAM
from .qam_edit import QAMEdit as QAMEdit
from .qsm import QSM as QSM
from .robust_q import RobustQ as RobustQ
