"""Suites: a plan from a file, run in pieces and on several engines, and its report."""

import json
import os
import queue
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import bounded, cli, figures, flops, sample
from qgf_eqx.engines import Local, Ray, Slurm, by_name
from qgf_eqx.evaluate import across
from qgf_eqx.evaluate.results import read
from qgf_eqx.learn import load_run
from qgf_eqx.suite import (
    PlanError,
    SuiteError,
    _run,
    cells_of,
    others,
    read_plan,
    run_suite,
    sizes_of,
    write_report,
)
from qgf_eqx.suite._report import comparisons, outcomes_of

pytestmark = pytest.mark.usefixtures("loose_promotion")

PLAN = """
name = "small"
seeds = [0, 1]
methods = ["flow", "qgf"]
episodes = 3
tuning_budget = 4
weights = [0.1, 1.0]

[train]
updates = 6
batch = 8
horizon = 2
learners = { width = 8, depth = 1 }

[[tasks]]
env = "toy:make_array_task"

[[tasks]]
env = "toy:make_room"
updates = 4
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(PLAN)
    return path


def files(out):
    """The results, but for when they were made."""
    found = {}
    for path in sorted((out / "play").glob("*.json")):
        content = json.loads(path.read_text())
        found[path.name] = content["episodes"], content["table"]
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory, loose_promotion):
    """A suite that ran without an interruption."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "small.toml").write_text(PLAN)
    run_suite(read_plan(folder / "small.toml"), folder / "out", processes=1, progress=False)
    return folder / "out"


@pytest.mark.parametrize(
    ("methods", "actors"),
    [
        (["flow", "qgf"], ["flow"]),
        (["fql", "best-of-4"], ["flow", "fql-3", "fql-10", "fql-30"]),
        (["cfgrl"], ["flow", "cfgrl"]),
    ],
)
def test_of_a_presets_actors_those_are_trained_that_are_played(tmp_path, methods, actors):
    text = f'seeds = [0]\nmethods = {methods}\n[[tasks]]\npreset = "cpu/pointmaze-medium"\n'
    (tmp_path / "plan.toml").write_text(text)
    assert list(read_plan(tmp_path / "plan.toml").studies[0].config.actors) == actors


