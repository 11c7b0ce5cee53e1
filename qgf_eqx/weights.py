"""What `weight` may be besides a number: functions of `(t, v, g)`, the time, velocity and gradient.

Any function will do; these are Modules, so that they can be compared, stored and passed to `jit`
without compiling again.
"""

import equinox as eqx
from jaxtyping import Array, Float

from ._types import Action, Time


class LinearDecay(eqx.Module):
    """A weight that falls linearly to zero: `w(t) = start (1 - t)`.

    The last steps, which nothing corrects any more, are hardly guided. Its mean over the flow is
    half of `start`.
    """

    start: float | Float[Array, ""]

    def __call__(self, t: Time, v: Action, g: Action) -> Time:
        """The weight at time `t`."""
        return self.start * (1 - t)

    def __str__(self) -> str:
        return f"{self.start:g} (1-t)"
