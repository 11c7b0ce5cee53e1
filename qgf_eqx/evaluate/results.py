"""What a comparison found: values, the table for people, and files.

A result is made of outcomes, one per method, training seed and episode. Rates and intervals are
computed from them, by `statistics`, when a result is made and again when a file is read.
"""

from ._results_file import as_json as as_json
from ._results_file import beside as beside
from ._results_file import paths_of as paths_of
from ._results_file import read as read
from ._results_file import read_json as read_json
from ._results_file import read_paths as read_paths
from ._results_file import write as write
from ._rows import Comparison as Comparison
from ._rows import Difference as Difference
from ._rows import Row as Row
from ._rows import Tuned as Tuned
from ._table import format_goals as format_goals
from ._table import format_outcome as format_outcome
from ._table import format_table as format_table
from ._table import interval_note as interval_note
from ._table import weight_note as weight_note
