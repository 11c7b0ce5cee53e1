"""The engine as a package of its own: it needs nothing of `qgf_eqx`, and workers start fast."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cells
import pytest
from processes import a_worker_is_killed, is_running, started, wait_until

import qgf_eqx

HERE, PACKAGE = str(Path(__file__).parent), str(Path(qgf_eqx.__file__).parent)
sys.path.append(PACKAGE)
from engines import EngineError, Local  # noqa: E402
from engines._ray import call  # noqa: E402
from engines._submitit import Requeued  # noqa: E402


@pytest.mark.parametrize("processes", [1, 3])
def test_every_cell_comes_once_with_its_result(processes):
    found = list(Local(processes).map(cells.square, range(20)))
    assert sorted(found) == [(x, x * x) for x in range(20)]
    assert not multiprocessing.active_children()


def test_one_process_or_one_cell_is_run_here_and_more_are_not():
    assert dict(Local(1).map(cells.pid, "ab")) == {"a": os.getpid(), "b": os.getpid()}
    assert dict(Local(2).map(cells.pid, "a")) == {"a": os.getpid()}
    assert list(Local(2).map(cells.pid, "")) == []
    pids = [pid for _, pid in Local(2).map(cells.pid, range(40))]
    assert len(set(pids)) == 2 and os.getpid() not in pids


@pytest.mark.parametrize(
    ("processes", "error"),
    [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError), ("2", TypeError)],
)
def test_a_wrong_number_of_processes_is_named(processes, error):
    with pytest.raises(error, match=f"`processes` must be .*, got {processes!r}"):
        Local(processes)


def test_an_exception_is_itself_and_ends_the_other_cells():
    started = time.perf_counter()
    with pytest.raises(LookupError, match="no such cell"):
        list(Local(2).map(cells.raise_or_sleep, ["sleep", "raise", "sleep", "sleep"]))
    assert time.perf_counter() - started < 300 and not multiprocessing.active_children()


def test_an_exception_that_cannot_be_sent_is_named_too():
    with pytest.raises(EngineError, match=r"missing 1 required positional argument: 'two'\)\. If"):
        list(Local(2).map(cells.raise_unreadable, "ab"))


def test_a_function_that_cannot_be_sent_is_an_error_and_no_hang():
    with pytest.raises(EngineError, match=r"cannot be sent .*lambda.* use one process"):
        list(Local(2).map(lambda cell: cell, "ab"))
    assert not multiprocessing.active_children()


def test_a_loop_that_ends_early_ends_the_workers():
    for _ in Local(2).map(cells.square, range(20)):
        break
    assert not multiprocessing.active_children()


def test_a_dead_worker_is_one_sentence_and_what_was_finished_comes_before(tmp_path):
    work = [(str(tmp_path), what) for what in ("die", "a", "b", "c")]
    found = []
    with pytest.raises(EngineError, match="fewer `processes`.* `if __name__ == ") as error:
        for cell, result in Local(2).map(cells.die_or_finish, work):
            found.append((cell[1], result))
    assert sorted(found) == [("a", "a"), ("b", "b"), ("c", "c")]
    assert str(error.value).count("\n") == 0


def test_a_worker_that_is_killed_while_it_starts_is_the_same():
    with a_worker_is_killed(), pytest.raises(EngineError, match="a worker process died"):
        list(Local(2).map(cells.pid, range(100)))


@pytest.mark.parametrize(("before", "after"), [(None, "false"), ("true", "true")])
def test_workers_do_not_claim_a_whole_gpu_unless_they_are_told(monkeypatch, before, after):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv(name, before)
    assert list(Local(2).map(cells.environment, [name, name])) == [(name, after)] * 2
    assert os.environ.get(name) == before


SCRIPT = """
import sys
sys.path += [{here!r}, {package!r}]
import cells
from engines import EngineError, Local
def main():
    try:
        print(list(Local(2).map(cells.{function}, {work!r})))
    except EngineError as error:
        sys.exit(str(error))
