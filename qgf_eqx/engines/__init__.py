"""Where many things run: an engine maps a function over cells. Imports none of the other parts.

An engine has one method, `map(function, cells) -> iterator of (cell, result)`: results come as
they complete, and an exception of a cell ends all of them and reaches the caller.
"""

from ._local import EngineError as EngineError
from ._local import Local as Local
