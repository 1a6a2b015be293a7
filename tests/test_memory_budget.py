"""Training within a memory budget: micro-batches, offloaded blocks, memory-mapped tensors."""

import copy
import importlib
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import forwardonly as fo
from forwardonly.cli import main
from forwardonly.network.storage import packed
from forwardonly.system import mapped
from forwardonly.system.memory import AllocatedBytes, memory_bytes, parse_bytes
from forwardonly.training import TrainingConfig, trainer
from forwardonly.training.batch import Batch
from forwardonly.training.memory import budget
from forwardonly.training.memory.offload import HostStore, Offload, tensors_of
from forwardonly.training.step import Context, train_step
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

CPU = torch.device("cpu")
RULES = {
    "projection": fo.rules.Projection(classes=4),
    "hyperspherical": fo.rules.Hyperspherical(classes=4),
    "ff": fo.rules.ForwardForward(classes=4, negatives="uniform"),
    "cumulative": fo.rules.TABLE["cumulative"](classes=4),
    "backprop": fo.rules.Backprop(classes=4),
}


def conv(rule="projection", depth=3):
    return fo.build(fo.bodies.Conv(depth=depth, channels=5), (3, 8, 8), rule=RULES[rule]).train()


def batch(network, count=7):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, *network.shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, network.classes, (count,), generator=generator)
    return Batch(network.present(images, labels, wrong=(labels + 1) % network.classes), labels)


def updates(network, **config):
    return [Update(block, TrainingConfig(precision="fp32", **config)) for block in network.row]


@pytest.mark.parametrize("rule", ["projection", "hyperspherical", "ff", "backprop"])
@pytest.mark.parametrize("part", [1, 3, 7, 100])
def test_micro_batches_add_up_to_one_step(rule, part):
    networks = [conv(rule), conv(rule)]
    told = []
    for network, size in zip(networks, (None, part), strict=True):
        moves = updates(network, optimiser="sgd", learning_rate=0.1)
        losses, behind = train_step(network.row, moves, batch(network), Context("fp32", micro_batch=size))
        told.append((losses, behind.signal))
    assert torch.allclose(told[0][0], told[1][0], rtol=1e-5)
    assert torch.allclose(told[0][1], told[1][1], rtol=1e-5, atol=1e-6)
    for whole, added in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(whole, added, rtol=1e-4, atol=1e-6)


def test_a_block_reads_the_right_peers_in_micro_batches():
    networks = [conv("cumulative"), conv("cumulative")]
    assert networks[0].rule.needs_peers == "earlier"
    whole, parts = (
        train_step(network.row, updates(network), batch(network), Context("fp32", micro_batch=part))[0]
        for network, part in zip(networks, (None, 2), strict=True)
    )
    assert torch.allclose(whole, parts, rtol=1e-5)


def test_a_part_needs_less_than_the_whole():
    peaks = []
    for part in (None, 4):
        network = conv(depth=1)
        moves, whole = updates(network), batch(network, 64)
        with AllocatedBytes(known=[whole.signal, whole.labels]) as held:
            train_step(network.row, moves, whole, Context("fp32", micro_batch=part))
        peaks.append(held.peak)
    assert peaks[1] < 0.75 * peaks[0]


def room_of(kind, network, moves):
    room = Offload(network, moves, CPU)
    if kind is HostStore:  # an accelerator's store, with the CPU in the accelerator's place
        room.stores = [HostStore(block, move, CPU) for block, move in zip(network.row, moves, strict=True)]
    return room


