"""Shared fixtures of the tests with several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def crew():
    """Runs a scenario of crew.py in a folder, and returns what it saw."""

    def run(scenario, folder):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("crew.py")), scenario, str(folder)],
            env=env, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run
