"""The command line, `qgf-eqx VERB`: one thin function per verb, options in groups.

Exit codes: 2 for wrong arguments, 1 for other errors, 130 for an interruption and 143 for
SIGTERM; each with one sentence on stderr. Verbs import what they need when they are called, so
that `--help` is quick; `train`, whose options are those of all learners, imports JAX for its own.
"""

import functools
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

try:
    import tyro
except ImportError as error:
    raise SystemExit(
        f"the command line needs more packages ({error}): pip install 'qgf_eqx[cli]'"
    ) from error

from .._named import one_of
from ._compare import choose, evaluate, film
from ._deploy import export, serve
from ._look import analyse, diagnose, methods, plot
from ._make import collect, demo
from ._refuse import as_arguments, complain, is_ours
from ._suite import suite


def train() -> None:
    """Train a critic and actors: by default a flow by behaviour cloning, and implicit
    Q-learning."""


VERBS: dict[str, Callable] = {
    verb.__name__: verb
    for verb in (
        *(demo, collect, train, evaluate, choose, diagnose, analyse, film, plot, methods),
        *(suite, export, serve),
    )
}
"""What the command line can do, by name."""

_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
_RESUMES = (
    "The same command resumes where it stopped (`diagnose`, `analyse`, `film` and "
    "`choose --budget` start again)."
)


def main(arguments: list[str] | None = None, *, ready: Callable[[], None] = lambda: None) -> None:
    """Runs the command line; errors are one sentence on stderr, and an exit code: 2 for wrong
    arguments, 1 for other errors, 130 for an interruption. `ready` is called once the
    arguments are known to be well-formed, before the work."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            if arguments == ["--version"]:
                return print(f"qgf_eqx {version('qgf_eqx')}")
            with _plain_warnings():
                verb = _parse(arguments)
                ready()
                verb()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        sentence = "the output was closed before all of it was printed."
        raise SystemExit(complain(sentence, 1)) from None
    except KeyboardInterrupt:
        raise SystemExit(complain(f"interrupted. {_RESUMES}", _INTERRUPTED)) from None
    except SystemExit as end:
        if end.code == _TERMINATED:  # raised where workers had to be ended first
            complain(f"stopped by SIGTERM. {_RESUMES}", 0)
        raise
    except Exception as error:
        known = _sentence(error)
        if known is None:
            raise
        raise SystemExit(complain(*known)) from None


def _sentence(error: Exception) -> tuple[str, int] | None:
    """What is said of an error, and the exit code; nothing, if it is a defect."""
    if is_ours(error):
        return str(error), 1
    if isinstance(error, ValueError):
        return str(error), 2
    if isinstance(error, OSError):
        of = f"{error.filename}: " if error.filename else ""
        return f"{of}{error.strerror or error}.", 1
    if isinstance(error, ImportError) and "pip install" in str(error):
        return str(error), 1
    of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if of_jax or isinstance(error, MemoryError):
        if re.search("memory|RESOURCE_EXHAUSTED|allocat", str(error), re.IGNORECASE):
            return f"memory ran out ({error}): ask for less at a time, or use smaller networks.", 1
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
        return f"`device` is not available: {error}", 2
    return None


def _parse(arguments: list[str]) -> Callable[[], None]:
    """The verb with its arguments, not yet called."""
    verbs = dict(VERBS)
    if "train" in arguments[:1]:
        from ._train import train as whole

        verbs["train"] = whole
    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        raise ValueError(f"`{arguments[0]}` is not a command; {one_of(arguments[0], verbs)}")
    with as_arguments():
        return tyro.extras.subcommand_cli_from_dict(
            {name: _later(verb) for name, verb in verbs.items()},
            prog="qgf-eqx",
            description="Q-Guided Flow: test-time guidance of flow policies. Try `qgf-eqx demo`.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )


def _later(verb: Callable) -> Callable:
    return functools.wraps(verb)(lambda *args, **options: functools.partial(verb, *args, **options))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings are sentences, without a place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: complain(f"warning: {message}", 0)
        yield