@pytest.mark.parametrize("kind", [None, HostStore])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd", "nadam", "muon"])
def test_offloading_changes_no_bit(kind, optimiser):
    plain, offloaded = (
        fo.build(fo.bodies.CNN(width=0.1), (1, 16, 16), rule=RULES["projection"]).train() for _ in range(2)
    )
    for network in (plain, offloaded):
        moves = updates(network, optimiser=optimiser, learning_rate=0.01)
        room = room_of(kind, network, moves) if network is offloaded else torch.no_grad
        signal, labels = batch(network)[:2]
        with room if network is offloaded else torch.enable_grad():
            losses = [whole_step(network, moves, Batch(signal, labels), Context("fp32")) for _ in range(3)]
        network.last = losses[-1]
    assert torch.equal(plain.last, offloaded.last)
    for one, two in zip(plain.state_dict().values(), offloaded.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_only_the_working_block_and_the_next_are_on_the_accelerator():
    network = conv(depth=4)
    moves = updates(network)
    room = room_of(HostStore, network, moves)
    seen = []
    signal, labels = batch(network)[:2]
    with room:
        homes = [[tensor.data_ptr() for tensor in tensors_of(*pair)] for pair in zip(network.row, moves, strict=True)]

        def away():
            now = [[tensor.data_ptr() for tensor in tensors_of(*pair)] for pair in zip(network.row, moves, strict=True)]
            return [home != place for home, place in zip(homes, now, strict=True)]

        for block in network.row:
            block.body.register_forward_hook(lambda *_: seen.append(away()))
        whole_step(network, moves, Batch(signal, labels), Context("fp32"))
        room.empty()
        assert away() == [False] * 4
    assert seen == [[k in (index, index + 1) for k in range(4)] for index in range(4)]


def test_released_maps_keep_their_values_and_take_no_memory(tmp_path):
    arena = mapped.Arena(tmp_path)
    ballast = arena.copy(torch.arange(2**24, dtype=torch.float32))
    held = memory_bytes(CPU)
    mapped.release()
    assert memory_bytes(CPU) < held - 2**25
    assert torch.equal(ballast, torch.arange(2**24, dtype=torch.float32))
    assert mapped.holds(ballast)
    assert not mapped.holds(torch.ones(3))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match="is full"):
        mapped.Arena(tmp_path).copy(torch.ones(3))


@pytest.mark.parametrize("body", [fo.bodies.MLP(hidden=(600, 600)), fo.bodies.Conv(depth=2, channels=200)])
def test_a_network_built_in_files_has_the_same_weights(body, tmp_path):
    usual = fo.build(body, (1, 8, 8), rule=RULES["projection"])
    with mapped.Building(mapped.Arena(tmp_path)):
        built = fo.build(body, (1, 8, 8), rule=RULES["projection"])
    for one, two in zip(usual.parameters(), built.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.stride() == two.stride()
        assert mapped.holds(two) == (two.nbytes >= mapped.LARGE)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "nadam", "muon"])
def test_state_made_beforehand_is_the_same(optimiser):
    ends = []
    for early in (False, True):
        network = conv()
        moves = updates(network, optimiser=optimiser, learning_rate=0.01, weight_decay=0.1)
        for move in moves if early else []:
            move.allocate()
        for _ in range(3):
            whole_step(network, moves, batch(network), Context("fp32"))
        ends.append(network.state_dict())
    for one, two in zip(*(end.values() for end in ends), strict=True):
        assert torch.equal(one, two)


def test_allocated_bytes_are_those_of_living_tensors():
    before = torch.ones(1000)
    with AllocatedBytes(known=[before]) as held:
        _ = before * 2 + 1  # two of 4000 bytes at a time
        twice = before[:10] * 2
        del twice
        assert held.now == 4000
    assert held.peak == 8000


@pytest.mark.parametrize(("text", "size"), [("2GiB", 2**31), ("512 MiB", 2**29), ("1.5gb", 1_500_000_000)])
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "12", "GiB", "2 GiBs", "-1GiB", "1e3MB"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="such as 512MiB or 2GiB"):
        TrainingConfig(memory_budget=text)


def test_a_file_in_pieces_is_one_that_safetensors_reads():
    tensors = {
        "a": torch.arange(5),
        "b": torch.randn(3, 4).to(torch.bfloat16).T,
        "c": torch.tensor(2.5),
        "d": torch.zeros(0, 3),
        "e": torch.tensor([True, False, True]),
    }
    content = b"".join(packed(tensors, {"tree": "é"}))
    read = safetensors.torch.load(content)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def plan_of(digits, size, **options):
    network = fo.mlp(digits.train.shape, [64] * 6, rule=fo.rules.Projection(classes=10))
    config = TrainingConfig(memory_budget=size, precision="fp32", **options)
    return budget.make_plan(network, digits.train, config, CPU, config.batch_size)


def test_plans_from_large_to_small(digits, monkeypatch):
    monkeypatch.setattr(budget, "memory_bytes", lambda device: 0)
    monkeypatch.setattr(budget, "peak_memory_bytes", lambda device: 0)
    monkeypatch.setattr(budget, "RESERVE", 0)
    costs = {}
    for kilobytes in range(100, 900, 40):
        try:
            plan = plan_of(digits, f"{kilobytes}KB")
        except ValueError as problem:
            assert "smallest memory budget" in str(problem)  # which of the sizes are too small is not known
        else:
            costs[kilobytes] = (plan.offload, -plan.micro_batch)
    assert list(costs.values()) == sorted(costs.values(), reverse=True)
    assert costs[max(costs)] == (False, -128)
    assert costs[min(costs)][0]
    assert {part for offload, part in costs.values() if not offload} <= {-32, -64, -128}


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("ff", {}, "uniform negatives"),
    ],
)
def test_what_cannot_be_done_in_parts_is_said(digits, rule, options, message):
    options = copy.deepcopy(options)
    made = fo.rules.TABLE[rule](classes=10, **options.pop("rule", {}))
    network = fo.mlp(digits.train.shape, [16, 16], rule=made)
    with pytest.raises(ValueError, match=message):
        fo.fit(network, digits.train, epochs=1, memory_budget="8GiB", **options)


