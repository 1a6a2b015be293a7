"""`network.predict` reads what `fo.fit` and `fo.evaluate` read, and refuses the rest in one sentence."""

from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import forwardonly as fo

RULE = fo.rules.Projection(classes=10)
DIGITS = load_digits()


def mlp(features, *, head=True):
    last = [nn.Linear(64, 10)] if head else []
    return nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), *last)


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp(64)

    def forward(self, x, z):
        return self.body(x + z)


@pytest.fixture(scope="module")
def pictures():
    net = fo.mlp((1, 8, 8), [16], rule=RULE)
    fo.fit(net, (DIGITS.images[:300], DIGITS.target[:300]), epochs=1)
    return net


def table(network):
    fo.fit(network, (DIGITS.data[:300], DIGITS.target[:300]), epochs=1)
    return network


@pytest.fixture(scope="module", params=["own", "localized"])
def tabular(request):
    own = request.param == "own"
    return table(fo.mlp((64,), [16], rule=RULE) if own else fo.localize(mlp(64), RULE, torch.zeros(2, 64)))


def test_pictures_without_a_channel_axis_and_with_it_last(pictures):
    x = DIGITS.images[:40]
    expected = pictures.predict(torch.from_numpy(x).float().unsqueeze(1))
    assert fo.evaluate(pictures, (x, expected)).accuracy == 1
    for same in (x, torch.from_numpy(x), x[..., None], x.tolist(), (x, DIGITS.target[:40])):
        assert torch.equal(pictures.predict(same), expected)
    scores = pictures.scores(x)
    assert torch.equal(pictures(x), pictures.readout(scores)) and pictures.probabilities(x).shape == (40, 10)


def test_whole_numbers_are_pixels_to_a_network_that_has_learned_pixels():
    pixels = (DIGITS.images[:300, None] * 15).astype(np.uint8)
    net = fo.mlp((1, 8, 8), [16], rule=RULE)
    fo.fit(net, (pixels.astype(np.int64), DIGITS.target[:300]), epochs=1)
    for kind in (np.int64, np.int32, np.uint16):
        assert torch.equal(net.predict(pixels[:40].astype(kind)), net.predict(pixels[:40]))
    assert torch.equal(net.predict(torch.from_numpy(pixels[:40]).long()), net.predict(pixels[:40]))
    with pytest.raises(ValueError, match="numbers from 0 to 300, they must be 0 to 255"):
        net.predict(np.full((1, 1, 8, 8), 300) * (np.arange(8) > 3))


def test_tables_of_any_kind(tabular):
    x = DIGITS.data[:40]
    expected = tabular.predict(torch.from_numpy(x).float())
    assert fo.evaluate(tabular, (x, expected)).accuracy == 1
    frame = pd.DataFrame(x, columns=DIGITS.feature_names)
    for same in (x, torch.from_numpy(x), frame, x.astype(int), x.tolist(), (frame, DIGITS.target[:40])):
        assert torch.equal(tabular.predict(same), expected)


@pytest.mark.parametrize("form", [dict, UserDict, tuple, list])
def test_several_inputs_of_any_kind(form):
    torch.manual_seed(0)
    named = issubclass(form, dict | UserDict)

    def several(x):
        return form({"x": x, "z": x} if named else (x, x))

    net = fo.localize(
        Adds(), RULE, several(torch.zeros(2, 64)) if form is not UserDict else dict.fromkeys("xz", torch.zeros(2, 64))
    )
    x = DIGITS.data[:40]
    if form is list:  # which is data to `predict`: examples, or batches
        assert torch.equal(net.scores(several(x)), net.scores(several(torch.from_numpy(x).float())))
        return
    fo.fit(net, (several(x), DIGITS.target[:40]), epochs=1)
    expected = net.predict(several(torch.from_numpy(x).float()))
    assert torch.equal(net.predict(several(x)), expected)
    assert torch.equal(net.predict(several(pd.DataFrame(x))), expected)
    assert torch.equal(net.predict((several(x), DIGITS.target[:40])), expected)


def test_parts_in_parts_go_to_the_model_as_they_are():
    class Nested(Adds):
        def forward(self, pair, z):
            return super().forward(pair[0] + pair[1], z)

    x = torch.randn(4, 64)
    net = fo.localize(Nested(), RULE, ((x, x), x))
    assert net.predict(((x[:3], x[:3]), x[:3])).shape == (3,)


REFUSED = [
    (torch.zeros(3, 63), "63"),
    (torch.zeros(3), "examples|batch x 64"),
    (np.array([["a"] * 64]), "must be numbers, not <U1"),
    (pd.DataFrame({"a": ["b"]}), "its column 'a' holds .*, not numbers"),
    (np.full((2, 64), np.nan), "NaN or infinite values, first in example 0"),
    (np.array(3.0), "examples"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_a_network_cannot_read_is_one_clear_sentence(tabular, given, words):
    with pytest.raises(ValueError, match=words) as said:
        tabular.predict(given)
    assert "\n" not in str(said.value)


SIZES = [
    ({"x": torch.zeros(4, 64), "z": torch.zeros(1, 64)}, "its parts have 1, 4 examples"),
    ({"x": torch.zeros(4, 63), "z": torch.zeros(4, 63)}, "inputs of 4 x 63, 4 x 63, for its example was of batch x 64"),
    ({"x": torch.zeros(4, 64), "z": torch.zeros(4, 63)}, "inputs of 4 x 64, 4 x 63, for its example was of batch x 64"),
    ({"x": torch.zeros(4, 64), "z": torch.zeros(4, 64, dtype=torch.int64)}, "input 'z' takes floats"),
    ({"x": np.array([["a"]]), "z": torch.zeros(1, 64)}, r"\['x'\] must be numbers"),
]


@pytest.mark.parametrize(("given", "words"), SIZES, ids=[words for _, words in SIZES])
def test_parts_of_other_lengths_sizes_and_types_are_one_clear_sentence(given, words):
    net = fo.localize(Adds(), RULE, dict.fromkeys("xz", torch.zeros(2, 64)))
    with pytest.raises(ValueError, match=words) as said:
        net.predict(given)
    assert "\n" not in str(said.value)


def test_an_error_of_the_models_own_is_not_taken_for_one_of_sizes():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fails = mlp(64, head=False), False

        def forward(self, x):
            if self.fails:
                raise RuntimeError("its own")
            return self.body(x)

    model = Fails()
    net = fo.localize(model, RULE, torch.zeros(2, 64))
    model.fails = True
    with pytest.raises(RuntimeError, match="its own"):
        net.predict(torch.zeros(3, 64))
