"""The whole chain on the real maze, small: collect, train, evaluate, plot; and bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from qgf_eqx import analysis, cli, figures, film, guidance
from qgf_eqx import data as datasets
from qgf_eqx import learn as training
from qgf_eqx.cli import _offline
from qgf_eqx.evaluate import comparison, evaluate
from qgf_eqx.evaluate._auto import FACTORS
from qgf_eqx.evaluate.names import method
from qgf_eqx.evaluate.results import format_table, read
from qgf_eqx.evaluate.task import dataset_of, task_of
from qgf_eqx.guidance import ood
from qgf_eqx.weights import LinearDecay

pytestmark = pytest.mark.usefixtures("loose_promotion")

ROOT = Path(__file__).parent.parent
ENV = "pointmaze-medium-navigate-singletask-task1-v0"
SMALL = ["--updates", "40", "--batch", "16", "--width", "8", "--depth", "2", "--horizon", "20"]
SMALL += ["--actors", "flow", "fql-3"]
QUICK = ["--steps", "2", "--processes", "1"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, loose_promotion):
    """A collected dataset and a trained run, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    data = ["--data-dir", str(folder / "data")]
    collected = ["pointmaze-medium-navigate-v0", "--transitions", "2000", "--processes", "1"]
    cli.main(["collect", *collected, *data])
    cli.main(["train", "--env", ENV, *SMALL, *data, "--run-dir", str(folder / "run")])
    return folder