def test_a_generous_budget_changes_no_bit(digits):
    ends = []
    for size in (None, "64GiB"):
        network = fo.mlp(digits.train.shape, [32, 32], rule=fo.rules.Hyperspherical(classes=10))
        fo.fit(network, digits.train, epochs=1, memory_budget=size, precision="fp32")
        ends.append(network.state_dict())
    assert all(torch.equal(one, two) for one, two in zip(*(end.values() for end in ends), strict=True))


def forwardonly(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "forwardonly", *words]
    return subprocess.run(call, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_larger_than_the_budget_trains_within_it(tmp_path, precision):
    hidden = ["--hidden", *["500"] * 80]  # 240 MB with what the optimiser keeps
    words = ["train", "--rule", "projection", *hidden, "--epochs", "1", "--precision", precision, "--json"]
    words += ["--out", str(tmp_path / "run")]
    refused = forwardonly(*words, "--memory-budget", "1MiB")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    smallest = int(refused.stderr.rpartition(" ")[2].removesuffix("MiB.\n"))
    size = f"{smallest + 32}MiB"
    trained = forwardonly(*words, "--memory-budget", size)
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    assert result["peak_memory_bytes"] <= parse_bytes(size)
    assert result["plan"]["offload"]
    assert fo.load(tmp_path / "run").row[79].body[1].weight.shape == (500, 500)


def test_nonsense_is_one_sentence(capsys, tmp_path):
    assert main(["train", "--memory-budget", "lots", "--out", str(tmp_path / "run")]) == 2
    assert "such as 512MiB or 2GiB" in capsys.readouterr().err


HOLES = """
import torch, forwardonly as fo
from forwardonly.system.allocator import return_freed_memory
from forwardonly.system.memory import memory_bytes
from forwardonly.training import TrainingConfig
from forwardonly.training.memory.offload import Offload
from forwardonly.training.update import Update

network = fo.mlp((1, 8, 8), [64, 64], rule=fo.rules.Projection(classes=4))
offload = Offload(network, [Update(block, TrainingConfig()) for block in network.row], torch.device("cpu"))
print(return_freed_memory())
with offload:
    kept = [torch.ones(8000) for _ in range(4000)]  # 128 MB of the heap
    last = torch.ones(8000)  # above them, so that glibc does not shrink the heap by itself
    full = memory_bytes(torch.device("cpu"))
    del kept
    offload.empty()
    print((full - memory_bytes(torch.device("cpu"))) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_what_a_block_leaves_free_in_the_heap_is_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    told, given_back = done.stdout.split()
    if told == "False":
        pytest.skip("another C library than glibc")
    assert int(given_back) > 100


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_weight_is_found_without_a_copy_of_all(value):
    weight = torch.randn(200, 300)
    with AllocatedBytes(known=[weight]) as held:
        assert trainer._finite(weight) and trainer._finite(torch.empty(0))
    assert held.peak < weight.nbytes / 100
    weight[17, 5] = value
    assert not trainer._finite(weight)


class Stopped(Exception):
    """Somebody pulled the plug."""


def test_a_run_whose_blocks_are_offloaded_goes_on_to_the_same_bits(digits, tmp_path, monkeypatch):
    module = importlib.import_module("forwardonly.training.fit")
    monkeypatch.setattr(module, "make_plan", lambda *_: budget.MemoryPlan(50, True, 90))

    def train(folder, stop=None, **more):
        network = fo.mlp(digits.train.shape, [16, 16, 16], rule=fo.rules.Projection(classes=10))

        def progress(event):
            if event.step == stop:
                raise Stopped

        options = {"epochs": 2, "precision": "fp32", "memory_budget": "1GiB", "checkpoint_every": 3, "out": folder}
        return fo.fit(network, digits.train, test=digits.test, progress=progress, **options, **more)

    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", stop=15)
    rest = train(tmp_path / "cut", resume=True)
    for one, two in zip(whole.network.state_dict().values(), rest.network.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert whole.result["test_accuracy"] == rest.result["test_accuracy"]
    assert whole.result["plan"] == {"micro_batch": 50, "offload": True, "predicted": 90}
    assert not whole.network.row[0]._forward_pre_hooks
