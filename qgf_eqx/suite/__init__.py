"""Many trainings and evaluations from one file: a plan, what of it is missing, and the report."""

from .cells import Cell as Cell
from .cells import cells_of as cells_of
from .cells import sizes_of as sizes_of
from .cells import spent as spent
from .plan import Plan as Plan
from .plan import PlanError as PlanError
from .plan import Study as Study
from .plan import read_plan as read_plan
from .report import write_report as write_report
from .run import SuiteError as SuiteError
from .run import run_suite as run_suite
