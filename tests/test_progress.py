"""Progress where nobody looks at a terminal: lines, and not before they are due."""

import io
import sys

import pytest

from qgf_eqx import _progress


@pytest.mark.parametrize("due", [True, False])
def test_a_log_gets_whole_lines_once_they_are_due(monkeypatch, due):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(_progress, "SECONDS", 0.0 if due else 30.0)
    with _progress.bar(3, "train", "updates", show=True) as bar:
        for _ in range(3):
            bar.update()
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and bool(lines) == due
    assert not due or (lines[-1].startswith("train: 100%") and "3/3" in lines[-1])


def test_nothing_is_shown_if_nothing_shall_be(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(_progress, "SECONDS", 0.0)
    with _progress.bar(3, "train", "updates", show=False) as bar:
        bar.update(3)
    assert log.getvalue() == ""
