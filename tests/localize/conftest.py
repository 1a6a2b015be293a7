"""Shared fixtures of the tests of models that are cut into blocks."""

import pytest
import torch

from .models import MODELS


@pytest.fixture(params=MODELS)
def case(request):
    """Each kind of model in turn: the model, an example, how many blocks it has, and what the second one reads."""
    make, example, blocks, shape = MODELS[request.param]
    torch.manual_seed(0)
    return make(), example(), blocks, shape