def test_a_plan_is_read_and_what_a_task_sets_goes_over_all(file):
    plan = read_plan(file)
    first, second = plan.studies
    assert (first.config.updates, second.config.updates) == (6, 4)
    assert first.config.critic.width == 8 and first.seeds == (0, 1)
    assert sizes_of(plan) == {"data": 2, "train": 4, "play": 4}
    file.write_text(PLAN.replace('env = "toy:make_room"', 'preset = "cpu/pointmaze-medium"'))
    preset = read_plan(file).studies[1].config
    assert (preset.updates, preset.batch, preset.gamma, preset.critic.depth) == (4, 8, 0.99, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "episodes = 3",
            "episodes = 3\nseeds_per_cell = 0",
            "`seeds_per_cell` must be an int of at",
        ),
        ("seeds = [0, 1]\n", "", "task 1 has no `seeds`"),
        ("episodes = 3", "episodes = 0", "task 1: `episodes` must be an int of at least 1, got 0"),
        ('"qgf"]', '"qfg"]', "task 1: unknown method"),
        ("updates = 6", "update = 6", "task 1: unknown setting `update`; did you mean `updates`"),
        ("seeds = [0, 1]", "seeds = 2", "task 1: `seeds` must be a list, got 2"),
        ("tuning_budget = 4", "tuning_budget = 1", "task 1: `tuning_budget` must be at least 2"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "task 1 names 0 twice"),
        ('env = "toy:make_array_task"', "", "task 1: `env` is missing: give one"),
        ("toy:make_room", "toy:make_array_task", "has `toy:make_array_task` twice: give each a"),
        ("updates = 4", 'name = "a/b"', "task 2: `name` must be of letters, digits, spaces"),
        (
            'name = "small"',
            'nmae = "small"',
            "unknown `nmae`; did you mean `name`\\? Known are analyses",
        ),
        ("episodes = 3", "episodes = 3\nanalyses = 1", "task 1: `analyses` must be true or false"),
        (
            "[train]",
            "analyses = true\n[train]\nactors = ['edp']",
            "task 1: `analyses` are of the actor `flow`, which `actors` lacks",
        ),
        ("[0.1, 1.0]", "[-0.1, 1.0]", "task 1: `weights` must be positive and finite, got -0.1"),
        (
            '"qgf"]',
            '"fql"]',
            "task 1: `methods` has fql, and none of `actors` is `fql`; they are flow",
        ),
        (
            "updates = 6",
            "updates = 6\nfql = { alphaa = 3 }",
            "task 1: unknown setting `alphaa`; did",
        ),
        ("[0.1, 1.0]", "[true, 1.0]", "task 1: `weights` must be a number, a `LinearDecay`"),
        ("updates = 6", "seed = 3", "task 1: `seed` is not a setting of a plan: write `seeds`"),
        ("updates = 6", "updates = 6\nflow = { alpha = 3 }", "`alpha` is not a setting of all net"),
        ("updates = 6", "width = 8", "`width` is a setting of networks: write `learners = { width"),
        ("[[tasks]]", "[[task]]", "has no `\\[\\[tasks\\]\\]`"),
        ("seeds = [", "seeds = [[", "is not TOML"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(file, old, new, message):
    file.write_text(PLAN.replace(old, new))
    with pytest.raises(PlanError, match=message):
        read_plan(file)


def test_a_suite_does_all_of_it_and_then_nothing(file, done, tmp_path):
    plan = read_plan(file)
    cells = cells_of(plan, done)
    assert [c.stage for c in cells] == ["data"] * 2 + ["train"] * 4 + ["play"] * 4
    assert all(cell.path.exists() for cell in cells)
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*.*") if p.name != ".lock"}
    run_suite(plan, done, processes=1, progress=False)
    after = {p: p.stat().st_mtime_ns for p in done.rglob("*.*") if p.name != ".lock"}
    assert before == after
    other = read(next((done / "play").glob("*.flow.*")))
    assert [len(runs) for runs in other.episodes["flow"]] == [3, 3]


def guided_cost(out, task, obs):
    """Of an action of QGF, counted by hand."""
    run = load_run(next(out.glob(f"train/*{task}*/seed0")))
    critic = bounded(lambda obs, action: jnp.min(run.values(obs, action)))
    return flops.count(partial(sample, run.policy, critic, weight=1.0), obs, jax.random.key(0))


def test_the_report_is_of_what_is_there_and_always_the_same(file, done, tmp_path):
    plan = read_plan(file)
    texts = [write_report(plan, done).read_bytes() for _ in range(2)]
    assert texts[0] == texts[1]
    text = texts[0].decode()
    assert "![success](success.png)" in text and "![cost](cost.png)" in text
    (done / "play" / "old.000000000000.json").write_text("{}")
    assert others(plan, done) == 1
    (done / "play" / "old.000000000000.json").unlink()
    (done / "best_of.png").write_bytes(b"of another plan")
    assert "best_of.png" not in write_report(plan, done).read_text()
    assert not (done / "best_of.png").exists() and others(plan, done) == 0
    assert "play: 4 of 4 done." in text and "## Over 2 tasks" in text
    assert "## What choosing a weight costs" in text and " after 2" in text
    content = json.loads((done / "report.json").read_text())
    found = comparisons(plan, done)
    scores = [outcomes_of(found[name])["qgf"] for name in found]
    assert content["over tasks"]["qgf"]["mean"]["value"] == across.mean_over_tasks(scores).value
    assert all(
        (done / name).stat().st_size > 5000
        for name in ("success.png", "profile.png", "budgets.png", "over_tasks.png", "cost.png")
    )
    costs = content["MFLOP of an action"]
    assert set(costs) == {"flow", "qgf"} and 0 < costs["flow"] < costs["qgf"]
    room = (jnp.zeros(3), jnp.zeros(2))
    per_task = [guided_cost(done, "array", jnp.zeros(2)), guided_cost(done, "room", room)]
    assert costs["qgf"] == pytest.approx(np.mean(per_task) / 1e6)
    next((done / "play").glob("*room.qgf.*")).rename(tmp_path / "away.json")
    try:
        text = write_report(plan, done).read_text()
        assert "play: 3 of 4 done." in text and "Missing: toy:make_room, qgf." in text
    finally:
        gone = next(c for c in cells_of(plan, done) if c.stage == "play" and not c.path.exists())
        (tmp_path / "away.json").rename(gone.path)


def test_seeds_that_share_a_cell_are_trained_in_one_program(file, tmp_path):
    file.write_text(PLAN.replace("seeds = [0, 1]", "seeds = [0, 1, 2]\nseeds_per_cell = 2"))
    plan, out = read_plan(file), tmp_path / "out"
    assert sizes_of(plan)["train"] == 4
    run_suite(plan, out, processes=1, progress=False)
    titles = [cell.title for cell in cells_of(plan, out) if cell.stage == "train"]
    assert titles[:2] == ["toy:make_array_task, seed 0, 1", "toy:make_array_task, seed 2"]
    found = read(next((out / "play").glob("*.qgf.*")))
    assert [run.seed for run in found.runs] == [0, 1, 2]
    assert len(set(run.sha256 for run in found.runs)) == 3


def test_one_task_may_be_studied_twice_under_two_names(file, tmp_path):
    second = (
        '[[tasks]]\nenv = "toy:make_array_task"\nname = "a wider line"\nlearners = { width = 9 }\n'
    )
    room = PLAN[PLAN.rindex("[[tasks]]") :]
    file.write_text(PLAN.replace(room, second).replace("seeds = [0, 1]", "seeds = [0]"))
    plan, out = read_plan(file), tmp_path / "out"
    assert sizes_of(plan) == {"data": 1, "train": 2, "play": 4}
    run_suite(plan, out, processes=1, progress=False)
    assert [c.stage for c in cells_of(plan, out)] == ["data"] + ["train"] * 2 + ["play"] * 4
    found = comparisons(plan, out)
    assert list(found) == ["toy:make_array_task", "a wider line"]
    first, other = (found[name].runs[0].sha256 for name in found)
    assert first != other
    text = write_report(plan, out).read_text()
    assert (out / "entries.png").stat().st_size > 5000 and not (out / "best_of.png").exists()
    assert "## Over 2 entries of 1 task" in text


class Stops:
    """An engine that does some cells and is then interrupted."""

    def __init__(self, cells):
        self.left = cells

    def map(self, function, cells):
        for cell in cells:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield cell, function(cell)


def test_the_analyses_of_all_runs_are_one_figure_each(file, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "ESTIMATORS", {"QGF": figures.ESTIMATORS["QGF"]})
    monkeypatch.setattr(figures, "noise", partial(figures.noise, count=2))
    options = {"count": 2, "noises": 4, "candidates": (1, 4)}
    monkeypatch.setattr(figures, "value", partial(figures.value, **options))
    text = PLAN.replace("episodes = 3", "episodes = 3\nanalyses = true")
    file.write_text(text.replace('methods = ["flow", "qgf"]', 'methods = ["flow"]'))
    plan, out = read_plan(file), tmp_path / "out"
    assert sizes_of(plan) == {"data": 2, "train": 4, "play": 2, "analyse": 2}
    with pytest.raises(SuiteError, match="no analyses of tasks with goals: write `analyses = fal"):
        run_suite(plan, out, processes=1, progress=False)
    file.write_text(file.read_text() + "analyses = false\n")
    plan = read_plan(file)
    run_suite(plan, out, processes=1, progress=False)
    text = write_report(plan, out).read_text()
    assert "analyse: 1 of 1 done." in text and "Means over 2 runs" in text
    assert "![noise](noise.png)" in text and "![value](value.png)" in text
    (each,) = (json.loads(path.read_text()) for path in (out / "analyse").glob("*.json"))
    said = json.loads((out / "report.json").read_text())["analyses"]
    cosines = [run["methods"]["QGF"]["cosine"] for run in each["noise"]]
    mean = said["noise"]["methods"]["QGF"]["cosine"]
    np.testing.assert_allclose(mean, np.mean(cosines, axis=0), atol=1e-5)
    assert said["value"]["runs"] == len(each["value"]) == 2


def test_interrupted_after_every_cell_it_goes_on_and_ends_with_the_same(file, done, tmp_path):
    plan, out = read_plan(file), tmp_path / "out"
    for _ in range(30):
        try:
            run_suite(plan, out, engine=Stops(1), progress=False)
            break
        except KeyboardInterrupt:
            pass
    assert files(out) == files(done)
    assert write_report(plan, out).read_bytes() == write_report(plan, done).read_bytes()


def test_a_cell_that_fails_is_said_and_the_others_are_done(file, tmp_path, monkeypatch):
    import toy

    plan, out = read_plan(file), tmp_path / "out"
    monkeypatch.setattr(toy, "room_walks", lambda: 1 / 0)
    with pytest.raises(SuiteError, match="1 cell failed, such as data of toy:make_room: Zero"):
        run_suite(plan, out, processes=1, progress=False)
    (log,) = (out / "errors").iterdir()
    assert "ZeroDivisionError" in log.read_text()
    assert sum(c.path.exists() for c in cells_of(plan, out)) == 1 + 2 + 2  # all of the other task
    monkeypatch.undo()
    run_suite(plan, out, processes=1, progress=False)
    assert not list((out / "errors").iterdir())


def test_from_the_command_line(file, done, capsys):
    cli.main(["suite", "plan", str(file), "--out", str(done)])
    printed = capsys.readouterr().out
    assert printed.count("done ") == 10 and "Cells: 2 of data, 4 of train, 4 of play." in printed
    assert "Until now: " in printed and " of one worker" in printed
    cli.main(["suite", "report", str(file), "--out", str(done)])
    assert "The report is in" in capsys.readouterr().out
    cli.main(["suite", "run", str(file), "--out", str(done), "--processes", "1", "--quiet"])
    with pytest.raises(SystemExit) as stop:
        cli.main(["suite", "plan", str(file) + "x"])
    assert stop.value.code == 2 and "cannot be read: No such file" in capsys.readouterr().err


def test_engines_are_made_of_options():
    assert by_name("local", ["processes=2"], "f") == Local(2)
    slurm = by_name("slurm", ["timeout_min=5", "slurm_partition=gpu", "cluster=local"], "f")
    assert slurm == Slurm("f", {"timeout_min": 5, "slurm_partition": "gpu"}, "local")
    assert by_name("ray", ["num_gpus=0.25", "address=auto"], "f") == Ray("auto", {"num_gpus": 0.25})
    for wrong, message in ((("slum", []), "`engine` must be"), (("ray", ["gpus"]), "name=value")):
        with pytest.raises(ValueError, match=message):
            by_name(*wrong, "f")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("paper", {"data": 20, "train": 200, "play": 320, "analyse": 20}),
        ("goals", {"data": 5, "train": 50, "play": 25}),
        ("cpu", {"data": 6, "train": 6, "play": 144, "analyse": 6}),
        ("model_size", {"data": 1, "train": 12, "play": 9}),
        ("best_of", {"data": 4, "train": 16, "play": 48}),
        ("critics", {"data": 4, "train": 32, "play": 24}),
        ("cpu_goals", {"data": 3, "train": 3, "play": 15}),
        ("cpu_model_size", {"data": 1, "train": 3, "play": 9}),
        ("cpu_best_of", {"data": 3, "train": 3, "play": 36}),
        ("cpu_critics", {"data": 2, "train": 4, "play": 12}),
    ],
)
def test_the_plans_of_the_repository_are_plans(name, sizes):
    plan = read_plan(name)
    assert sizes_of(plan) == sizes


