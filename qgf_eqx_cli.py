"""What the command `qgf-eqx` runs: `qgf_eqx.cli`, which parses the arguments before the library is
imported, because that takes seconds. Outside of the package, whose own import is part of them."""

import importlib.util
import os
import signal
import sys


def _stop(*_) -> None:
    print("qgf-eqx: interrupted.", file=sys.stderr, flush=True)
    os._exit(130)  # nothing is open yet, and an exception would be lost in some imports


def main() -> None:
    """Runs the command line."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # of a job in the background
        signal.signal(signal.SIGINT, _stop)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a task of one's own is a module here; it hides no other
    load = _package_without_its_init()
    from qgf_eqx import cli

    def ready() -> None:
        load()
        signal.signal(signal.SIGINT, before)

    cli.main(ready=ready)


def _package_without_its_init():
    """Lets modules of the package be imported before its `__init__`, which brings in JAX; returns
    what runs that."""
    spec = importlib.util.find_spec("qgf_eqx")
    if "qgf_eqx" in sys.modules or spec is None or spec.loader is None:
        return lambda: None
    package = sys.modules["qgf_eqx"] = importlib.util.module_from_spec(spec)
    return lambda: spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
