"""Heads of models that give several outputs: what classifies is left out, as of a model that gives scores alone."""

import warnings
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.network.heads import HeadWarning
from forwardonly.network.signal import named_tensors

from .models import Encoder, localize

pytestmark = [
    pytest.mark.filterwarnings("ignore::forwardonly.network.localize.LargeBlockWarning"),
    pytest.mark.filterwarnings("ignore:The example does not reach"),  # the parts that an output leaves out
]


@dataclass
class Data:
    features: torch.Tensor
    logits: torch.Tensor


class Named(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


class Model(nn.Module):
    """Two layers, a head behind the second and another classifier behind the first; `gives` makes the output."""

    def __init__(self, gives):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(36, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.other, self.more = nn.Linear(16, 4), nn.Linear(4, 4)
        self.gives = gives

    def forward(self, x):
        first = torch.relu(self.one(x.flatten(1)))
        features = torch.relu(self.two(first))
        return self.gives(self, first, features, self.head(features))


def scores_alone(model, first, features, logits):
    return logits


TOLD = {
    "dict": lambda model, first, features, logits: {"logits": logits, "features": features},
    "dict of another class": lambda model, first, features, logits: UserDict(features=features, logits=logits),
    "nested": lambda model, first, features, logits: {"hidden_states": (first, features), "of": {"logits": logits}},
    "dataclass": lambda model, first, features, logits: Data(features, logits),
    "dataclass of one": lambda model, first, features, logits: Data(None, logits),
    "named tuple": lambda model, first, features, logits: Named(logits, features),
    "tuple": lambda model, first, features, logits: (features, logits),
    "list": lambda model, first, features, logits: [logits, first],
    "with probabilities": lambda model, first, features, logits: (logits.softmax(1), logits),
    "with a loss": lambda model, first, features, logits: (logits.square().mean(), logits, features),
}


def made(gives, **options):
    torch.manual_seed(0)
    return localize(Model(gives), **options)


@pytest.mark.parametrize("kind", TOLD)
def test_the_head_is_left_out_whatever_it_is_given_with(kind):
    expected, given = made(scores_alone), made(TOLD[kind])
    assert list(given.walled.walls) == list(expected.walled.walls) == ["one", "two"]
    assert all(map(torch.equal, given.state_dict().values(), expected.state_dict().values()))
    assert list(made(TOLD[kind], keep_head=True).walled.walls) == ["one", "two", "head"]


def test_a_model_of_two_outputs_learns_as_the_one_of_one(images):
    networks = [made(gives) for gives in (scores_alone, TOLD["dict"], TOLD["dataclass"])]
    for network in networks:
        fo.fit(network, images, epochs=2, batch_size=20, precision="fp32")
        assert fo.measure.leaks(network, images) == []
    first, *others = networks
    for other in others:
        assert all(map(torch.equal, first.state_dict().values(), other.state_dict().values()))


def auxiliary(model, first, features, logits):
    return logits, model.other(first)


def named(model, first, features, logits):
    return {"other": model.other(first), "logits": logits}


def changed(model, first, features, logits):
    return {"other": model.other(first), "logits": logits.tanh()}


@pytest.mark.parametrize(
    ("gives", "said", "walls"),
    [
        (auxiliary, "Which layer is the model's head cannot be told: 'head' and 'other' give outputs of the", []),
        (named, "Beside the head 'head', 'other' gives an output of the model; no block trains it", []),
        (changed, "Which layer is the model's head cannot be told: 'other' gives an output of the model", ["head"]),
    ],
)
def test_where_several_layers_give_outputs_it_is_said(gives, said, walls):
    with pytest.warns(HeadWarning, match=said) as seen:
        network = made(gives)
    assert list(network.walled.walls) == ["one", "two", *walls] and seen[0].filename.endswith("models.py")
    assert len(made(gives, keep_head=True).row) == 4  # without a warning


def test_a_layer_that_weights_follow_is_no_head():
    def cascade(model, first, features, logits):
        return {"logits": logits, "fine": torch.tanh(model.more(torch.relu(logits)))}

    def joined(model, first, features, logits):
        return {"logits": logits, "both": logits + model.other(first)}

    assert list(made(cascade).walled.walls) == ["one", "two", "head", "more"]
    assert list(made(joined).walled.walls) == ["one", "two", "head", "other"]


def test_what_ends_behind_the_head_and_is_not_made_of_it_stays():
    def with_decoder(model, first, features, logits):
        return {"logits": logits, "decoded": torch.relu(model.other(features))}

    assert list(made(with_decoder).walled.walls) == ["one", "two", "other"]


def test_a_module_around_body_and_head_is_opened():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Model(TOLD["dict"])

        def forward(self, x):
            return self.inner(x)

    assert list(localize(Around()).walled.walls) == ["inner.one", "inner.two"]


class Tokens(Encoder):
    """Gives its tokens before its scores, by which alone the class token shows."""

    def __init__(self, gives):
        super().__init__()
        self.gives = gives
        self.norm.register_forward_hook(lambda module, arguments, output: setattr(self, "seen", (output,)))

    def forward(self, x):
        scores = super().forward(x)
        return self.gives(*self.seen, scores)


@pytest.mark.parametrize("gives", [lambda tokens, scores: (tokens, scores), Data], ids=["tuple", "dataclass"])
def test_the_class_token_is_seen_by_the_scores(gives):
    torch.manual_seed(0)
    expected = [block.reading.layouts for block in localize(Encoder()).row]
    assert [block.reading.layouts for block in localize(Tokens(gives)).row] == expected
    assert {layout.pool for layouts in expected for layout in layouts} >= {"class-token"}


def test_what_no_block_can_be_made_of_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="none of its modules with weights beside its head \\('1'\\) is called"):
        localize(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)))
    with pytest.raises(ValueError, match="No wall can stand behind 'head': the model's head is left out, unless keep"):
        made(TOLD["tuple"], blocks=["one", "head"])


def test_the_own_head_is_the_one_that_gives_the_logits():
    class Language(nn.Module):
        def __init__(self, gives):
            super().__init__()
            self.table = nn.Embedding(9, 8)
            self.one, self.two = (nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2))
            self.head, self.far = nn.Linear(8, 9), nn.Linear(8, 9)
            self.gives = gives

        def forward(self, ids):
            x = self.two(self.one(self.table(ids)))
            return self.gives(self.head(x), self.far(x))

    rule = fo.rules.Projection(classes=9, targets="token")
    ids = torch.arange(10).view(2, 5) % 9

    def own(gives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadWarning)
            return fo.localize(Language(gives), rule, ids, heads="own", readout="last")

    network = own(lambda near, far: {"next": far, "logits": near}).eval()
    with torch.no_grad():
        assert torch.equal(network.scores(ids)[-1], network.model(ids)["logits"])
    with pytest.raises(ValueError, match="needs a model whose output, or its entry logits, a linear layer gives"):
        own(lambda near, far: (near, far))


def test_the_places_of_an_outputs_tensors():
    one, two, three = torch.zeros(1), torch.ones(1), torch.ones(2)
    output = {"logits": one, "hidden": (two, [Data(three, None)]), "none": None, "number": 3}
    assert [place for place, _ in named_tensors(output)] == ["logits", "hidden.0", "hidden.1.0.features"]
    assert [place for place, _ in named_tensors(one)] == [""]
