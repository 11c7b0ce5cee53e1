"""Progress of long work: a bar on a terminal, a line every half minute in a log."""

import sys
from typing import Any

SECONDS = 30.0
"""Between two lines of a log."""


def bar(
    total: int,
    what: str,
    unit: str,
    *,
    show: bool,
    initial: int = 0,
    position: int = 0,
    scale: bool = False,
) -> Any:
    """A `tqdm` bar, on stderr.

    **Arguments:**

    - `total`, `initial`: of the units, and how many of them were done before.
    - `what`, `unit`: in words.
    - `show`: whether it is shown at all.
    - `scale`: whether thousands are `k`.
    - `position`: the line on the terminal, where several bars are shown.
    """
    from tqdm import tqdm

    options: dict[str, Any] = {"total": total, "initial": initial, "desc": what}
    options |= {"unit": f" {unit}", "position": position, "disable": not show, "unit_scale": scale}
    if sys.stderr.isatty():
        return tqdm(**options)

    class Log(tqdm):
        monitor_interval = 0  # the thread that would draw it again every ten seconds

    options |= {"file": _Lines(), "mininterval": SECONDS, "delay": SECONDS, "position": 0}
    return Log(**options, ascii=True, ncols=100)


class _Lines:
    """stderr, on which what would overwrite a line is a line of its own."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            print(text, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
