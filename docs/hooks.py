"""The build of the site: every snippet is run, a public name without an entry fails."""

import importlib
import inspect
import json
import pkgutil
import re
import warnings
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File
from mkdocstrings import Inventory

import qgf_eqx

FENCE = re.compile(
    r"^```python(?P<hidden> hidden)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)
PICTURE = re.compile(r'"([\w-]+\.(?:svg|png|webp))"')
SHOW = """\
```python exec="1" html="1" workdir="{folder}"
import base64, mimetypes, pathlib
data = base64.b64encode(pathlib.Path("{name}").read_bytes()).decode()
kind = mimetypes.guess_type("{name}")[0]
print(f'<img alt="what the code above drew, {name}" src="data:{{kind}};base64,{{data}}">')
```
"""


@event_priority(100)  # before the link check notes which pages there are
def on_files(files, config):
    """A tutorial, a script of `# %%` cells, becomes a page; the live page gets its labels."""
    for script in sorted(Path(config.docs_dir, "tutorials").glob("*.py")):
        name = f"tutorials/{script.stem}.md"
        files.append(File.generated(config, name, content=tutorial(script)))
    files.append(File.generated(config, "live/labels.js", content=labels()))
    return files


def labels():
    """The methods' labels by name, as a module of JavaScript."""
    from qgf_eqx.evaluate.names import METHODS

    known = {name: row.label for name, row in METHODS.items()}
    return f"export const LABELS = {json.dumps(known)};\n"


def tutorial(script):
    """The cells in Markdown."""
    _, *cells = CELL.split(script.read_text())
    parts = []
    for kind, text in zip(cells[::2], cells[1::2], strict=True):
        if kind:
            parts.append(re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip())
        else:
            parts.append(f"```python\n{text.strip()}\n```")
    title, *rest = parts[0].split("\n", 1)
    parts[0] = (
        f"{title}\n\n[The script]({script.name}), with its cells.\n\n{''.join(rest)}"
    )
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown, page, config, **_):
    """Python is run, a session a page. What it prints stands below it, what it draws too."""
    root = Path(config.config_file_path).parent
    scratch = page.file.src_uri.startswith("tutorials/")  # they write files
    folder = root / "runs" / "docs" if scratch else root
    folder.mkdir(parents=True, exist_ok=True)

    def run(found):
        code, options = (
            found["code"],
            f'exec="1" session="{page.file.src_uri}" workdir="{folder}"',
        )
        if not found["hidden"]:
            options += (
                ' source="block" result="text"'
                if "print(" in code
                else ' source="above"'
            )
        drawn = PICTURE.findall(code) if scratch else []
        pictures = [SHOW.format(folder=folder, name=name) for name in drawn]
        return "\n".join([f"```python {options}\n{code}```", *pictures])

    return FENCE.sub(run, markdown)


def on_post_build(config):
    """The API reference is complete."""
    with open(Path(config.site_dir, "objects.inv"), "rb") as file:
        missing = public_names() - set(Inventory.parse_sphinx(file))
    if missing:
        raise PluginError(
            f"public names without an entry in docs/api: {', '.join(sorted(missing))}"
        )


def public_names():
    """Modules, and the functions and classes that they own."""
    names = set()
    walked = pkgutil.walk_packages(qgf_eqx.__path__, "qgf_eqx.")
    for module in ["qgf_eqx", *(m.name for m in walked)]:
        if "._" in module or module.startswith("qgf_eqx.cli"):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # an old name says the new one
            found = importlib.import_module(module)
        if (found.__doc__ or "").startswith("The old name of"):
            continue
        names |= {module} - {"qgf_eqx"}
        for name, thing in vars(found).items():
            owner = re.sub(r"\._.*", "", getattr(thing, "__module__", None) or "")
            mine = owner == module and (
                inspect.isfunction(thing) or inspect.isclass(thing)
            )
            if mine and not name.startswith("_"):
                names.add(f"{module}.{name}")
    return names
