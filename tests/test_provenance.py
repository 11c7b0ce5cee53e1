"""What is written beside a result is true of the code that made it."""

import subprocess

from qgf_eqx import _provenance


def git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *names, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_result_says_whether_the_code_was_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(_provenance, "__file__", str(tmp_path / "code.py"))
    assert _provenance.versions()["commit"] == "unknown"
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 40 and _provenance.versions()["commit"] == commit
    (tmp_path / "code.py").write_text("2")
    assert _provenance.versions()["commit"] == f"{commit} with changes"
