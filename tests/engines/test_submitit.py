"""What SLURM says when it takes no jobs; with programs that stand for its own."""

from pathlib import Path

import cells
import pytest

from qgf_eqx.engines import EngineError, Slurm


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "invalid partition specified: gpx"), ({"gpu": 1}, "gpu"), ({"timeout_min": "x"}, "int")],
)
def test_a_cluster_that_takes_no_jobs_says_why_and_leaves_nothing(
    tmp_path, monkeypatch, options, said
):
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpx' >&2; exit 1"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(EngineError, match=f"SLURM did not take the jobs .*{said}"):
        list(Slurm(tmp_path / "jobs", options, "slurm").map(abs, [1, 2]))
    assert not list((tmp_path / "jobs").glob("*"))


def test_a_job_that_is_told_to_end_is_sent_again_and_is_no_failure(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    engine = Slurm(tmp_path / "jobs", cluster="local", retries=0)
    found = list(engine.map(cells.told_to_end_once, [str(tmp_path / "a")]))
    assert found == [(str(tmp_path / "a"), "a again")]
