"""A suite that is killed again and again: nothing is done twice, and the report is the same."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

KILLS = int(os.environ.get("QGF_KILLS", 200))
SCRIPT = """
import hashlib, os, sys, time
from pathlib import Path

import qgf_eqx.suite._run as running
from qgf_eqx.evaluate import Success
from qgf_eqx.evaluate._judge import compared
from qgf_eqx.evaluate._rollout import Episode
from qgf_eqx.evaluate._tuning import Choice
from qgf_eqx.evaluate.results import write
from qgf_eqx.suite import read_plan, run_suite, write_report
from qgf_eqx.suite._cells import DataCell, PlayCell, TrainCell

out, log = Path(), Path()

def data(cell):
    return {"fingerprint": {"obs": cell.study.config.env}, "transitions": 10}

def train(cell):
    cell.folder.mkdir(parents=True, exist_ok=True)
    state = cell.folder / "state"
    step = int(state.read_text()) if state.exists() else 0
    while step < 4:  # a learner that saves each of its steps
        time.sleep(0.05)
        step += 1
        running._write(state, str(step).encode())
    return {"updates": 4, "bytes": 1}

def play(cell):
    time.sleep(0.1)
    digest = hashlib.sha256(cell.path.name.encode()).digest()
    runs = [[Episode(n, digest[n % 32] % 3 > 0, 5, 0.0, "", []) for n in range(20)] for t in cell.trainings for _ in t.runs]
    task, rows = cell.study.config.env.replace(":", "-"), {cell.method: (Choice(0.0), 10)}
    write(compared(task, Success(), rows, {cell.method: runs}), cell.path)

original = running.do
def do(out, cell):
    was = cell.path.exists()
    said = original(out, cell)
    if not was:
        with open(log, "a") as stream:
            stream.write(cell.path.name + "\\n")
    return said

class InOrder:
    def map(self, function, cells):
        for cell in cells:
            yield cell, do(*function.args, cell)

running._RESULTS.update({DataCell: data, TrainCell: train, PlayCell: play})
plan = read_plan("plan.toml")
for name in map(str.strip, sys.stdin):  # a process for each: what is imported is imported once
    child = os.fork()
    if child == 0:
        out, log = Path(name), Path(f"{name}.log")
        run_suite(plan, out, engine=InOrder(), progress=False)
        write_report(plan, out)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
PLAN = """
name = "killed"
seeds = [0, 1, 2]
methods = ["flow", "qgf", "ood"]
[train]
updates = 4
"""


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_report_and_no_cell_twice(tmp_path):
    tasks = "".join(f'[[tasks]]\nenv = "toy:task{i}"\n' for i in range(8))
    (tmp_path / "plan.toml").write_text(PLAN + tasks)
    (tmp_path / "run.py").write_text(SCRIPT)

    line, pipes = [sys.executable, "run.py"], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(line, cwd=tmp_path, text=True, **pipes)

    def run(out, until=None):
        """Runs the suite, and kills it after some seconds."""
        print(out, file=server.stdin, flush=True)
        child = int(server.stdout.readline())
        if until is not None:
            time.sleep(until)
            os.kill(child, signal.SIGKILL)
        return int(server.stdout.readline())

    with server:
        assert run("once") == 0
        wanted = (tmp_path / "once" / "report.md").read_bytes()
        rng, kills, out = random.Random(0), 0, tmp_path / "killed"
        while kills < KILLS:
            kills += run("killed", rng.uniform(0, 0.5)) == -signal.SIGKILL
            if (out / "report.md").exists():  # all is done: begin again, elsewhere
                assert run("killed") == 0
                assert (out / "report.md").read_bytes() == wanted
                out.rename(tmp_path / f"done{kills}")
                (tmp_path / "killed.log").rename(tmp_path / f"done{kills}.log")
        for left in out.rglob(".*.tmp"):
            os.utime(left, (0, 0))  # it was long ago
        assert run("killed") == 0 and (out / "report.md").read_bytes() == wanted
        server.stdin.close()
    for log in tmp_path.glob("*.log"):
        names = log.read_text().splitlines()
        assert len(names) == len(set(names)), "a cell was done twice"
    assert not list(out.rglob("*.tmp"))
