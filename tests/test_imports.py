"""What importing the core may bring in, what each edge says without its extra, and no pickle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "qgf_eqx"
EXTRAS = ["optax", "safetensors", "tqdm", "ogbench", "gymnasium", "mujoco", "matplotlib", "tyro"]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def loaded_by(statement):
    found = python(f"{statement}\nimport sys\nprint([m for m in {EXTRAS} if m in sys.modules])")
    assert found.returncode == 0, found.stderr
    return ast.literal_eval(found.stdout)


def test_the_core_brings_in_none_of_the_extras():
    assert loaded_by("import qgf_eqx") == []


def test_this_test_can_fail():
    assert loaded_by("import qgf_eqx, optax") == ["optax"]


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("datasets", "ogbench", "ogbench"),
        ("train", "optax", "train"),
        ("checkpoint", "safetensors", "train"),
        ("plot", "matplotlib", "plot"),
        ("film", "PIL", "plot"),
        ("cli", "tyro", "cli"),
    ],
)
def test_an_edge_without_its_extra_says_what_to_install(module, missing, extra):
    found = python(f"import sys; sys.modules[{missing!r}] = None; import qgf_eqx.{module}")
    assert found.returncode != 0 and f"pip install 'qgf_eqx[{extra}]'" in found.stderr


ORDER = ["_types", "_fields", "_denoise", "guidance", "weights", "_sample", "steering"]
ORDER += ["likelihood", "objectives", "nn", "analytic", "analysis", "flops", "_jit_sampler"]
EDGES = ["datasets", "train", "evaluate", "checkpoint", "experiment", "figures", "plot", "film"]
EDGES += ["cli"]


def test_the_core_never_imports_an_edge():
    for path in [PACKAGE / f"{name}.py" for name in [*ORDER, "__init__"]]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = {node.module or "", *(alias.name for alias in node.names)}
                assert not names & set(EDGES), path


def test_nothing_can_load_a_pickle():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "allow_pickle=True" not in text and "import pickle" not in text, path
        assert text.count("np.load(") == text.count("allow_pickle=False"), path
        assert "equinox.internal" not in text, path
