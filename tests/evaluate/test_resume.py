"""What was played is not played again; what is torn is dropped; nothing else is taken for it."""

import dataclasses
import json

import equinox as eqx
import jax.numpy as jnp
import pytest

from qgf_eqx import guidance
from qgf_eqx.evaluate import Episode, Sampler
from qgf_eqx.evaluate import _play as module
from qgf_eqx.evaluate._outcomes import FILE, Outcomes, described
from qgf_eqx.evaluate._sources import Run
from qgf_eqx.evaluate.names import METHODS, method
from qgf_eqx.weights import LinearDecay


@pytest.fixture
def played(monkeypatch, tmp_path):
    """Evaluations of a run, with roll-outs that are made up; the cells that were played."""
    cells = []

    def play(source, task, seed, record, cell):
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
    monkeypatch.setattr(Run, "_check", lambda run: None)
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
    }
    assert {*changes, "name"} == {field.name for field in dataclasses.fields(Sampler)}
    found = [described(base)] + [
        described(dataclasses.replace(base, **{name: value})) for name, value in changes.items()
    ]
    assert len({tuple(each) for each in found}) == 7
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
    evaluate()
    assert len(cells) == 4
