"""The whole chain on the real maze, small: collect, train, evaluate, plot; and bad input."""

import json
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from PIL import Image

from qgf_eqx import cli, experiment, film
from qgf_eqx.datasets import env_id, make_env
from qgf_eqx.evaluate import evaluate, method

pytestmark = pytest.mark.usefixtures("loose_promotion")

ENV = "pointmaze-medium-navigate-singletask-task1-v0"
SMALL = ["--updates", "40", "--batch", "16", "--width", "8", "--depth", "2", "--horizon", "20"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, loose_promotion):
    """A collected dataset and a trained run, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    data = ["--data-dir", str(folder / "data")]
    cli.main(["collect", "pointmaze-medium-navigate-v0", "--transitions", "2000", *data])
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
        "3",
        "--tuning-episodes",
        "2",
    ]
    cli.main(["evaluate", str(workplace / "run"), *arguments, "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed.rstrip().splitlines()[-1].startswith(f"The results are in {out}")
    assert "95 % interval" in printed and "qgf - flow" in printed
    results = json.loads(out.read_text())
    assert [row["method"] for row in results["table"]] == [
        "flow",
        "qgf",
        "best-of-2",
        "qgf-best-of-2",
    ]
    assert results["table"][2]["weight"] == 0 and results["table"][3]["weight"] > 0
    assert all(row["n"] == 3 and row["errors"] == 0 for row in results["table"])
    assert [row["weight"] for row in results["tuning"]] == [0.1, 1.0] * 2
    assert results["table"][1]["weight"] in (0.1, 1.0) and results["table"][0]["weight"] == 0
    assert results["versions"]["jax"] and results["machine"]["cores"]
    assert results["episodes"]["flow"][0]["numbers"] == "2000000..2000002"
    assert {p.name for p in out.parent.iterdir()} == {
        "results.json",
        "paths.json",
        "success.png",
        "best_of.png",
        "maze.png",
    }
    paths = json.loads(out.with_name("paths.json").read_text())
    assert len(paths["qgf"]) == 3 and np.array(paths["qgf"][0]).shape[1] == 2
    before = experiment.format_table(results)
    arguments += ["--processes", "1"]
    cli.main(["evaluate", str(workplace / "run"), *arguments, "--out", str(out)])
    assert experiment.format_table(json.loads(out.read_text())) == before  # same seeds, same table
    cli.main(["plot", str(out.parent), "--format", "svg"])
    assert (out.parent / "maze.svg").read_text().startswith("<?xml")


def test_training_again_goes_on_and_other_settings_are_refused(workplace, capsys):
    data = ["--data-dir", str(workplace / "data"), "--run-dir", str(workplace / "run")]
    cli.main(["train", "--env", ENV, *SMALL, *data])
    assert "The trained networks are in" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--env", ENV, *SMALL, *data, "--gamma", "0.5"])
    assert stop.value.code == 2
    assert "`gamma` 0.999 -> 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "antmaze-medium-navigate-v0"], "cannot be collected here"),
        (
            ["collect", "cube-single-play-v0", "--transitions", "0"],
            "`transitions` must be at least 1",
        ),
        (["train", "--env", "cube-single-play-v0"], "is no single-task environment"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "{run}", "--methods", "qfg"], "unknown method `qfg`"),
        (["evaluate", "{run}", "--episodes", "0"], "`episodes` and every one of `weights`"),
        (["evaluate", "{run}", "--weights", "-1"], "`episodes` and every one of `weights`"),
        (["evaluate", "{run}", "--steps", "0"], "`steps` must be at least 1"),
        (["evaluate", "--methods", "flow"], "`runs` is empty"),
        (
            ["collect", "pointmaze-huge-navigate-v0"],
            "OGBench has no environment `pointmaze-huge-v0`",
        ),
        (["collect", "cube-single-play-v0", "--seed", "-1"], "`seed` must not be negative"),
        (["train", "--env", "cube-single-play-singletask-task9-v0"], "OGBench has no environment"),
        (
            ["train", "--env", "cube-single-play-singletask-task1-v0", "--batch", "0"],
            "`batch` must",
        ),
        (["plot", "nowhere"], "nowhere"),
        (["plot", "{run}/config.json"], "is no results file"),
    ],
)
def test_bad_input_is_one_sentence(workplace, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main([a.format(run=workplace / "run") for a in arguments])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and message in printed and "Traceback" not in printed
    assert printed.startswith("qgf-eqx: ") and printed.count("\n") == 1


def test_a_damaged_checkpoint_is_one_sentence(workplace, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "checkpoint.safetensors"):
        (run / name).write_bytes((workplace / "run" / name).read_bytes()[:-9])
    (run / "config.json").write_bytes((workplace / "run" / "config.json").read_bytes())
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(run)])
    assert "is no checkpoint of this package, or is damaged" in capsys.readouterr().err


def test_a_second_results_file_has_figures_of_its_own(workplace, capsys):
    out = workplace / "other" / "ood.json"
    arguments = ["--methods", "ood", "--weights", "0.1", "--episodes", "1", "--out", str(out)]
    cli.main(["evaluate", str(workplace / "run"), *arguments])
    assert {p.name for p in out.parent.iterdir()} == {
        "ood.json",
        "oodpaths.json",
        "oodsuccess.png",
        "oodmaze.png",
    }


def test_runs_of_two_tasks_are_refused(workplace, tmp_path, capsys):
    run = tmp_path / "task2"
    data = ["--data-dir", str(workplace / "data")]
    cli.main(
        ["train", "--env", ENV.replace("task1", "task2"), *SMALL, *data, "--run-dir", str(run)]
    )
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(workplace / "run"), str(run)])
    assert "`runs` must be of one task" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["demo", "collect", "train", "evaluate", "plot"])
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and len(text.split()) > 40


def test_the_installed_command_starts():
    command = [sys.executable, "-m", "qgf_eqx.cli", "--help"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0 and "demo" in found.stdout


@pytest.mark.slow
def test_the_demo_wins_and_repeats_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables = []
    for out in ("one", "two"):
        cli.main(["demo", "--out", out])
        results = json.loads((tmp_path / out / "results.json").read_text())
        rates = {row["method"]: row["success"] for row in results["table"]}
        assert rates["flow"] <= 0.05 and rates["qgf"] >= 0.9
        assert all(row["n"] == 50 for row in results["table"])
        tables.append(experiment.format_table(results))
    assert tables[0] == tables[1]


def test_a_weight_is_chosen_on_episodes_and_what_was_spent_is_printed(workplace, capsys):
    run = str(workplace / "run")
    cli.main(["choose", run, "--weights", "0.1", "1", "--decays", "0.5", "--episodes", "2"])
    printed = capsys.readouterr().out
    assert [line.split("  ")[-3].strip() for line in printed.splitlines()[:3]]
    assert "Spent: 6 episodes, " in printed and " environment steps, " in printed
    assert "The weight: " in printed.splitlines()[-1]


def test_a_weight_is_chosen_offline_from_a_budget(workplace, capsys):
    arguments = ["choose", str(workplace / "run"), "--data-dir", str(workplace / "data")]
    arguments += ["--observations", "4", "--weights", "0.001", "1000"]
    cli.main([*arguments, "--budget", "0.5"])
    printed = capsys.readouterr().out
    assert "Spent: no episode, 4 observations" in printed
    assert "The weight: 0.001 (the strongest within 0.5)" in printed
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--budget", "0"])
    assert stop.value.code == 2 and "add weaker `weights`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--budget", "1", "--method", "flow"])
    assert "`flow` has no weight" in capsys.readouterr().err


def test_guidance_is_diagnosed_with_a_warning_and_a_picture(workplace, capsys):
    arguments = ["diagnose", str(workplace / "run"), "--data-dir", str(workplace / "data")]
    arguments += ["--observations", "4", "--noises", "3", "--steps", "5"]
    cli.main([*arguments, "--weight", "1e-9"])
    printed = capsys.readouterr().out
    assert printed.split()[:3] == ["t", "share", "cosine"] and "0.800" in printed
    assert "Guidance: far too weak" in printed
    assert (workplace / "run" / "diagnostics.png").stat().st_size > 10_000
    cli.main([*arguments, "--decay", "1e9", "--out", str(workplace / "strong.svg")])
    assert "very strong" in capsys.readouterr().out and (workplace / "strong.svg").exists()


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
    monkeypatch.setattr(film, "_rendering", lambda name: Painted(make_env(env_id(name))))
    run, path = workplace / "run", workplace / "film.webp"
    cli.main(["film", str(run), "--episodes", "3", "--out", str(path), "--methods", "flow", "ood"])
    printed = capsys.readouterr().out
    outcomes = evaluate(run, [method("flow"), method("ood", weight=0.1)], range(2000000, 2000003))
    for name, episodes in zip(("flow", "ood"), outcomes, strict=True):
        assert f"{name}  {sum(e.success for e in episodes)} of 3 succeed" in printed
    with Image.open(path) as shown:
        assert shown.size == (3 * 64, 2 * 48) and 5 < shown.n_frames <= 72  # equal ones merge
        first = np.asarray(shown.convert("L"))
        shown.seek(shown.n_frames - 1)
        last = np.asarray(shown.convert("L"))
    assert np.median(first) < 5 and abs(np.median(last) - 100) < 10  # 1,000 steps later
    for arguments in (["--out", "film.mp4"], ["--episodes", "0"]):
        with pytest.raises(SystemExit):
            cli.main(["film", str(run), *arguments])
        assert "must" in capsys.readouterr().err


def test_a_machine_that_cannot_render_says_what_to_set(workplace):
    code = "import sys; from qgf_eqx import cli; cli.main(['film', sys.argv[1]])"
    found = subprocess.run(
        [sys.executable, "-c", code, str(workplace / "run")],
        env={**os.environ, "MUJOCO_GL": "disabled"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2 and "set MUJOCO_GL" in found.stderr, found.stderr


def test_a_run_is_analysed_for_noise_and_value(workplace, capsys):
    run, options = str(workplace / "run"), ["--data-dir", str(workplace / "data"), "--count", "3"]
    options += ["--out", str(workplace / "figures")]
    cli.main(["analyse", "noise", run, *options])
    found = json.loads((workplace / "figures" / "noise.json").read_text())
    assert np.shape(found["methods"]["QGF"]["cosine"]) == (3, 4) and found["task"] == ENV
    cli.main(["analyse", "value", run, run, *options])
    found = json.loads((workplace / "figures" / "value.json").read_text())
    for row in found["methods"]["OOD"] + found["best-of-N"]:
        assert row["critic"] == row["judge"] and row["distance"] >= 0  # its own judge here
    values = [row["critic"] for row in found["best-of-N"]]
    assert values == sorted(values)
    assert {p.name for p in (workplace / "figures").iterdir()} >= {"noise.svg", "value.svg"}
    with pytest.raises(SystemExit):
        cli.main(["analyse", "value", run, *options])
    assert "takes 2 training runs, got 1" in capsys.readouterr().err