def test_a_change_of_ones_own_modules_makes_new_cells(file, tmp_path, monkeypatch):
    """And not of anything else: the other task's cells stay what they are."""
    own, tasks = tmp_path / "own_things.py", Path(__file__).parent / "toy.py"
    own.write_text(
        f"import sys\nsys.path.insert(0, {str(tasks.parent)!r})\nfrom toy import make_room\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text(PLAN.replace("toy:make_room", "own_things:make_room"))
    plan, out = read_plan(file), tmp_path / "out"
    before = {cell.title: cell.path for cell in cells_of(plan, out)}
    own.write_text(own.read_text() + "# other physics\n")
    after = {cell.title: cell.path for cell in cells_of(plan, out)}
    changed = {title for title in before if before[title] != after[title]}
    assert changed == {"data of own_things:make_room"}


def test_beside_the_bar_stands_how_far_a_training_has_come(done, tmp_path, monkeypatch):
    plan = read_plan(done.parent / "small.toml")
    shutil.copytree(done / "data", tmp_path / "data")
    first, second, *_ = (cell for cell in cells_of(plan, tmp_path) if cell.stage == "train")
    for cell, steps in ((first, (2, 4)), (second, ())):
        cell.runs[0].mkdir(parents=True)
        lines = [json.dumps({"step": step, "critic/loss": 1.0}) for step in steps]
        (cell.runs[0] / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(_run, "SECONDS", 0.01)
    told = queue.Queue()
    with _run._updates_shown(SimpleNamespace(set_postfix_str=told.put), [first, second]):
        assert told.get(timeout=30) == "toy:make_array_task, seed 0: 4 of 6 updates"
    first.path.write_text("{}")  # done
    assert _run._updates_of(first) == ""


def test_data_that_are_too_few_are_neither_downloaded_nor_trained_on(file, tmp_path, capsys):
    text = 'seeds = [0]\nmethods = ["flow"]\ntransitions = 100_000_000\n[[tasks]]\n'
    file.write_text(f'{text}data_dir = "{tmp_path}"\npreset = "cpu/pointmaze-medium"\n')
    cli.main(["suite", "plan", str(file), "--out", str(tmp_path / "out")])
    assert (
        "cannot run here: pointmaze-medium-navigate-singletask-task1-v0" in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        cli.main(["suite", "run", str(file), "--out", str(tmp_path / "out"), "--quiet"])
    assert "pointmaze-medium-navigate-v0.npz is not there" in capsys.readouterr().err
    report = (tmp_path / "out" / "report.md").read_text()  # also of a run that failed
    assert "Failed: data of pointmaze" in report and "Versions" not in report
    file.write_text(PLAN.replace("episodes = 3", "episodes = 3\ntransitions = 1_000_000"))
    with pytest.raises(SuiteError, match="rows, and the plan needs 1,000,000 `transitions`"):
        run_suite(read_plan(file), tmp_path / "own", processes=1, progress=False)


def test_a_command_that_sigterm_ends_says_how_to_resume(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("qgf_eqx.suite.run_suite", lambda *_, **__: sys.exit(128 + signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        cli.main(["suite", "run", str(file), "--out", str(tmp_path)])
    assert stop.value.code == 143 and "stopped by SIGTERM. The same" in capsys.readouterr().err


def test_a_plan_says_which_tasks_cannot_be_made_here(file, capsys):
    file.write_text(PLAN.replace("toy:make_room", "no_such_module:task"))
    cli.main(["suite", "plan", str(file)])
    printed = capsys.readouterr().out
    assert "cannot run here: no_such_module:task: `no_such_module:task`: there is no" in printed
    assert "toy:make_array_task: " not in printed


def test_a_plan_that_is_not_there_says_which_are(tmp_path):
    with pytest.raises(PlanError, match="come with this package: best_of, cpu, cpu_best_of"):
        read_plan(tmp_path / "papier.toml")


def test_cells_compute_on_one_thread(file, tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "")
    monkeypatch.delenv("NPROC")
    seen = []
    monkeypatch.setattr(_run, "do", lambda out, cell: seen.append(os.environ["NPROC"]) or "")
    with pytest.raises(SuiteError, match="its result is not in"):
        run_suite(read_plan(file), tmp_path / "out", processes=1, progress=False)
    assert seen and set(seen) == {"1"} and "NPROC" not in os.environ


def test_what_a_plan_will_take_is_measured_before_its_first_cell(file, capsys):
    from qgf_eqx.suite import measure

    file.write_text(PLAN.replace("seeds = [0, 1]", "seeds = [0, 1, 2]\nseeds_per_cell = 2"))
    found = [*measure(read_plan(file))]
    assert [m.study.label for m in found] == ["toy:make_array_task", "toy:make_room"]
    first = found[0]
    assert 0 < first.update < 10 and 0 < first.episode < 10 and first.checkpoint > 1000
    assert first.training == 2 * 6 * first.update / 3600  # cells of two seeds, six updates
    assert first.playing == 3 * (2 * 3 + 4) * first.episode / 3600  # two methods, one of them tuned
    assert first.disk == 3 * first.checkpoint
    cli.main(["suite", "plan", str(file), "--measure"])
    printed = capsys.readouterr().out
    assert "all tasks" in printed and "2 of 2, toy:make_room: training" in printed
