"""Ten million transitions with goals, streamed: in bounded memory, with the bits of a run in memory."""

import subprocess
import sys

import numpy as np
import pytest

from qgf_eqx.checkpoint import read_checkpoint

ROWS, EPISODE = 10_000_000, 1000
RUN = """
import re, sys, threading, time
from pathlib import Path
from qgf_eqx.data import open_dataset
from qgf_eqx.learn import TrainConfig, learners, train

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

peak = [0.0]
def watch():
    while True:
        peak[0] = max(peak[0], held())
        time.sleep(0.005)

file, folder, streamed = sys.argv[1:]
dataset, _ = open_dataset(file)
threading.Thread(target=watch, daemon=True).start()
nets = learners("iql", ["flow", "gcbc"], width=16, depth=1)
config = TrainConfig("e", updates=20, batch=256, horizon=5, goals=True, **nets)
train(config, dataset, folder, streamed=streamed == "yes", progress=False, updates_per_call=10)
print(peak[0])
"""


def write(path, rows):
    """Noise: no two rows are equal, so that a wrong one shows."""
    rng = np.random.default_rng(0)
    parts = {"observations": rng.normal(size=(rows, 4)), "actions": rng.uniform(-1, 1, (rows, 2))}
    ended = np.arange(rows) % EPISODE == EPISODE - 1
    parts |= {"rewards": np.zeros(rows), "terminated": np.zeros(rows), "terminals": ended}
    np.savez(path, **{name: part.astype(np.float32) for name, part in parts.items()})


def peak_of(file, folder, streamed):
    """MiB of memory of a run, without mapped files."""
    line = [sys.executable, "-c", RUN, str(file), str(folder), streamed]
    found = subprocess.run(line, capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_million_transitions_are_streamed_in_the_memory_of_a_few(tmp_path):
    few, many = tmp_path / "few.npz", tmp_path / "many.npz"
    write(few, 20 * EPISODE)
    write(many, ROWS)
    small = peak_of(few, tmp_path / "small", "yes")
    large = peak_of(many, tmp_path / "large", "yes")
    whole = peak_of(many, tmp_path / "whole", "no")
    print(f"MiB: few streamed {small:.0f}, many streamed {large:.0f}, many in memory {whole:.0f}")
    assert large < small + 32 and large + 300 < whole  # the data are 360
    held = [
        read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("large", "whole")
    ]
    assert held[0].arrays.keys() == held[1].arrays.keys()
    for name, array in held[0].arrays.items():
        np.testing.assert_array_equal(array, held[1].arrays[name])