def test_evaluate_prints_a_table_and_writes_everything(workplace, capsys):
    out = workplace / "evaluation" / "results.json"
    arguments = [
        "--methods",
        "flow",
        "qgf",
        "best-of-2",
        "qgf-best-of-2",
        "--weights",
        "0.1",
        "1",
        "--episodes",
        "2",
        "--tuning-episodes",
        "2",
    ]
    arguments += ["--extensions", "0", *QUICK]
    cli.main(["evaluate", str(workplace / "run"), *arguments, "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed.rstrip().splitlines()[-1].startswith(f"The results are in {out}")
    assert "95 % interval" in printed and "qgf - flow" in printed
    assert "n = episodes x training seeds. Intervals are over the episodes of one" in printed
    results = json.loads(out.read_text())
    assert [row["method"] for row in results["table"]] == [
        "flow",
        "qgf",
        "best-of-2",
        "qgf-best-of-2",
    ]
    assert results["table"][2]["weight"] == 0 and results["table"][3]["weight"] > 0
    assert all(row["n"] == 2 and row["errors"] == 0 for row in results["table"])
    assert {row["over"] for row in results["table"]} == {"episodes of one run"}
    assert results["runs"][0]["folder"] == "run" and results["runs"][0]["training seed"] == 0
    assert len(results["runs"][0]["checkpoint sha256"]) == 64
    assert str(workplace) not in out.read_text()
    assert [row["weight"] for row in results["tuning"]] == [0.1, 1.0] * 2
    assert results["table"][1]["weight"] in (0.1, 1.0) and results["table"][0]["weight"] == 0
    assert results["versions"]["jax"] and results["machine"]["cores"]
    assert results["episodes"]["flow"][0]["numbers"] == "2000000..2000001"
    assert {p.name for p in out.parent.iterdir()} == {
        "results.json",
        "paths.json",
        "success.png",
        "best_of.png",
        "maze.png",
    }
    paths = json.loads(out.with_name("paths.json").read_text())
    assert len(paths["qgf"]) == 2 and np.array(paths["qgf"][0]).shape[1] == 2
    before = format_table(read(out))
    cli.main(["evaluate", str(workplace / "run"), *arguments, "--out", str(out)])
    assert format_table(read(out)) == before  # same seeds, same table
    cli.main(["plot", str(out.parent), "--format", "svg"])
    assert (out.parent / "maze.svg").read_text().startswith("<?xml")


def test_training_again_goes_on_and_other_settings_are_refused(workplace, capsys):
    data = ["--data-dir", str(workplace / "data"), "--run-dir", str(workplace / "run")]
    cli.main(["train", "--env", ENV, *SMALL, *data])
    assert "The trained networks are in" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--env", ENV, *SMALL, *data, "--gamma", "0.5"])
    assert stop.value.code == 1
    assert "`gamma` 0.999 -> 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "antmaze-medium-navigate-v0"], "cannot be collected here"),
        (
            ["collect", "cube-single-play-v0", "--transitions", "0"],
            "`transitions` must be at least 1",
        ),
        (
            ["train", "--env", "cube-single"],
            "`cube-single` is not a task of OGBench. Use a name like",
        ),
        (["evaluate", "nowhere"], "nowhere is not a folder"),
        (["evaluate", "{run}", "--methods", "qfg"], "unknown method `qfg`; did you mean qgf?"),
        (["evaluate", "{run}", "--methods"], "`methods` is empty"),
        (["evaluate", "{run}", "--methods", "qgf", "qgf"], "`methods` has qgf twice"),
        (["evaluate", "{run}", "--episodes", "0"], "`episodes` must be from 1 to 10,000, got 0"),
        (["evaluate", "{run}", "--tuning-episodes", "0"], "`tuning_episodes` must be from 1"),
        (["evaluate", "{run}", "--extensions", "-1"], "`extensions` must be from 0"),
        (["evaluate", "{run}", "--weights", "-1"], "`weights` must be positive and finite, got -1"),
        (["evaluate", "{run}", "--weights", "nan"], "`weights` must be a finite number"),
        (["evaluate", "{run}", "--weights", "0.1", "inf"], "`weights` must be a finite number"),
        (["evaluate", "{run}", "--decays", "nan"], "`decays` must be a finite number"),
        (["evaluate", "{run}", "--weights", "1", "1"], "`weights` has 1.0 twice"),
        (["evaluate", "{run}", "--weights"], "`weights` is empty"),
        (["evaluate", "{run}", "--steps", "0"], "`steps` must be at least 1"),
        (["evaluate", "{run}", "--processes", "-1"], "`processes` must be at least 1, got -1"),
        (["evaluate", "{run}", "--out", "{run}"], "is a folder"),
        (["evaluate", "{run}", "--out", "{run}/config.json/e.json"], "`out` cannot be written"),
        (["evaluate", "{run}", "{run}"], "the same networks twice"),
        (["evaluate", "--methods", "flow"], "`runs` is empty"),
        (["choose", "{run}", "--episodes", "0"], "`episodes` must be from 1"),
        (["choose", "{run}", "--method", "flow"], "`flow` has no weight"),
        (["choose", "{run}", "--method", "qgf-best-of-x"], "unknown method"),
        (["choose", "{run}", "--budget", "1", "--observations", "0"], "`observations` must be at"),
        (["choose", "{run}", "--budget", "1", "--weights", "nan"], "`weights` must be positive"),
        (["choose", "{run}", "--budget", "1", "--env", "x"], "does not use --env: leave out"),
        (["choose", "{run}", "{run}", "--budget", "1"], "does not use a second run: leave out"),
        (["choose", "{run}", "--budget", "nan", *"--data-dir {data}".split()], "`budget` must not"),
        (["diagnose", "{run}", "--noises", "-1"], "`noises` must be at least 2, got -1"),
        (["diagnose", "{run}", "--noises", "1"], "`noises` must be at least 2, got 1"),
        (["diagnose", "{run}", "--observations", "0"], "`observations` must be at least 1"),
        (
            ["diagnose", "{run}", "--weight", "inf"],
            "`weight` must be a finite number in float32, got inf",
        ),
        (["diagnose", "{run}", "--decay", "nan"], "`decay` must not be negative or NaN"),
        (["diagnose", "{run}", "--out", "e.txt"], "`out` must end in .png or .svg or .pdf"),
        (["diagnose", "nowhere"], "nowhere is not a folder"),
        (["film", "{run}", "--episodes", "0"], "`episodes` must be at least 1"),
        (["film", "{run}", "--methods"], "`methods` is empty: name at least one"),
        (["film", "{run}", "--weight", "nan"], "`weight` must not be negative or NaN"),
        (["film", "{run}", "--first", "-1"], "`first` must be at least 0"),
        (["film", "{run}", "--episodes", "52"], "51 fit into a .webp"),
        (["film", "{run}", "--episodes", "205", "--out", "a.gif"], "204 fit into a .gif"),
        (["film", "{run}", "--methods", *["flow"] * 69], "`methods` has 69 panels"),
        (["demo", "--out", "{run}/config.json/e"], "`out` cannot be written into"),
        (["film", "{run}", "--out", "film.mp4"], "`out` must end in .webp or .gif"),
        (["analyse", "noise", "{run}", "--count", "0"], "`count` must be at least 1"),
        (["analyse", "noise", "nowhere"], "nowhere is not a folder"),
        (["analyse", "value", "{run}"], "takes pairs of training runs, got 1"),
        (["demo", "--processes", "0"], "`processes` must be at least 1"),
        (["collect", "cube-single-play-v0", "--processes", "-1"], "`processes` must be at least 1"),
        (
            ["collect", "pointmaze-huge-navigate-v0"],
            "OGBench has no environment `pointmaze-huge-v0`",
        ),
        (["collect", "cube-single-play-v0", "--seed", "-1"], "`seed` must be at least 0"),
        (["collect", "cube-single-play-v0", "--processes", "-1"], "`processes` must be at least 1"),
        (["evaluate", "{run}", "--processes", "0"], "`processes` must be at least 1"),
        (["train", "--env", "cube-single-play-singletask-task9-v0"], "OGBench has no environment"),
        (
            ["train", "--env", "cube-single-play-singletask-task1-v0", "--batch", "0"],
            "`batch` must",
        ),
        (["train", "--env", ENV, "--save-every", "0"], "`save_every` must be at least 1"),
        (["evalute", "{run}"], "`evalute` is not a command; did you mean `evaluate`?"),
        (["fly"], "`fly` is not a command; known are demo, collect, train, evaluate"),
        ([""], "`` is not a command;"),
        (["plot", "nowhere"], "nowhere is not a file"),
        (["plot", "{run}"], "results.json is not a file"),
        (["plot", "{run}/config.json"], "is not a results file"),
        (["plot", "{run}/checkpoint.safetensors"], "is not a JSON file"),
    ],
)
def test_bad_input_is_one_sentence(workplace, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(workplace.rglob("*"))
    places = {"run": workplace / "run", "data": workplace / "data"}
    with pytest.raises(SystemExit) as stop:
        cli.main([a.format(**places) for a in arguments])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and message in printed and "Traceback" not in printed
    assert printed.startswith("qgf-eqx: ") and printed.count("\n") == 1
    assert not list(tmp_path.iterdir()) and sorted(workplace.rglob("*")) == before, (
        "nothing is left"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["choose", "{run}", "--budget", "1", "--observations", f"{10**12}"],
        ["diagnose", "{run}", "--observations", "2", "--noises", f"{10**10}"],
        ["analyse", "noise", "{run}", "--count", f"{10**12}"],
    ],
)
def test_too_little_memory_is_one_sentence(workplace, tmp_path, capsys, arguments):
    out = {"analyse": ["--out", str(tmp_path)], "diagnose": ["--out", str(tmp_path / "d.png")]}
    arguments = [a.format(run=workplace / "run") for a in arguments] + out.get(arguments[0], [])
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--data-dir", str(workplace / "data")])
    printed = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and printed[-1].startswith("qgf-eqx: memory ran out (")


