"""A model's own head reads every block: `fo.localize(..., heads="own")`."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import forwardonly as fo
from forwardonly.system import mapped
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.memory import budget
from forwardonly.training.memory.offload import Offload
from forwardonly.training.step import Context, train_step_in_place
from forwardonly.training.update import Update

WORDS, WIDTH, DEPTH = 40, 16, 4


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        before = x.cumsum(1) / torch.arange(1, x.shape[1] + 1).view(1, -1, 1)  # looks back, as a language model does
        return x + torch.tanh(self.mix(self.norm(before)))


class Language(nn.Module):
    """A small causal model; its head is the embedding's matrix, as in most."""

    def __init__(self, tied=True, last_norm=True):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH) if last_norm else nn.Identity()
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def rule(classes=WORDS, **options):
    return fo.rules.Projection(classes=classes, targets="token", **options)


def texts(rows=12, length=9):
    steps = torch.randint(1, 3, (rows, 1), generator=torch.Generator().manual_seed(0))
    return (torch.arange(length) * steps) % WORDS


def made(model=None, **options):
    torch.manual_seed(0)
    model = model or Language()
    return fo.localize(model, rule(), texts()[:2, :-1], heads="own", readout="last", **options)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("last_norm", [True, False])
def test_untrained_it_says_what_the_model_says(tied, last_norm):
    torch.manual_seed(3)
    model = Language(tied, last_norm).eval()
    net = made(model).eval()
    assert len(net.row) == DEPTH
    tokens = texts()[:, :-1]
    with torch.no_grad():
        assert torch.equal(net.scores(tokens)[-1], model(tokens))


def test_each_block_is_read_by_the_lens_as_the_paper_has_it():
    torch.manual_seed(3)
    model = Language().eval()
    net = made(model).eval()
    tokens = texts()[:, :-1]
    x = model.embedding(tokens)
    for index, layer in enumerate(model.layers[:-1]):
        x = layer(x)
        lens = net.row[index].rule.own_head
        nn.init.normal_(lens.translator.weight, std=0.1)
        shifted = x + x @ lens.translator.weight.T + lens.translator.bias
        expected = F.layer_norm(shifted, (WIDTH,)) @ model.embedding.weight.T
        with torch.no_grad():
            torch.testing.assert_close(net.scores(tokens)[index], expected)


def test_no_gradient_reaches_the_head_or_another_block():
    net = made()
    assert fo.measure.leaks(net, texts()) == []
    loss, _ = net.row[1].rule.local_loss(torch.randn(2, 8, WIDTH, requires_grad=True), texts(2)[:, 1:], None)
    loss.backward()
    assert net.model.head.weight.grad is None
    assert net.row[1].rule.own_head.translator.weight.grad is not None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_in_parts_is_the_loss(smoothing, monkeypatch):
    monkeypatch.setattr("forwardonly.rules.own_head.ROWS", 5)
    own = made().row[0].rule.own_head
    features = torch.randn(13, WIDTH, requires_grad=True)
    words = torch.randint(0, WORDS, (13,))
    nn.init.normal_(own.translator.weight, std=0.1)
    parts = own.loss(features, words, smoothing)
    whole = F.cross_entropy(own(features), words, label_smoothing=smoothing)
    torch.testing.assert_close(parts, whole)
    wanted = [features, *own.parameters()]
    for one, other in zip(torch.autograd.grad(parts, wanted), torch.autograd.grad(whole, wanted), strict=True):
        torch.testing.assert_close(one, other)


def test_the_head_is_neither_saved_twice_nor_counted_in_a_block():
    net = made()
    assert not [
        name for name in net.state_dict() if name.endswith("head.weight") and name != "walled.model.head.weight"
    ]
    assert all(weight.shape != (WORDS, WIDTH) for block in net.row for weight in block.rule.parameters())


@pytest.mark.parametrize("heads_first", [0.0, 0.3])
def test_every_block_learns_and_the_folder_gives_it_back(tmp_path, heads_first):
    net = made()
    run = fo.fit(net, texts(64), epochs=12, batch_size=16, learning_rate=5e-3, heads_first=heads_first, seed=1)
    first, last = run.history[0]["loss"], run.history[-1]["loss"]
    assert all(after < before for before, after in zip(first, last, strict=True))
    fo.save(net, tmp_path / "net")
    again = fo.load(tmp_path / "net", model=Language())
    tokens = texts()[:, :-1]
    with torch.no_grad():
        assert torch.equal(again.eval().scores(tokens), net.eval().scores(tokens))


def test_the_plain_model_is_given_back_with_its_head():
    model = Language()
    assert fo.unlocalize(made(model)) is model


def test_offloading_changes_no_bit_though_the_head_is_the_first_blocks_embedding():
    def trained(offloaded):
        net = made().train()
        updates = [Update(block, TrainingConfig(learning_rate=0.01)) for block in net.row]
        tokens = texts()
        with Offload(net, updates, torch.device("cpu")) if offloaded else torch.enable_grad():
            for _ in range(3):
                train_step_in_place(net, updates, Batch(tokens[:, :-1], tokens[:, 1:]), Context("fp32"))
            return [weight.clone() for weight in net.state_dict().values()]

    assert all(map(torch.equal, trained(True), trained(False)))


class TwoWidths(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 4)
        self.up = nn.Linear(4, 12)
        self.flat = nn.Linear(12, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens):
        return self.head(torch.tanh(self.flat(torch.tanh(self.up(self.embedding(tokens))))))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fo.localize(TwoWidths(), rule(), texts()[:2], heads="own"), "reads 16 features, but block 0 gives 12"),
        (lambda: fo.localize(Language(), rule(classes=9), texts()[:2], heads="own"), "gives 40 scores"),
        (lambda: fo.localize(Language(), rule(), texts()[:2], heads="own", keep_head=True), "keep_head=False"),
        (lambda: fo.localize(Language(), rule(), texts()[:2], heads="mine"), "heads is 'new' or 'own', not 'mine'"),
        (
            lambda: fo.localize(Language(), fo.rules.Projection(classes=WORDS), texts()[:2], heads="own"),
            "heads='own' is for the next token",
        ),
    ],
)
def test_a_head_that_cannot_read_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("tied", [True, False])
def test_blocks_that_read_a_head_which_another_trains_are_not_called_alone(tied):
    network = made(Language(tied))
    network.emit()
    assert network.in_place == tied and ("tied to weights that a block trains" in network.stays_because) == tied


@pytest.mark.parametrize("tied", [True, False])
def test_the_plan_counts_a_head_in_a_file_for_each_block_that_borrows_it(tied):
    model = Language(tied)
    head = model.head.weight
    head.data = mapped.Arena().copy(head.data)
    counted = [sum(budget._borrowed(block).values()) for block in made(model).row]
    own = head.nbytes
    assert counted == ([0, own, own, own] if tied else [own] * 4)
