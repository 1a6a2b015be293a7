"""The package loads PyTorch only when something of it is used."""

import subprocess
import sys

import pytest

import forwardonly as fo


def loaded(code):
    """Whether torch is loaded behind the code, in a process of its own."""
    text = f"import sys\n{code}\nprint('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.split()[-1]


def test_help_does_not_wait_for_pytorch():
    assert loaded("import forwardonly.cli\nforwardonly.cli.main(['--help'])") == "False"
    assert loaded("import forwardonly.cli\nforwardonly.cli.main(['--version'])") == "False"
    assert loaded("import forwardonly as fo\nfo.fit") == "True"


def test_every_name_is_there_and_another_is_not():
    assert all(getattr(fo, name) is not None for name in fo.__all__)
    assert set(fo.__all__) <= set(dir(fo))
    with pytest.raises(AttributeError, match="module 'forwardonly' has no attribute 'training_run'"):
        fo.training_run  # noqa: B018
