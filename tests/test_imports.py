"""What the core brings in, what each edge says without its extra, who imports whom, no pickle."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "qgf_eqx"
EXTRAS = ["optax", "safetensors", "tqdm", "ogbench", "gymnasium", "mujoco", "matplotlib", "tyro"]
EXTRAS += ["h5py", "minari", "pyarrow", "websockets", "msgpack"]


# A process that has imported JAX, which takes seconds, and none of the package or of the extras;
# each code runs in a fork of it. Its output is written to a folder.
SERVER = """
import os, sys
import diffrax, equinox
for folder in map(str.strip, sys.stdin):
    if os.fork() == 0:
        for number, name in enumerate(("stdout", "stderr"), 1):
            os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
        exec(open(f"{folder}/code").read(), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", SERVER], text=True, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def python(server, tmp_path):
    """Runs code in a new process; gives its exit status, output and errors."""
    count = itertools.count()

    def run(code):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        (folder / "code").write_text(code)
        print(folder, file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return status, *((folder / name).read_text() for name in ("stdout", "stderr"))

    return run


@pytest.fixture
def loaded_by(python):
    def loaded(statement):
        code = f"{statement}\nimport sys\nprint([m for m in {EXTRAS} if m in sys.modules])"
        status, printed, errors = python(code)
        assert status == 0, errors
        return ast.literal_eval(printed)

    return loaded


def test_the_core_brings_in_none_of_the_extras(loaded_by):
    assert loaded_by("import qgf_eqx") == []


def test_a_control_loop_needs_the_core_only(loaded_by):
    assert loaded_by("import qgf_eqx.deploy") == []


def test_an_evaluation_of_ones_own_networks_needs_no_training_and_no_ogbench(loaded_by):
    assert loaded_by("import qgf_eqx.evaluate") == ["tqdm", "gymnasium"]


def test_the_data_need_no_extra_until_ogbench_is_asked_for(python, loaded_by):
    assert loaded_by("import qgf_eqx.data, qgf_eqx.data.formats") == []
    *_, errors = python("import sys; sys.modules['ogbench'] = None; from qgf_eqx.data import load")
    assert "pip install 'qgf_eqx[ogbench]'" in errors


def test_this_test_can_fail(loaded_by):
    assert loaded_by("import qgf_eqx, optax") == ["optax"]


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("data.ogbench", "ogbench", "ogbench"),
        ("learn", "optax", "train"),
        ("checkpoint", "safetensors", "train"),
        ("evaluate", "scipy", "evaluate"),
        ("plot", "matplotlib", "plot"),
        ("film", "PIL", "plot"),
        ("cli", "tyro", "cli"),
        ("deploy.serve", "websockets", "serve"),
        ("deploy.serve", "msgpack", "serve"),
    ],
)
def test_an_edge_without_its_extra_says_what_to_install(python, module, missing, extra):
    code = f"import sys; sys.modules[{missing!r}] = None; import qgf_eqx.{module}"
    status, _, errors = python(code)
    assert status != 0 and f"pip install 'qgf_eqx[{extra}]'" in errors


# The order in which the package may be read: a module imports only what stands before it.
CORE = [
    "_renamed",
    "_types",
    "_checks",
    "_norms",
    "_fields",
    "_diffusion",
    "_denoise",
    "guidance",
    "weights",
    "_sample",
]
CORE += ["steering", "likelihood", "objectives", "nn", "analytic", "analysis", "flops"]
CORE += ["_jit_sampler", "__init__"]
EDGES = ["engines", "_progress", "_files", "_named", "_provenance", "_run_folder"]
EDGES += [
    "deploy",
    "data",
    "datasets",
    "_static",
    "checkpoint",
    "learn",
    "train",
    "evaluate",
]
EDGES += [
    "names",
    "statistics",
    "results",
    "comparison",
    "experiment",
    "figures",
    "plot",
    "film",
    "suite",
    "cli",
]
ORDER = CORE + EDGES
ALONE = {"engines"}  # imports nothing of the package


def imported(name, source):
    """The parts of the package, files or folders in it, that the module `name` imports, wherever
    the import stands in its source. `name` is dotted; that of a folder ends in `.__init__`."""
    here, targets = ["qgf_eqx", *name.split(".")], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            targets += [[*base, alias.name] for alias in node.names]
    parts = {[*target, ""][1] for target in targets if target[0] == "qgf_eqx"}
    # What is no part is a name in `__init__`, or all of it.
    return {part if part in ORDER else "__init__" for part in parts}


def against_the_order(name, source):
    """What `name` imports and must not. A folder's files import each other as they like."""
    part, *inside = name.split(".")
    before = [] if part in ALONE else ORDER[: ORDER.index(part)]
    return imported(name, source) - {*before, *([part] if inside else [])}


