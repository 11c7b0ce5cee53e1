"""What was played is not played again; what is torn is dropped; nothing else is taken for it."""

import dataclasses
import importlib
import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import guidance
from qgf_eqx.evaluate import Episode, Sampler, Task, _sources
from qgf_eqx.evaluate import _play as module
from qgf_eqx.evaluate._outcomes import FILE, Outcomes, described, task_key
from qgf_eqx.evaluate._sources import Run
from qgf_eqx.evaluate.names import METHODS, method
from qgf_eqx.weights import LinearDecay


@pytest.fixture
def played(monkeypatch, tmp_path):
    """Evaluations of a run, with roll-outs that are made up; the cells that were played."""
    cells = []

    def play(call, source, task, seed, record, cell):
        cells.append(cell[2])
        if cell[2][0] in killed:
            raise KeyboardInterrupt
        return [Episode(n, n % 2 == 0, 5, float(seed), path=[[0.0, 1.0]] * record) for n in cell[2]]

    def evaluate(names=("flow", "qgf"), numbers=range(20), sha256="a", **options):
        cells.clear()
        samplers = [method(name, weight=0.1) for name in names]
        options = {"task": "e", "processes": 1, "progress": False} | options
        return module.evaluate(str(tmp_path), samplers, numbers, sha256=sha256, **options)

    killed: set = set()
    monkeypatch.setattr(module, "_play", play)
    monkeypatch.setattr(module, "task_of", lambda _: None)
    monkeypatch.setattr(Run, "_check", lambda run, found: None)
    monkeypatch.setattr(_sources, "checkpoint_sha256", lambda _: "a")
    return evaluate, cells, killed, tmp_path / FILE


def test_an_evaluation_that_was_killed_goes_on_where_it_was(played):
    evaluate, cells, killed, file = played
    killed.add(10)
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    first = tuple(range(10))
    assert cells == [first, first, tuple(range(10, 20))] and len(file.read_text().split("\n")) == 21
    killed.clear()
    outcomes = evaluate()
    assert cells == [tuple(range(10, 20))] * 2
    assert outcomes == evaluate(resume=False) and evaluate() == outcomes and cells == []


def test_a_torn_line_is_dropped_and_its_group_is_played_again(played):
    evaluate, cells, _, file = played
    outcomes = evaluate()
    whole = file.read_bytes()
    for cut in (1, 30, len(whole.split(b"\n")[-2])):
        file.write_bytes(whole[:-cut])
        assert evaluate() == outcomes and cells == [tuple(range(10, 20))]
        assert all(json.loads(line) for line in file.read_text().splitlines())
    file.write_bytes(b"\xff\n[]\n{}\nnull\n" + b"[" * 9999 + b"\n" + whole)
    assert evaluate() == outcomes and not cells


@pytest.mark.parametrize(
    "other",
    [{"sha256": "b"}, {"task": "f"}, {"seed": 1}, {"record": True}, {"names": ("ood", "bptt")}],
)
def test_other_networks_tasks_seeds_or_methods_are_other_outcomes(played, other):
    evaluate, cells, *_ = played
    evaluate()
    evaluate(**other)
    assert len(cells) == 4
    evaluate()
    assert not cells


def test_more_episodes_play_only_the_further_ones(played):
    evaluate, cells, *_ = played
    evaluate(("flow",))
    evaluate(("flow",), range(30))
    assert cells == [tuple(range(20, 30))]


def test_a_folder_that_cannot_be_written_to_is_a_warning(played):
    evaluate, cells, _, file = played
    file.mkdir()
    with pytest.warns(RuntimeWarning, match="outcomes are not kept in .*episodes.jsonl"):
        assert len(evaluate()[0]) == 20


def test_every_part_of_a_sampler_is_in_its_description():
    base = method("qgf-best-of-2", weight=0.1)
    changes = {
        "estimator": guidance.ood,
        "weight": LinearDecay(0.1),
        "best_of": 3,
        "steps": 11,
        "reduce": jnp.mean,
        "draw": METHODS["keep-best"].draw,
        "actor": "edp",
    }
    assert {*changes, "name", "weighted", "choices", "untuned"} == {
        field.name for field in dataclasses.fields(Sampler)
    }
    found = [described(base)] + [
        described(dataclasses.replace(base, **{name: value})) for name, value in changes.items()
    ]
    assert len({tuple(each) for each in found}) == 8
    two, three = (eqx.Partial(guidance.look_ahead, steps=n) for n in (2, 3))
    assert described(Sampler(two)) != described(Sampler(three)) != None  # noqa: E711
    assert all(described(method(name)) for name in METHODS)


def test_what_has_no_name_is_not_kept(tmp_path):
    for nameless in (lambda *_: None, eqx.Partial(guidance.qgf, key=jnp.ones(2))):
        kept = Outcomes(tmp_path / FILE, "a")
        kept.add(Sampler(nameless), [Episode(0, True, 1, 0.0)])
        assert kept.of(Sampler(nameless), [0]) is None and not (tmp_path / FILE).exists()


def test_episodes_of_an_environment_that_broke_are_played_again(played, monkeypatch):
    evaluate, cells, _, file = played
    play = module._play

    def broken(*arguments):
        return [dataclasses.replace(e, error="Error: it broke") for e in play(*arguments)]

    monkeypatch.setattr(module, "_play", broken)
    evaluate()
    assert not file.exists()
    monkeypatch.setattr(module, "_play", play)
    monkeypatch.setattr(module, "task_of", lambda _: None)
    evaluate()
    assert len(cells) == 4


def test_what_changes_without_changing_its_name_is_not_kept():
    class Kind:
        def estimator(self, policy, critic, obs, a_t, t):
            return a_t

    assert described(Sampler(Kind().estimator)) is None
    here = guidance.qgf.__module__
    try:
        guidance.qgf.__module__ = "__main__"
        assert described(Sampler(guidance.qgf)) is None
    finally:
        guidance.qgf.__module__ = here
    near = [described(Sampler(weight=LinearDecay(x))) for x in (0.12345671, 0.12345674)]
    assert near[0] != near[1] and None not in near


def test_the_source_of_a_module_of_ones_own_is_in_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for text in ("def make_task(): ...\n", "def make_task(): return 1\n"):
        (tmp_path / "fresh_task.py").write_text(text)
        module = importlib.import_module("fresh_task")
        keys.append([task_key("fresh_task:make_task"), described(Sampler(module.make_task))])
    assert keys[0][0] != keys[1][0] and keys[0][1] != keys[1][1]
    assert (
        task_key("cube-single-play-singletask-task1-v0") == "cube-single-play-singletask-task1-v0"
    )


def test_a_task_that_is_a_value_is_played_again(played):
    """Two of one name may be two tasks."""
    evaluate, cells, _, file = played
    for _ in range(2):
        evaluate(task=Task("line", print), numbers=range(2))
        assert len(cells) == 2 and not file.exists()


def test_numpys_numbers_are_kept_as_others_are(played, unchecked):
    evaluate, cells, _, file = played
    evaluate(numbers=np.arange(3))
    evaluate(numbers=range(3))
    assert cells == [] and len(file.read_text().split("\n")) == 7
