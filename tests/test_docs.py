"""Every example runs, every public name has an entry, and the README's commands are the real ones."""

import ast
import inspect
import io
import json
import pkgutil
import re
import subprocess
import sys
import tokenize
from importlib import import_module
from pathlib import Path

import pytest

import qgf_eqx

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path, language="python"):
    text = path.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    # Blank lines in front, so that an error names its line on the page.
    return ["\n" * text[: block.start(1)].count("\n") + block[1] for block in found]


TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
WITH_CODE = [p for p in PAGES if blocks(p) and p.name != "tutorials.md"]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: p.name)
def test_the_examples_of_a_page_run(unchecked, page, capsys):
    for package in ("flax", "haiku"):  # only in the `dev` extra
        if f"import {package}" in page.read_text():
            pytest.importorskip(package)
    scope: dict = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), scope)
    printed = capsys.readouterr().out
    if page.name == "README.md":
        first, shares = printed.splitlines()
        assert abs(float(first) - 3) < 0.5
        flow, qgf = map(int, re.findall(r"(\d+)%", shares))
        assert 35 < flow < 45 and qgf >= 99


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(p, marks=[pytest.mark.slow] * (p.stem == "pointmaze"), id=p.stem)
        for p in TUTORIALS
    ],
)
def test_the_tutorials_run(script, tmp_path):
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_tutorial_is_on_its_page():
    page = (ROOT / "docs" / "tutorials.md").read_text()
    assert {p.stem for p in TUTORIALS} == set(
        re.findall(r'^--8<-- "tutorials/(\w+).py"$', page, re.M)
    )


def test_the_readmes_first_example_has_four_lines():
    assert len(blocks(ROOT / "README.md")[0].strip().splitlines()) == 4


def public_names():
    for module in pkgutil.walk_packages(qgf_eqx.__path__, "qgf_eqx."):
        if not any(part.startswith("_") for part in module.name.split(".")[1:]):
            yield module.name
    for name, thing in vars(qgf_eqx).items():
        if not name.startswith("_") and not inspect.ismodule(thing):
            yield f"qgf_eqx.{name}"


def documented():
    text = "\n".join(p.read_text() for p in (ROOT / "docs").rglob("*.md"))
    return set(re.findall(r"^::: (\S+)", text, re.MULTILINE))


def test_a_public_name_without_an_entry_fails():
    undocumented = set(public_names()) - documented() - {"qgf_eqx.cli"}
    assert not undocumented


def test_an_entry_without_a_name_fails():
    for name in documented():
        try:
            import_module(name)
        except ImportError:
            assert name.removeprefix("qgf_eqx.") in vars(qgf_eqx), name


def test_every_public_function_and_class_has_a_docstring():
    for name in documented():
        try:
            module = import_module(name)
        except ImportError:
            continue
        for attribute, thing in vars(module).items():
            mine = getattr(thing, "__module__", "").startswith("qgf_eqx")
            if not attribute.startswith("_") and callable(thing) and mine:
                assert inspect.getdoc(thing), f"{name}.{attribute}"


def test_docstring_examples_run(unchecked):
    import jax
    import jax.numpy as jnp

    from qgf_eqx.nn import CriticMLP, Ensemble

    policy = qgf_eqx.analytic.GaussianFlow(jnp.zeros(2), 1.0)
    scope = {
        "qgf_eqx": qgf_eqx,
        "jax": jax,
        "Flow": qgf_eqx.Flow,
        "Ensemble": Ensemble,
        "CriticMLP": CriticMLP,
        "policy": policy,
        "critic": lambda obs, a: jnp.sum(a),
        "batch_of_obs": jnp.zeros((4, 1)),
        "key": jax.random.key(0),
        "obs": jnp.zeros(1),
        "n": 4,
        "obs_size": 3,
        "action_shape": (2,),
    }
    ran = 0
    for thing in (qgf_eqx.sample, qgf_eqx.jit_sampler, qgf_eqx.Flow, Ensemble):
        for code in re.findall(r"```python\n(.*?)```", inspect.getdoc(thing) or "", re.DOTALL):
            exec(code, dict(scope))
            ran += 1
    assert ran == 4


def test_ci_runs_the_readmes_test_command():
    command = next(b for b in blocks(ROOT / "README.md", "bash") if "pytest" in b).strip()
    assert command in (ROOT / ".ci" / "run").read_text()


def test_no_page_names_a_machine_or_an_index():
    for path in [*PAGES, *ROOT.glob("*.toml"), *ROOT.glob("*.txt"), *ROOT.glob("*.cff")]:
        text = path.read_text()
        assert not re.search(r"(^|[^A-Za-z0-9_.])/(work|root|home|tmp)/", text), path
        assert "index-url" not in text and "/simple" not in text, path


@pytest.mark.parametrize(
    ("bench", "results", "page"),
    [("closed_form", "closed_form", "estimators"), ("cost", "cost_cpu", "costs")],
)
def test_the_tables_of_a_bench_are_its_results(bench, results, page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    found = json.loads((ROOT / "benchmarks" / "results" / f"{results}.json").read_text())
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for table in import_module(bench).tables(found).split("\n\n"):
        assert table in text


def lines_of_code(path):
    """Without comments, docstrings and blank lines."""
    text, nothing = path.read_text(), (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE)
    nothing += (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_the_files_are_as_long_as_the_page_says():
    page = (ROOT / "docs" / "inside.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| .* \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) > 15
    for names, said in rows:
        paths = [ROOT / "qgf_eqx" / name for name in re.findall(r"`(.*?)`", names)]
        files = [f for p in paths for f in (p.rglob("*.py") if p.is_dir() else [p])]
        count = sum(map(lines_of_code, files))
        assert abs(count - int(said)) <= 0.1 * count + 5, (names, count)