def test_each_module_imports_only_what_stands_before_it():
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        assert name.split(".")[0] in ORDER, f"give {name} a place in ORDER"
        source = path.read_text()
        assert against_the_order(name, source) == set(), name
        assert not re.search(r"import_(module|_)\(\s*f?[\"'](qgf_eqx|\.)", source), name  # unseen


FORMS = {
    "import qgf_eqx.train": "train",
    "import qgf_eqx.data._load as load": "data",
    "import os, qgf_eqx.train": "train",
    "import qgf_eqx": "__init__",
    "from qgf_eqx import train as t": "train",
    "from qgf_eqx import sample": "__init__",
    "from qgf_eqx import *": "__init__",
    "from qgf_eqx.train import train": "train",
    "from qgf_eqx.data._load import load": "data",
    "from . import train": "train",
    "from . import __version__": "__init__",
    "from .train import train": "train",
    "from .data._load import load": "data",
    "def f():\n    from .train import train": "train",
    "class A:\n    def f(self):\n        import qgf_eqx.train": "train",
    "if TYPE_CHECKING:\n    from .train import Nets": "train",
    "try:\n    from .train import Nets\nexcept ImportError:\n    pass": "train",
}


@pytest.mark.parametrize("source", FORMS)
def test_every_form_of_an_import_is_seen(source):
    assert against_the_order("guidance", source) == {FORMS[source]}


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("_fields", "from .guidance import qgf", {"guidance"}),  # inside the core
        ("guidance", "from ._fields import velocity", set()),
        ("_fields", "import jax.nn, numpy\nfrom optax import sgd", set()),
        ("__init__", "from . import train, nn", {"train"}),
        ("train", "from .evaluate import rollout\nfrom .checkpoint import save", {"evaluate"}),
        ("data._load", "from ..train import Nets\nfrom .._files import sync_folder", {"train"}),
        ("data._load", "from ._error import DatasetError\nfrom . import _chunks", set()),
        ("data.__init__", "from ._load import load\nfrom .. import evaluate", {"evaluate"}),
        ("data.deep.er", "from ...cli import main\nfrom .. import _load", {"cli"}),
        ("engines._local", "from ._error import E\nfrom .._types import Key", {"_types"}),
    ],
)
def test_the_order_holds_for_relative_imports_of_any_depth(name, source, wrong):
    assert against_the_order(name, source) == wrong


def test_the_page_on_the_inside_lists_the_modules_in_this_order():
    page = (PACKAGE.parent / "docs" / "inside.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    listed = re.findall(r"`(\w+)(?:\.py|/)`", " ".join(rows))
    assert listed == [name for name in ORDER if name in listed]
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts & set(ORDER) - {"__init__"} <= set(listed)


# What the adapters of `data` agree on, to be found by name; `load` is also `checkpoint.save`'s pair.
AGREED = {"recognises", "load", "make_env", "source", "task"}


def public_names(name, source):
    """The functions and classes of a module that others may use, each with where it is defined."""
    here = ["qgf_eqx", *name.split(".")]
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            yield node.name, ".".join(here).removesuffix(".__init__")
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: -node.level], *(node.module or "").split(".")]
            for alias in node.names:
                if alias.name == alias.asname:
                    yield alias.name, ".".join(base)


def shared_names(sources):
    """Names that two public modules give to two things; the commands of `cli` are verbs' names."""
    places = {}
    for name, source in sources.items():
        private = any(part[0] == "_" and part != "__init__" for part in name.split("."))
        if not private and not name.startswith("cli") and '"""The old name' not in source[:20]:
            for found, place in public_names(name, source):
                places.setdefault(found, set()).add(place)
    return {name for name, found in places.items() if len(found) > 1 and name not in AGREED}


def test_two_public_functions_never_share_a_name():
    files = {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")
    }
    assert shared_names({name: path.read_text() for name, path in files.items()}) == set()
    toy = {"a": "def f(): 1\ndef _g(): 1", "b": "class f: 1\ndef _g(): 1\ndef g(): 1"}
    assert shared_names(toy) == {"f"}


def test_nothing_can_load_a_pickle():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "allow_pickle=True" not in text and "import pickle" not in text, path
        assert text.count("np.load(") == text.count("allow_pickle=False"), path
        assert "equinox.internal" not in text, path


def test_the_old_name_of_the_data_still_works_and_says_the_new_one(monkeypatch):
    import qgf_eqx

    monkeypatch.delitem(sys.modules, "qgf_eqx.datasets", raising=False)  # of another test
    monkeypatch.delattr(qgf_eqx, "datasets", raising=False)
    with pytest.warns(DeprecationWarning, match=r"`qgf_eqx\.datasets` is now `qgf_eqx\.data`"):
        from qgf_eqx import datasets
    from qgf_eqx import data

    assert datasets.load is data.load
