"""Optimisers of blocks: torch's own, to the bit, without what they import for torch.compile."""

import pickle
import subprocess
import sys

import pytest
import torch

from forwardonly.training import TrainingConfig
from forwardonly.training.optim import TABLE, make_optimiser

EAGER = """
import sys, forwardonly as fo
train = fo.data.load("digits")[0]
fo.fit(fo.mlp(train.shape, [8], rule=fo.rules.Hyperspherical(classes=10)), train, epochs=1, out=sys.argv[1])
print("torch._dynamo" in sys.modules)
"""


def stepped(make):
    """A weight after three steps, and the optimiser."""
    weight = torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    optimiser = make([{"params": [weight], "lr": 0.01}])
    for step in range(3):
        (weight.sin().square().sum() * (step + 1)).backward()
        optimiser.step()
        optimiser.zero_grad()
        assert weight.grad is None
    return weight.detach(), optimiser


@pytest.mark.parametrize("name", TABLE)
def test_an_optimiser_steps_as_torchs_own(name):
    made = []

    def ours(groups):
        made.append(make_optimiser(name, groups, TrainingConfig(optimiser=name, learning_rate=0.01)))
        return made[-1]

    weight, optimiser = stepped(ours)
    group = {key: value for key, value in optimiser.param_groups[0].items() if key != "params"}
    expected, own = stepped(lambda groups: TABLE[name]([{**groups[0], **group}]))
    assert torch.equal(weight, expected)
    assert isinstance(optimiser, TABLE[name])
    assert str(optimiser) == str(own)
    assert str(pickle.loads(pickle.dumps(optimiser))) == str(own)
    own.load_state_dict(optimiser.state_dict())
    optimiser.load_state_dict(own.state_dict())


def test_an_eager_run_does_not_load_the_compiler(tmp_path):
    command = [sys.executable, "-c", EAGER, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
