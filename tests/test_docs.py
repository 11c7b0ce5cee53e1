"""The README's examples run, the pages' commands and tables are real, and the site's build can fail."""

import ast
import functools
import inspect
import io
import json
import re
import shlex
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


def test_the_readmes_examples_run(unchecked, capsys):
    scope: dict = {}
    for block in blocks(ROOT / "README.md"):
        exec(compile(block, "README.md", "exec"), scope)
    flow, qgf = map(int, re.findall(r"(\d+)%", capsys.readouterr().out))
    assert 35 < flow < 45 and qgf >= 99


@pytest.fixture
def hooks(monkeypatch):
    """What the build of the site does; it runs the pages' own snippets, and the tutorials' cells."""
    pytest.importorskip("mkdocs", reason="the site is built with the `docs` extra")
    monkeypatch.syspath_prepend(ROOT / "docs")
    return import_module("hooks")


@pytest.mark.parametrize(("value", "fails"), [(2, False), (3, True)])
def test_a_snippet_that_fails_fails_the_build(hooks, tmp_path, value, fails):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(
        "# Page\n\n```python\nprint('two is', 1 + 1)\n```\n\n"
        f"```python hidden\nassert 1 + 1 == {value}\n```\n"
    )
    (tmp_path / "part.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'docs')!r})\n"
        "from hooks import on_page_markdown\n"
    )
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: page\nhooks: [part.py]\nplugins: [markdown-exec]\n"
        "markdown_extensions: [pymdownx.superfences, md_in_html]\n"
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert "two is 2" in page
    if fails:
        assert "AssertionError" in done.stderr
    else:
        assert "assert 1 + 1" not in page, "what is hidden is not shown"


def test_a_public_name_without_an_entry_fails_the_build(hooks, tmp_path):
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.exceptions import PluginError
    from mkdocstrings import Inventory

    config, names = MkDocsConfig(), hooks.public_names()
    assert {"qgf_eqx.sample", "qgf_eqx.guidance.qgf", "qgf_eqx.data.ogbench.load"} < names
    config.load_dict({"site_dir": str(tmp_path)})

    def build(names):
        inventory = Inventory()
        for name in names:
            inventory.register(name, "py", "function", f"api/#{name}")
        (tmp_path / "objects.inv").write_bytes(inventory.format_sphinx())
        hooks.on_post_build(config)

    build(names)
    with pytest.raises(PluginError, match=r"docs/api: qgf_eqx\.data\.ogbench\.load$"):
        build(names - {"qgf_eqx.data.ogbench.load"})


def test_a_tutorial_becomes_a_page(hooks, tmp_path):
    script = tmp_path / "short.py"
    script.write_text("# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\nprint(1)\n")
    page = hooks.tutorial(script)
    assert page.startswith("# Title\n\n[The script](short.py)")
    assert "\n\nWords.\n\n```python\nprint(1)\n```\n" in page


@pytest.mark.slow  # the site's build runs them too
@pytest.mark.parametrize("script", TUTORIALS, ids=lambda path: path.stem)
def test_the_tutorials_run(script, tmp_path):
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readmes_first_example_has_four_lines():
    assert len(blocks(ROOT / "README.md")[0].strip().splitlines()) == 4


def documented():
    text = "\n".join(p.read_text() for p in (ROOT / "docs").rglob("*.md"))
    return set(re.findall(r"^::: (\S+)", text, re.MULTILINE))


def test_an_entry_without_a_name_fails():
    for name in documented():
        try:
            import_module(name)
        except ImportError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(import_module(module), attribute), name


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


def slug(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_the_links_outside_the_site_lead_somewhere(page):
    # Those between the site's pages are checked by its build.
    links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for target, anchor in links:
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            assert anchor in map(slug, headings), f"{target}#{anchor}"


def commands():
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.search(r"(?:^|[ /])qgf-eqx (.*)", line):
                    yield pytest.param(found[1], id=f"{page.name}: {found[1][:40]}")


@pytest.mark.parametrize("line", list(commands()))
def test_the_commands_of_the_pages_are_those_of_the_program(line, monkeypatch):
    from qgf_eqx import cli
    from qgf_eqx.cli import _train

    called = []

    def stub(verb):
        return functools.wraps(verb)(lambda *_, **__: called.append(verb))

    monkeypatch.setattr(cli, "VERBS", {name: stub(verb) for name, verb in cli.VERBS.items()})
    monkeypatch.setattr(_train, "train", stub(_train.train))
    cli.main(shlex.split(line, comments=True))
    assert len(called) == 1


def test_ci_runs_the_readmes_test_command():
    command = next(b for b in blocks(ROOT / "README.md", "bash") if "pytest" in b).strip()
    assert command in (ROOT / ".ci" / "run").read_text()


def test_no_page_names_a_machine_or_an_index():
    for path in [*PAGES, *ROOT.glob("*.toml"), *ROOT.glob("*.txt"), *ROOT.glob("*.cff")]:
        text = path.read_text()
        assert not re.search(r"(^|[^A-Za-z0-9_.])/(work|root|home|tmp)/", text), path
        assert "index-url" not in text and "/simple" not in text, path


@pytest.mark.parametrize(
    ("bench", "results", "pages"),
    [
        ("studies.closed_form", "closed_form", "estimators"),
        ("cost.report", "cost_cpu", "costs compared"),
        ("cost.against_lean", "cost_cpu_lean", "compared"),
        ("studies.worth", "worth_cube", "costs"),
    ],
)
def test_the_tables_of_a_bench_are_its_results(bench, results, pages):
    found = json.loads((ROOT / "benchmarks" / "results" / f"{results}.json").read_text())
    text = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in pages.split())
    for table in import_module(f"benchmarks.{bench}").tables(found).split("\n\n"):
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_a_page_fits_beside_the_navigation(page):
    """88 columns are never cut; the site folds text."""
    for kind in ("python", "bash", "text", "toml"):
        for block in blocks(page, kind):
            assert max(map(len, block.splitlines()), default=0) <= 88, block
