"""The library's guarantees: no gradient crosses a block, memory does not grow with depth, the same seed gives the same
bits.
"""

import pytest
import torch

import forwardonly as fo
from forwardonly.system.precision import autocast
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

LOCAL_RULES = [name for name, entry in fo.rules.TABLE.items() if not fo.rules.rule_class(entry).end_to_end]
FLAT_RULES = [  # a rule that hears all blocks must keep all their graphs until the last one has spoken
    name for name in LOCAL_RULES if getattr(fo.rules.TABLE[name](classes=4), "needs_peers", "none") != "all"
]


def step(net, images, *, scale_loss_of=None):
    """One training step by hand; `scale_loss_of` multiplies one block's loss by 3."""
    incoming = net.present(images.images, images.labels, torch.Generator().manual_seed(1))
    updates = [Update(block, TrainingConfig(optimiser="sgd", learning_rate=0.1)) for block in net.row]
    if scale_loss_of is not None:
        rule = net.row[scale_loss_of].rule
        loss = rule.loss
        rule.loss = lambda *given: 3 * loss(*given)
    whole_step(net, updates, Batch(incoming, images.labels), Context("fp32"))


def network(images, rule_name, depth=3, width=12):
    rule = fo.rules.TABLE[rule_name](classes=len(images.classes))
    net = fo.mlp(images.shape, [width] * depth, rule=rule)
    net.prepare.fit(images.images)
    return net


@pytest.mark.parametrize("rule_name", LOCAL_RULES)
def test_changing_a_blocks_loss_leaves_earlier_blocks_bitwise_alone(images, rule_name):
    nets = [network(images, rule_name) for _ in range(2)]
    step(nets[0], images)
    step(nets[1], images, scale_loss_of=1)
    plain, changed = (dict(net.blocks.named_parameters()) for net in nets)
    same = {name for name in plain if torch.equal(plain[name], changed[name])}
    assert {name for name in plain if name.startswith("0.")} <= same
    assert "1.body.1.weight" not in same


@pytest.mark.parametrize("rule_name", LOCAL_RULES)
def test_what_a_block_passes_on_carries_no_graph(images, rule_name):
    net = network(images, rule_name)
    incoming = net.present(images.images, images.labels, torch.Generator().manual_seed(0))
    for block in net.row:
        activation = block(incoming)
        assert activation.requires_grad
        incoming = block.pass_on(activation, incoming)
        assert not incoming.requires_grad
        assert incoming.grad_fn is None


def saved_bytes(images, rule_name, depth, dtype="fp32"):
    net = network(images, rule_name, depth=depth, width=images.images[0].numel())
    updates = [Update(block, TrainingConfig()) for block in net.row]
    incoming = net.present(images.images, images.labels, torch.Generator().manual_seed(0))
    with fo.measure.SavedBytes() as saved, autocast(dtype, torch.device("cpu")):
        whole_step(net, updates, Batch(incoming, images.labels), Context(dtype))
    return saved.peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rule_name", FLAT_RULES)
def test_bytes_saved_for_backward_do_not_grow_with_depth(images, rule_name, precision):
    assert saved_bytes(images, rule_name, 32, precision) == saved_bytes(images, rule_name, 4, precision) > 0


def test_backprop_saves_more_the_deeper_it_is(images):
    assert saved_bytes(images, "backprop", 32) > 5 * saved_bytes(images, "backprop", 4)


@pytest.mark.parametrize("rule_name", fo.rules.TABLE)
@pytest.mark.parametrize("schedule", ["simultaneous", "greedy"])
def test_same_seed_same_bits(images, rule_name, schedule):
    weights = []
    for _ in range(2):
        torch.rand(3)  # the global random state must not matter
        net = network(images, rule_name, depth=2)
        fo.fit(net, images, epochs=2, batch_size=16, seed=5, schedule=schedule)
        weights.append(net.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_other_weights(images):
    nets = [network(images, "hyperspherical", depth=1) for _ in range(2)]
    for seed, net in enumerate(nets):
        fo.fit(net, images, epochs=1, batch_size=16, seed=seed)
    assert not torch.equal(nets[0].row[0].body[1].weight, nets[1].row[0].body[1].weight)