"""


def script(function, work):
    return SCRIPT.format(here=HERE, package=PACKAGE, function=function, work=work)


def test_a_script_without_its_guard_ends_with_the_sentence(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(script("square", [1, 2]) + "main()\n")
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1 and '`if __name__ == "__main__":`' in ended.stderr
    assert ended.stderr.count("\n") == 1 and ended.stdout == ""
    path.write_text(script("square", [1, 2]) + "if __name__ == '__main__':\n    main()\n")
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300)
    assert sorted(ended.stdout) == sorted("[(1, 1), (2, 4)]\n")


def test_a_script_from_standard_input_ends_with_the_sentence():
    code = script("square", [1, 2]) + "main()\n"
    command = [sys.executable, "-"]
    ended = subprocess.run(command, input=code, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1 and "standard input. Save it as a file" in ended.stderr
    assert ended.stderr.count("\n") == 1
    command = [sys.executable, "-c", code]
    assert "(2, 4)" in subprocess.run(command, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.parametrize(
    ("function", "kill", "code"),
    [
        ("stay", signal.SIGTERM, 128 + signal.SIGTERM),
        ("stay", signal.SIGINT, -signal.SIGINT),
        ("stay", signal.SIGKILL, -signal.SIGKILL),
        ("save_when_told", signal.SIGTERM, 0),
        ("save_when_told", signal.SIGINT, -signal.SIGINT),
        ("save_when_told", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_worker_outlives_its_parent_and_each_may_save(tmp_path, function, kill, code):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-c", script(function, [*map(str, folders)]) + "main()\n"]

    def begun():
        return [path for path in tmp_path.glob("*/*") if not path.suffix]

    with started(command) as parent:
        names = wait_until(lambda: len(found := [p.name for p in begun()]) == 2 and found)
        assert all(map(is_running, names))
        parent.send_signal(kill)
        assert parent.wait(300) == code
    wait_until(lambda: not any(map(is_running, names)))
    assert len(begun()) == 2, "a cell began after the end"
    saved = {f"{name}.saved" for name in names} if function == "save_when_told" else set()
    assert {path.name for path in tmp_path.glob("*/*.saved")} >= saved


def test_ctrl_c_in_a_terminal_reaches_all_processes_and_is_said_once(tmp_path):
    command = [sys.executable, "-c", script("stay", [str(tmp_path)] * 2) + "main()\n"]
    with started(command, text=True, start_new_session=True) as parent:
        names = wait_until(lambda: len(found := os.listdir(tmp_path)) == 2 and found)
        os.killpg(parent.pid, signal.SIGINT)
        _, printed = parent.communicate(timeout=300)
    assert printed.count("Traceback") == 1 and printed.rstrip().endswith("KeyboardInterrupt")
    wait_until(lambda: not any(map(is_running, names)))


def test_workers_share_the_memory_of_a_gpu(monkeypatch):
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.delenv(name, raising=False)
    share = dict(Local(3).map(cells.environment, [name] * 3))[name]
    assert float(share) == pytest.approx(0.3) and name not in os.environ
    monkeypatch.setenv(name, "0.7")
    assert dict(Local(2).map(cells.environment, [name, "HOME"]))[name] == "0.7", "what was chosen"


def test_kept_workers_are_the_same_for_several_maps_and_end_with_the_block():
    with Local(2).kept() as engine:
        first = {pid for _, pid in engine.map(cells.pid, range(40))}
        again = {pid for _, pid in engine.map(cells.pid, range(40))}
        assert first == again and len(first) == 2 and os.getpid() not in first
        assert dict(engine.map(cells.pid, "a"))["a"] in first  # one cell goes to them too
    assert not multiprocessing.active_children()


def test_kept_workers_end_with_an_exception_and_new_ones_take_their_place():
    with Local(2).kept() as engine:
        before = {pid for _, pid in engine.map(cells.pid, range(40))}
        with pytest.raises(LookupError, match="no such cell"):
            list(engine.map(cells.raise_or_sleep, ["sleep", "raise", "sleep"]))
        assert not multiprocessing.active_children()
        assert not before & {pid for _, pid in engine.map(cells.pid, range(40))}
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize(("threads", "told", "expected"), [(3, None, 3), (3, "5", 5)])
def test_workers_have_the_threads_of_xla_that_were_asked_for(monkeypatch, threads, told, expected):
    monkeypatch.delenv("NPROC", raising=False)
    if told:
        monkeypatch.setenv("NPROC", told)
    found = Local(2, threads).map(cells.threads_of_xla, "ab")
    assert sorted(found) == [("a", expected), ("b", expected)]


@pytest.mark.parametrize(("threads", "expected"), [(None, None), (1, "1")])
def test_a_cell_in_this_process_has_them_too_and_nothing_stays(monkeypatch, threads, expected):
    monkeypatch.delenv("NPROC", raising=False)
    assert list(Local(1, threads).map(cells.environment, ["NPROC"])) == [("NPROC", expected)]
    assert "NPROC" not in os.environ
    monkeypatch.setenv("NPROC", "7")
    assert list(Local(1, threads).map(cells.environment, ["NPROC"])) == [("NPROC", "7")]
    assert os.environ["NPROC"] == "7"


def test_cells_on_clusters_have_a_thread_for_each_of_their_cpus(monkeypatch):
    monkeypatch.setenv("NPROC", "9")  # is put back as it was
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)

    def seen(work):
        os.environ.pop("NPROC")
        return work("NPROC")

    assert seen(Requeued(cells.environment)) == "1"
    assert seen(partial(call, cells.environment, threads=3)) == "3"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert seen(Requeued(cells.environment)) == "4"
