"""Networks that fit the protocols: plain Equinox modules, unbatched."""

from ._ensemble import Ensemble as Ensemble
from ._ensemble import LeastMember as LeastMember
from ._ensemble import LowerBound as LowerBound
from ._mlp import CriticMLP as CriticMLP
from ._mlp import TimedCriticMLP as TimedCriticMLP
from ._mlp import ValueMLP as ValueMLP
from ._mlp import VelocityMLP as VelocityMLP
from ._pictures import Encoded as Encoded
from ._pictures import ImpalaEncoder as ImpalaEncoder
from ._pictures import ObsEncoder as ObsEncoder
from ._pictures import PictureShape as PictureShape
from ._time import low_frequency_time as low_frequency_time
from ._time import paper_time as paper_time
