"""Many trainings and evaluations from one file: a plan, what of it is missing, and the report."""

from ._cells import Cell as Cell
from ._cells import cells_of as cells_of
from ._cells import others as others
from ._cells import sizes_of as sizes_of
from ._cells import spent as spent
from ._measure import Measured as Measured
from ._measure import format_measured as format_measured
from ._measure import measure as measure
from ._plan import Plan as Plan
from ._plan import PlanError as PlanError
from ._plan import Study as Study
from ._plan import read_plan as read_plan
from ._plan import unavailable as unavailable
from ._report import write_report as write_report
from ._run import SuiteError as SuiteError
from ._run import run_suite as run_suite
