"""Token ids that a model's embedding does not have are one sentence; a compiled model too."""

import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.network.block import Block
from forwardonly.rules import BlockPosition

pytestmark = pytest.mark.filterwarnings("ignore::forwardonly.network.localize.LargeBlockWarning")
RULE = fo.rules.Projection(classes=2)
IDS, LABELS = torch.randint(0, 50, (60, 9), generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
SAYS = "but the network's embedding has the ids 0 to 49."


def model(*first):
    return nn.Sequential(*first, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())


class Named(nn.Module):
    """Takes token ids and a mask by name."""

    def __init__(self):
        super().__init__()
        self.layers = model(nn.Embedding(50, 16))

    def forward(self, ids, attention_mask):
        return self.layers(ids) * attention_mask[..., None]


class Wrapping(nn.Module):
    """Ids of any size are made small before they are looked up."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 16)

    def forward(self, ids):
        return self.table(ids % 50)


class Columns(nn.Module):
    """Each column of whole numbers has a table of its own."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Embedding(5, 16), nn.Embedding(50, 16)

    def forward(self, ids):
        return self.small(ids[:, :1]) + self.large(ids[:, 1:])


def refused(call):
    with pytest.raises(ValueError) as told:
        call()
    assert "\n" not in str(told.value)
    return str(told.value)


def by_hand():
    body = nn.Sequential(nn.Sequential(nn.Embedding(50, 16), nn.Flatten()), nn.Linear(144, 16))
    return fo.Network([Block(body, RULE.for_block((16,), BlockPosition(0, 1)))], shape=(9,))


@pytest.mark.parametrize("made", [lambda: fo.localize(model(nn.Embedding(50, 16)), RULE, IDS[:2], blocks=2), by_hand])
def test_ids_outside_the_vocabulary_are_named(made):
    network = made()
    highest, fits = int(IDS.max()) + 40, IDS.clone()
    fits[0, 0] = 49
    assert refused(lambda: fo.fit(network, (IDS + 40, LABELS), epochs=1)) == (
        f"X of train has the token id {highest}, {SAYS}"
    )
    assert SAYS in refused(lambda: fo.evaluate(network, (IDS - 50, LABELS)))
    assert SAYS in refused(lambda: fo.fit(network, [(IDS, LABELS), (IDS + 40, LABELS)], epochs=1))
    assert f"the token id -1, {SAYS}" in refused(lambda: network.predict(torch.full((2, 9), -1)))
    assert f"the token id 50, {SAYS}" in refused(lambda: network.scores(torch.full((2, 9), 50)))
    fo.fit(network, (fits, LABELS), epochs=1)
    assert network.predict(fits).shape == (60,)


def test_a_saved_network_knows_its_vocabulary(tmp_path):
    fo.save(fo.localize(model(nn.Embedding(50, 16)), RULE, IDS[:2], blocks=2), tmp_path)
    again = fo.load(tmp_path, model=model(nn.Embedding(50, 16)))
    assert SAYS in refused(lambda: again.predict(IDS + 40))


def test_of_several_inputs_the_one_with_ids_is_named():
    mask = torch.ones(60, 9, dtype=torch.int64)
    network = fo.localize(Named(), RULE, {"ids": IDS[:2], "attention_mask": mask[:2]}, blocks=2)
    assert refused(lambda: network.predict({"ids": IDS * 0 + 50, "attention_mask": mask})) == (
        f"The input 'ids' has the token id 50, {SAYS}"
    )
    assert len(network.predict({"ids": IDS, "attention_mask": mask * 70})) == 60, "a mask is no token id"


@pytest.mark.parametrize("first", [Wrapping, Columns])
def test_ids_that_the_model_changes_first_are_its_own_matter(first):
    ids = torch.cat([IDS[:, :1] % 5, IDS[:, 1:] % 50], dim=1)
    network = fo.localize(model(first()), RULE, ids[:2], blocks=2)
    assert "vocabulary" not in network.config["form"]
    assert len(network.predict(ids)) == 60


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda part: torch.jit.trace(part, torch.zeros(2, 4))])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of TorchScript
def test_a_compiled_model_is_refused(compiled):
    part = compiled(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    says = "a compiled ScriptModule, in which no wall can stand: give the module that it was made of."
    assert refused(lambda: fo.localize(part, RULE, torch.zeros(2, 4))) == f"The model is {says}"
    whole = nn.Sequential(part, nn.Linear(4, 4), nn.ReLU())
    assert refused(lambda: fo.localize(whole, RULE, torch.zeros(2, 4))) == f"The model's part '0' is {says}"
