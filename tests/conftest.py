"""Strict promotion, warnings as errors, types checked at run time: only in the tests."""

import os
import signal
import sys
from pathlib import Path

import jax
import jaxtyping
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # for `benchmarks`

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Half of the suite's time is compiling: what a worker, a process that a test starts, or an
    # earlier run of the suite has compiled is read back.
    programs = {
        "jax_compilation_cache_dir": str(ROOT / ".cache" / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in programs.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job, whose children would ignore the Ctrl-C that tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

_hook = jaxtyping.install_import_hook("qgf_eqx", "beartype.beartype")
_hook.__enter__()


@pytest.fixture
def x64():
    """float64 for the length of a test: the oracles are exact to 1e-9 and better."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def unchecked():
    """No run-time types: what a user gets for bad input, and not what the tests' hook says."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def loose_promotion():
    """For what trains with Optax, which does not keep to strict promotion."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module", autouse=True)
def _free_programs():
    """A file's compiled programs are of no use to the next file, and take gigabytes together."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _leaves_nothing_behind():
    """A test that writes beside the code would have its files committed one day."""
    before = set(ROOT.iterdir())
    yield
    left = [path.name for path in set(ROOT.iterdir()) - before if path.name[0] != "."]
    assert not left, f"left in the working tree: {left}"