def test_a_warning_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_parse", lambda _: lambda: warnings.warn("mind this.", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.main([])
    assert capsys.readouterr().err == "qgf-eqx: warning: mind this.\n"


def test_a_damaged_checkpoint_is_one_sentence(workplace, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "checkpoint.safetensors"):
        (run / name).write_bytes((workplace / "run" / name).read_bytes()[:-9])
    (run / "config.json").write_bytes((workplace / "run" / "config.json").read_bytes())
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(run)])
    assert stop.value.code == 1
    assert "is not a checkpoint of this package, or is damaged" in capsys.readouterr().err


def test_a_second_results_file_has_figures_of_its_own(workplace, capsys):
    out = workplace / "other" / "ood.json"
    arguments = [
        "--methods",
        "ood",
        "--weights",
        "0.1",
        "--episodes",
        "1",
        *QUICK,
        "--out",
        str(out),
    ]
    cli.main(["evaluate", str(workplace / "run"), *arguments])
    assert {p.name for p in out.parent.iterdir()} == {
        "ood.json",
        "ood_paths.json",
        "ood_success.png",
        "ood_maze.png",
    }


@pytest.mark.filterwarnings("ignore:all `rewards` are -1")
def test_runs_of_two_tasks_are_refused(workplace, tmp_path, capsys):
    run = tmp_path / "task2"
    data = ["--data-dir", str(workplace / "data")]
    cli.main(
        ["train", "--env", ENV.replace("task1", "task2"), *SMALL, *data, "--run-dir", str(run)]
    )
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(workplace / "run"), str(run)])
    assert "`runs` must be of one task" in capsys.readouterr().err


SECOND = ["--seed", "1"]


@pytest.fixture(scope="module")
def second(workplace):
    """A second training seed."""
    data = ["--data-dir", str(workplace / "data")]
    run = workplace / "second"
    cli.main(["train", "--env", ENV, *SMALL, *SECOND, *data, "--run-dir", str(run)])
    return run


def test_several_runs_are_training_seeds_and_the_result_says_so(
    workplace, second, monkeypatch, capsys
):
    monkeypatch.chdir(workplace)
    arguments = ["--methods", "flow", "qgf", "--weights", "0.1", "--episodes", "2", *QUICK]
    cli.main(["evaluate", "run", "second", *arguments, "--out", "seeds/e.json"])
    printed = capsys.readouterr().out
    assert "2 x 2" in printed and "Intervals are over 2 training seeds." in printed
    results = json.loads((workplace / "seeds" / "e.json").read_text())
    assert [run["training seed"] for run in results["runs"]] == [0, 1]
    assert [run["folder"] for run in results["runs"]] == ["run", "second"]
    assert {row["over"] for row in results["table"] + results["differences"]} == {"training seeds"}
    assert [len(row["successes by run"]) for row in results["table"]] == [2, 2]
    assert results["versions"]["commit"] and results["machine"]["cores"]


