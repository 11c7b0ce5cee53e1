import numpy as np
import pytest


@pytest.fixture
def write_npz(tmp_path):
    """Writes a small dataset file in OGBench's format, with what a test wants changed."""

    def write(name="pointmaze-medium-navigate-v0.npz", *, rows=12, drop=(), **changes):
        rng = np.random.default_rng(0)
        terminals = np.zeros(rows, bool)
        terminals[[rows // 2 - 1, rows - 1]] = True
        fields = {
            "observations": rng.normal(size=(rows, 2)).astype(np.float32),
            "actions": rng.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
            "terminals": terminals,
            "qpos": rng.normal(size=(rows, 2)).astype(np.float32),
            "qvel": np.zeros((rows, 2), np.float32),
        }
        fields = {k: v for k, v in (fields | changes).items() if k not in drop}
        path = tmp_path / name
        np.savez_compressed(path, **fields)
        return path

    return write