def test_runs_of_two_trainings_are_refused(workplace, tmp_path, capsys):
    run, data = tmp_path / "wide", ["--data-dir", str(workplace / "data")]
    cli.main(["train", "--env", ENV, *SMALL, "--width", "16", *data, "--run-dir", str(run)])
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(workplace / "run"), str(run)])
    assert stop.value.code == 2
    assert (
        "must differ in their training seed only, but differ in actors.flow.width, actors.fql-3.width, critic.width"
        in capsys.readouterr().err
    )


def command(*arguments):
    return [sys.executable, "-m", "qgf_eqx_cli", *map(str, arguments)]


QUIET = {**os.environ, "PYTHONWARNINGS": "ignore"}
COMMITTED = "benchmarks/results/cube_single_task2.json"


@pytest.mark.parametrize("arguments", [["--help"], ["plot", "{results}"]])
def test_a_closed_output_is_one_sentence(tmp_path, arguments):
    results = tmp_path / "e.json"
    results.write_bytes((ROOT / COMMITTED).read_bytes())
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        filled = [a.format(results=results) for a in arguments]
        found = subprocess.run(
            command(*filled), stdout=closed, stderr=subprocess.PIPE, text=True, env=QUIET
        )
    assert found.returncode == 1
    assert found.stderr == "qgf-eqx: the output was closed before all of it was printed.\n"


def test_a_full_disk_is_one_sentence():
    with open("/dev/full", "w") as full:
        found = subprocess.run(command("--help"), stdout=full, stderr=subprocess.PIPE, env=QUIET)
    assert found.returncode == 1
    assert found.stderr.startswith(b"qgf-eqx: ") and found.stderr.count(b"\n") == 1


WAIT = """
def wait(*_):
    print("waiting", flush=True)
    time.sleep(60)
"""
IMPORTS = """
class Finder:
    def find_spec(name, *_):
        if name == "qgf_eqx.cli":
            wait()
"""
INTERRUPTED = {
    "import": f"{IMPORTS}\nsys.meta_path.insert(0, Finder)",
    "work": "import qgf_eqx.cli\ndef demo() -> None: wait()\nqgf_eqx.cli.VERBS['demo'] = demo",
}


@pytest.mark.parametrize("when", INTERRUPTED)
def test_an_interruption_is_one_sentence_and_code_130(when):
    code = f"import sys, time\n{WAIT}\n{INTERRUPTED[when]}\nimport qgf_eqx_cli\n"
    code += "sys.argv[1:] = ['demo']\nqgf_eqx_cli.main()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=QUIET, **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=300)
    assert process.returncode == 130
    assert printed.startswith("qgf-eqx: interrupted.") and printed.count("\n") == 1


VERBS = "demo collect train evaluate choose diagnose analyse film plot export serve"


@pytest.mark.parametrize("verb", VERBS.split())
def test_every_verb_explains_itself_without_pythons_words(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and len(text.split()) > 40
    assert "None" not in text


def test_the_installed_command_starts():
    found = subprocess.run(command("--help"), capture_output=True, text=True, env=QUIET)
    assert found.returncode == 0 and "demo" in found.stdout


@pytest.mark.slow
def test_the_demo_wins_and_repeats_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables = []
    for out in ("one", "two"):
        cli.main(["demo", "--out", out])
        results = read(tmp_path / out / "results.json")
        assert (
            results.row("flow").estimate.value <= 0.05 and results.row("qgf").estimate.value >= 0.9
        )
        assert all(row.n == 50 for row in results.table)
        tables.append(format_table(results))
        printed = capsys.readouterr().out
        assert "Step 2 of 3: train a flow and a critic, 1 time." in printed
        assert f"Look at it: qgf-eqx film {out}/seed0 --methods flow qgf" in printed
        assert "Weights tried for qgf, ood: 0.3, 1, 3" in printed
    assert tables[0] == tables[1]


def test_a_weight_is_chosen_on_episodes_and_what_was_spent_is_printed(workplace, capsys):
    run = str(workplace / "run")
    arguments = ["--weights", "0.1", "1", "--decays", "0.5", "--episodes", "2", *QUICK]
    cli.main(["choose", run, *arguments, "--method", "qgf-best-of-2"])
    printed = capsys.readouterr().out
    assert [line.split("  ")[-3].strip() for line in printed.splitlines()[:3]]
    assert "Spent: 6 episodes, " in printed and " environment steps, " in printed
    assert "all weights that were tried did equally well" in printed  # an untrained flow fails
    assert "The weight: 0.1 (report" in printed.splitlines()[-1]


def offline(workplace, *arguments):
    run, data = str(workplace / "run"), ["--data-dir", str(workplace / "data")]
    cli.main(["choose", run, *data, "--observations", "4", *arguments])


@pytest.mark.parametrize("order", [["0.001", "1000"], ["1000", "0.001"]])
def test_a_weight_is_chosen_offline_from_a_budget(workplace, capsys, order):
    offline(workplace, "--weights", *order, "--budget", "0.5", "--method", "qgf-best-of-4")
    printed = capsys.readouterr().out
    assert "Spent: no episode, 4 observations" in printed
    assert "The weight: 0.001 (the strongest within 0.5)" in printed
    with pytest.raises(SystemExit) as stop:
        offline(workplace, "--weights", *order, "--budget", "0")
    assert stop.value.code == 2 and "add weaker `weights`" in capsys.readouterr().err


def test_decays_are_further_weights_offline_too(workplace, capsys):
    offline(workplace, "--weights", "0.001", "--decays", "0.003", "--budget", "100")
    rows = capsys.readouterr().out.splitlines()[:2]
    assert [row.split("  distance")[0].strip() for row in rows] == ["0.001", "0.003 (1-t)"]


@pytest.mark.parametrize("method", ["bptt", "qgf-chain"])
def test_what_walks_to_the_end_takes_the_steps_that_are_asked_for(workplace, monkeypatch, method):
    seen, real = [], analysis.diagnose

    def spy(*arguments, **options):
        seen.append((options["guidance"].keywords["steps"], options["steps"]))
        return real(*arguments, **options)

    monkeypatch.setattr(analysis, "diagnose", spy)
    data = ["--data-dir", str(workplace / "data"), "--out", str(workplace / "d.png")]
    options = ["--method", method, "--steps", "4", "--observations", "2", "--noises", "2"]
    cli.main(["diagnose", str(workplace / "run"), *data, *options])
    assert seen[0] == (4, 4)
    chosen, real_choose = [], analysis.choose_weight

    def spy_choose(*arguments, **options):
        chosen.append(options["guidance"].keywords["steps"])
        return real_choose(*arguments, **options)

    monkeypatch.setattr(analysis, "choose_weight", spy_choose)
    offline(workplace, "--budget", "9", "--method", method, "--steps", "4", "--weights", "0.001")
    assert chosen == [4]


def test_guidance_is_diagnosed_with_a_warning_and_a_picture(workplace, capsys):
    arguments = ["diagnose", str(workplace / "run"), "--data-dir", str(workplace / "data")]
    arguments += ["--observations", "4", "--noises", "3", "--steps", "5"]
    cli.main([*arguments, "--weight", "1e-9"])
    printed = capsys.readouterr().out
    assert printed.split()[:3] == ["t", "share", "cosine"] and "0.800" in printed
    share = re.search(r"Of the data's actions (\d+)% lie at their bounds", printed)
    data = dataset_of(task_of(ENV), workplace / "data", split="val")
    acting = data.actions[np.asarray(data.episode_end) == 0]
    assert share and int(share[1]) == round(100 * np.mean(np.abs(acting) >= 0.99))
    assert "Guidance: far too weak" in printed
    assert (workplace / "run" / "diagnostics.png").stat().st_size > 10_000
    cli.main([*arguments, "--decay", "1e9", "--out", str(workplace / "strong.svg")])
    printed = capsys.readouterr().out
    assert "Guidance: strong" in printed and (workplace / "strong.svg").exists()
    assert "other critic" not in printed and f"choose {workplace / 'run'}" in printed
    other = shutil.copytree(workplace / "run", workplace / "other", dirs_exist_ok=True)
    cli.main([*arguments, "--judge", str(other), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in found["weights"]] == ["flow", *["qgf"] * 6]
    first = found["starting weight"]
    for row, factor in zip(found["weights"][1:], FACTORS, strict=True):
        assert row["judged"] == row["value"] and row["weight"] == pytest.approx(
            first * factor, rel=0.1
        )


def test_the_example_is_analysed_with_the_known_shares(tmp_path, capsys):
    cli.main(["analyse", "example", "--out", str(tmp_path)])
    assert "the figure in" in capsys.readouterr().out
    found = json.loads((tmp_path / "example.json").read_text())
    share = {name: m["share"][found["weights"].index(1.0)] for name, m in found["methods"].items()}
    known = {"flow": 0.4, "OOD": 0.0, "BPTT": 0.71, "QGF-Jacobian": 0.95, "QGF": 1.0}
    for name, expected in known.items():
        assert abs(share[name] - expected) < 0.03
    assert (tmp_path / "example.svg").read_text().startswith("<?xml")


def test_the_instability_of_bptt_is_analysed(tmp_path):
    cli.main(["analyse", "instability", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "instability.json").read_text())
    slope = {name: np.array(slopes) for name, slopes in found["slope"].items()}
    assert np.all(slope["BPTT"][:3] > 1000 * slope["QGF"][:3])  # at t = 0, .3 and .6
    assert np.allclose(slope["BPTT"][3], slope["QGF-Jacobian"][3], rtol=1e-3)  # one step is left
    ends = np.array(found["paths"])[:, :, -1], np.array(found["QGF's paths"])[:, :, -1]
    assert np.abs(ends[1] - 3).max() < 0.5 < np.abs(ends[0] - 3).max()
    assert (tmp_path / "instability.svg").read_text().startswith("<?xml")


class Painted(gymnasium.Wrapper):
    """Pictures without a graphics library: as bright as the episode is old."""

    def reset(self, **options):
        self.age = 0
        return super().reset(**options)

    def step(self, action):
        self.age += 1
        return super().step(action)

    def render(self):
        return np.full((48, 64, 3), self.age // 10, np.uint8)


def test_a_film_shows_the_episodes_that_are_evaluated(workplace, capsys, monkeypatch):
    monkeypatch.setattr(film, "_rendering", lambda task: Painted(task.make_env()))
    run, path = workplace / "run", workplace / "film.webp"
    arguments = ["--methods", "flow", "ood", "fql-3", "--episodes", "3", "--steps", "2"]
    cli.main(["film", str(run), *arguments, "--out", str(path)])
    printed = capsys.readouterr().out
    methods = [method("flow", steps=2), method("ood", weight=0.1, steps=2)]
    outcomes = evaluate(run, methods, range(2000000, 2000003), processes=1)
    for name, episodes in zip(("flow", "ood"), outcomes, strict=True):
        assert f"{name}  {sum(e.success for e in episodes)} of 3 succeed" in printed
    with Image.open(path) as shown:
        assert (
            shown.size == (3 * 256, 3 * (192 + film.STRIP)) and 5 < shown.n_frames <= 72
        )  # equal ones merge
        first = np.asarray(shown.convert("L"))
        shown.seek(shown.n_frames - 1)
        last = np.asarray(shown.convert("L"))
    assert np.median(first) < 5 and abs(np.median(last) - 100) < 10  # 1,000 steps later


def test_a_machine_that_cannot_render_says_what_to_set(workplace):
    code = "import sys; from qgf_eqx import cli; cli.main(['film', sys.argv[1]])"
    found = subprocess.run(
        [sys.executable, "-c", code, str(workplace / "run")],
        env={**os.environ, "MUJOCO_GL": "disabled"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1 and "set MUJOCO_GL" in found.stderr, found.stderr


def test_best_of_one_begins_with_the_estimators_noises(workplace, monkeypatch):
    monkeypatch.setattr(figures, "ESTIMATORS", {"flow": guidance.zero})
    run, data = workplace / "run", workplace / "data"
    found = figures.value(run, run, data, count=3, noises=4, candidates=(1, 2, 8), weights=(1.0,))
    assert found["best-of-N"][0] == pytest.approx(found["methods"]["flow"][0], abs=1e-5)
    values = [row["critic"] for row in found["best-of-N"]]
    assert values == sorted(values)
    assert set(found["actors"]) == {"fql-3"} and set(found["actors"]["fql-3"]) == set(
        found["best-of-N"][0]
    )
    for name in ("count", "noises"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
            figures.value(run, run, data, **{name: 0})


def test_a_run_is_analysed_for_noise_and_value(workplace, capsys, monkeypatch):
    run, options = str(workplace / "run"), ["--data-dir", str(workplace / "data"), "--count", "3"]
    options += ["--out", str(workplace / "figures")]
    monkeypatch.setattr(figures, "ESTIMATORS", {n: figures.ESTIMATORS[n] for n in ("OOD", "QGF")})
    cli.main(["analyse", "noise", run, *options])
    found = json.loads((workplace / "figures" / "noise.json").read_text())
    assert np.shape(found["methods"]["QGF"]["cosine"]) == (3, 4) and found["task"] == ENV
    noise = found
    other = str(shutil.copytree(run, workplace / "other", dirs_exist_ok=True))
    with pytest.raises(SystemExit):
        cli.main(["analyse", "value", run, run, *options])
    assert "is the run itself" in capsys.readouterr().err
    cli.main(["analyse", "value", run, other, *options])
    found = json.loads((workplace / "figures" / "value.json").read_text())
    for row in found["methods"]["OOD"] + found["best-of-N"]:
        assert row["critic"] == row["judge"] and row["distance"] >= 0  # its own judge here
    values = [row["critic"] for row in found["best-of-N"]]
    assert values == sorted(values)
    assert {p.name for p in (workplace / "figures").iterdir()} >= {"noise.svg", "value.svg"}
    with pytest.raises(SystemExit):
        cli.main(["analyse", "value", run, *options])
    assert "takes pairs of training runs, got 1" in capsys.readouterr().err
    cli.main(["analyse", "noise", run, run, *options])
    twice = json.loads((workplace / "figures" / "noise.json").read_text())
    assert twice["methods"]["QGF"]["cosine"] == noise["methods"]["QGF"]["cosine"]
    assert twice["runs"] == 2 and np.max(twice["methods"]["QGF"]["error"]) == 0
    cli.main(["analyse", "value", run, other, run, other, *options])
    found = json.loads((workplace / "figures" / "value.json").read_text())
    assert [row["critic"] for row in found["best-of-N"][:2]] == [0, 1]  # their gain is the unit
    assert found["best-of-N"][0]["distance"] == 1 and found["weights"] == list(FACTORS)
    assert len(found["methods"]["QGF"]) == 6


class Asked(Exception):
    """Ends a verb where it calls the library."""


def asked(monkeypatch, module, name, arguments):
    """How a verb calls the function `name` of a module."""

    def stop(*positional, **options):
        raise Asked(positional, options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stop)
        with pytest.raises(Asked) as call:
            cli.main(arguments)
    return call.value.args


def test_the_options_of_collect_reach_the_library(monkeypatch):
    arguments = ["collect", "cube-single-play-v0", "--transitions", "7", "--seed", "3"]
    arguments += ["--processes", "2", "--data-dir", "there"]
    positional, options = asked(monkeypatch, datasets, "collect", arguments)
    assert positional == ("cube-single-play-v0", Path("there"))
    assert options == {"transitions": 7, "seed": 3, "processes": 2}


@pytest.mark.parametrize("stream", [False, True])
def test_the_options_of_train_reach_the_library(workplace, monkeypatch, stream):
    arguments = ["train", "--env", ENV, *SMALL, "--save-every", "5"]
    arguments += ["--data-dir", str(workplace / "data")]
    arguments += ["--seed", "4", "--stream"] if stream else ["--seed", "4"]
    (config, data, run_dir), options = asked(monkeypatch, training, "train", arguments)
    assert (config.seed, config.updates, config.critic.width) == (4, 40, 8)
    assert data.obs.shape == (2002, 2) and run_dir == Path("runs") / ENV / "seed4"
    assert options.pop("save_every") == 5
    assert options.get("streamed", False) == stream


@pytest.mark.parametrize("reduce", ["min", "mean"])
def test_the_options_of_evaluate_and_choose_reach_the_library(workplace, monkeypatch, reduce):
    run = str(workplace / "run")
    common = ["--weights", "0.1", "0.2", "--decays", "0.3", "--episodes", "5", "--steps", "7"]
    common += ["--reduce", reduce, "--processes", "2"]
    expected = {"steps": 7, "processes": 2, "episodes": 5, "reduce": getattr(jnp, reduce)}
    arguments = ["evaluate", run, *common, "--tuning-episodes", "6", "--methods", "ood"]
    (runs, methods), options = asked(monkeypatch, comparison, "compare", arguments)
    assert runs == (workplace / "run",) and methods == ("ood",)
    assert options.items() >= {**expected, "tuning_episodes": 6}.items()
    assert options["weights"] == [0.1, 0.2] and options["decays"] == [LinearDecay(0.3)]
    arguments = ["choose", run, *common, "--method", "bptt"]
    (runs, name), options = asked(monkeypatch, comparison, "tune_weight", arguments)
    assert runs == (workplace / "run",) and name == "bptt" and options.items() >= expected.items()
    assert options["weights"] == [0.1, 0.2] and options["decays"] == [LinearDecay(0.3)]


@pytest.mark.parametrize("measure", ["distance", "kl"])
def test_the_options_of_an_offline_choice_reach_the_library(
    workplace, monkeypatch, measure, tmp_path
):
    arguments = ["choose", str(workplace / "run"), "--data-dir", str(workplace / "data")]
    arguments += ["--budget", "0.5", "--measure", measure, "--steps", "3", "--observations", "4"]
    arguments += ["--method", "ood"]
    kept = [*arguments, "--cache-dir", str(tmp_path)]
    (task, where), options = asked(monkeypatch, _offline, "dataset_of", kept)
    assert (task.name, where) == (ENV, workplace / "data")
    wanted = {"split": "val", "cache_dir": tmp_path, "instead": None}  # not what it learnt from
    assert options == wanted
    (*_, obs, _), options = asked(monkeypatch, analysis, "choose_weight", arguments)
    assert obs.shape == (4, 2) and options["budget"] == 0.5 and options["guidance"] is ood
    assert options["measure"].func is getattr(analysis, f"flow_{'kl' if measure == 'kl' else 'distance'}")  # fmt: skip
    assert options["measure"].keywords == {"steps": 3}


def test_the_options_of_analyse_reach_the_library(workplace, monkeypatch, tmp_path):
    arguments = [
        "analyse",
        "noise",
        str(workplace / "run"),
        "--count",
        "3",
        "--cache-dir",
        str(tmp_path),
    ]
    _, options = asked(monkeypatch, figures, "noise", arguments)
    where = {"cache_dir": tmp_path, "instead": None}
    assert options == {"count": 3, "reduce": jnp.min, **where}
    _, options = asked(monkeypatch, figures, "dataset_of", arguments)
    assert options == {"split": "val", **where}


def test_analyse_takes_data_of_ones_own(workplace, tmp_path):
    own, loaded = tmp_path / "own.npz", datasets.load(ENV, workplace / "data")
    np.savez(own, **loaded._asdict())
    missing = ["--data-dir", str(tmp_path), "--count", "3", "--out", str(tmp_path)]
    cli.main(["analyse", "noise", str(workplace / "run"), "--data", str(own), *missing])
    assert json.loads((tmp_path / "noise.json").read_text())["count"] == 3


@pytest.mark.parametrize("decay", [False, True])
def test_the_options_of_film_and_diagnose_reach_the_library(workplace, monkeypatch, decay):
    weight = ["--decay", "0.3"] if decay else ["--weight", "0.4"]
    common = [str(workplace / "run"), *weight, "--steps", "3", "--reduce", "mean"]
    arguments = ["film", *common, "--methods", "ood", "--episodes", "2", "--first", "11"]
    (run, (m,), numbers, path), _ = asked(monkeypatch, film, "film", arguments)
    assert run == workplace / "run" and list(numbers) == [11, 12] and path == run / "film.webp"
    assert (m.estimator, m.steps, m.reduce) == (ood, 3, jnp.mean)
    shown = "0.3 (1-t)" if decay else "0.4"
    assert str(m.weight) == shown
    arguments = ["diagnose", *common, "--data-dir", str(workplace / "data"), "--method", "ood"]
    (_, critic, obs, _), options = asked(monkeypatch, analysis, "diagnose", arguments)
    assert options["guidance"] is ood and options["steps"] == 3 and str(options["weight"]) == shown
    point = jnp.ones(2), jnp.zeros((20, 2))
    np.testing.assert_allclose(critic(*point), np.mean(options["values"](*point)), rtol=1e-5)


def test_two_ways_to_reduce_the_critics_are_two_evaluations(workplace):
    """Whichever was evaluated before: the compiled samplers of a process are kept."""
    guided = method("qgf-best-of-4", weight=30.0)
    methods = [replace(guided, reduce=reduce) for reduce in (jnp.min, jnp.max)]
    options = {"record": True, "processes": 1, "progress": False}
    ((one,), (other,)) = evaluate(workplace / "run", methods, range(1), **options)
    assert one.path[0] == other.path[0] and one.path != other.path
    ((again,),) = evaluate(workplace / "run", methods[:1], range(1), seed=1, **options)
    assert again.path != one.path


@pytest.mark.parametrize(("success", "colour"), [(True, (60, 180, 75)), (False, (110, 110, 110))])
def test_the_last_picture_of_an_episode_says_how_it_ended(success, colour):
    """Framed in green if it succeeded; the pictures before have no frame."""
    frames = [(i, np.full((48, 64, 3), 9, np.uint8)) for i in range(3)]
    *before, last = film._captioned(frames, "qgf: it ended", success)
    top, (width, height) = film.STRIP, last.size
    assert (width, height) == (4 * 64, 4 * 48 + top)  # enlarged, so that there is room for words
    corners = [(0, top), (width - 1, top), (0, height - 1), (width - 1, height - 1)]
    assert all(last.getpixel(corner) == colour for corner in corners)
    assert all(picture.getpixel(corner) == (9, 9, 9) for picture in before for corner in corners)


@pytest.mark.parametrize(("length", "stride"), [(3, 1), (69, 1), (70, 2), (1000, 16)])
def test_a_film_of_any_length_has_enough_pictures_and_not_too_many(length, stride):
    env = film._Filmed(Painted(gymnasium.make("CartPole-v1").unwrapped), None)
    env.env.step = lambda action: (None, 0.0, env.count + 1 == length, False, {})
    env.reset()
    for _ in range(length):
        env.step(0)
    found = [count for count, _ in env.frames]
    assert env.stride == stride and len(found) <= film.MOST
    assert found == sorted({*range(0, length, stride), length})


def test_a_caption_covers_nothing_and_fits():
    frames = [(0, np.full((64, 64, 3), 9, np.uint8))]
    name = "a-method-with-a-name-of-its-own-best-of-16: no success"
    (panel,) = film._captioned(frames, name, False)
    strip = np.asarray(panel)[: film.STRIP].max(axis=2)
    assert strip.max() > 200 and strip[:, -6:].max() == 0  # it ends before the edge does
    assert (np.asarray(panel)[film.STRIP + 6 : -6, 6:-6] == 9).all()


def test_a_panel_whose_episode_has_ended_stands_still():
    def panel(*greys):
        return [Image.new("RGB", (4, 4), (grey,) * 3) for grey in greys]

    rows = [[panel(1, 2, 3), panel(4)], [panel(5, 6), panel(7, 8, 9)]]
    for i, shown in enumerate([(1, 4, 5, 7), (2, 4, 6, 8), (3, 4, 6, 9)]):
        picture = film._tile(rows, i)
        found = [picture.getpixel(at)[0] for at in ((0, 0), (4, 0), (0, 4), (4, 4))]
        assert picture.size == (8, 8) and tuple(found) == shown
