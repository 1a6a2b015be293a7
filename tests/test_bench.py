"""`forwardonly bench` and its measurements. No test checks how long anything takes."""

import json

import pytest
import torch

import forwardonly as fo
from forwardonly.bench import depth, speed, start
from forwardonly.bench.naive import NaiveChannels, NaiveForwardForward
from forwardonly.cli import main
from forwardonly.network import block
from forwardonly.training import TrainingConfig
from forwardonly.training.batch import Batch
from forwardonly.training.feed import train_label_classifier
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

QUICK = ["--batch", "8", "--size", "8", "--threads", "1", "--precision", "fp32", "--json"]
START = {"rule": "hyperspherical", "hidden": (8,), "batch": 16, "device": "cpu", "threads": 1}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """No test needs a figure worth believing."""
    monkeypatch.setattr(speed, "SHORTEST", 0.0)


def work(rule="projection", layers=3, **options):
    rule = fo.rules.TABLE[rule](classes=4)
    config = TrainingConfig(precision="fp32", device="cpu", **options)
    return speed.Work(rule=rule, body=fo.bodies.Conv(depth=layers, channels=4), shape=(3, 8, 8), batch=8, config=config)


def bench(capsys, *words):
    assert main(["bench", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_step(capsys):
    result = bench(capsys, "step", "--depth", "2", "--channels", "4", *QUICK)
    assert {"ours", "backprop", "backprop-checkpointed", "backprop-accumulated", "forward"} == set(result["arms"])
    assert result["step_ratio"] == pytest.approx(result["arms"]["ours"]["ms"] / result["arms"]["backprop"]["ms"])
    for arm in result["arms"].values():
        assert arm["samples_per_second"] == pytest.approx(8e3 / arm["ms"])
    assert result["machine"]["torch"] == torch.__version__


def test_memory(capsys, monkeypatch):
    monkeypatch.setattr(depth, "peak_bytes", lambda work, arm: len(work.body.hidden))  # a process each takes seconds
    monkeypatch.setattr(depth, "idle_bytes", lambda work: 0)
    result = bench(capsys, "memory", "--hidden", "12", "--depths", "2", "5", *QUICK)
    assert result["saved_bytes"]["5"] == result["saved_bytes"]["2"] > 0
    assert result["peak_bytes"]["ours"] == {"2": 2, "5": 5}
    assert set(result["step_ms"]["backprop"]) == {"2", "5"}


def test_inference(capsys):
    result = bench(capsys, "inference", "--classes", "4", "--hidden", "9", "9", *QUICK)
    assert result["ratio"] > 0
    assert result["arms"]["ff-shared"]["ms"] > 0


def test_data(capsys):
    result = bench(capsys, "data", "--batch", "500", "--json")
    assert set(result["arms"]) == {"load", "batches", "augmented"}


def test_start(capsys, monkeypatch):
    once, seen = start._once({**START, "compile": False}), []
    assert once["all"] == pytest.approx(sum(once[part] for part in start.PARTS))
    assert all(seconds > 0 for seconds in once.values())
    monkeypatch.setattr(start, "_once", lambda options: seen.append(options) or once)  # a process takes seconds
    result = bench(capsys, "start", "--hidden", "8", "--batch", "16", "--threads", "1", "--device", "cpu", "--json")
    assert result["seconds"] == pytest.approx(once)
    assert seen == [{**START, "compile": False}] * 9


def test_a_start_that_fails_is_one_sentence():
    with pytest.raises(ValueError, match=r"The start failed: .*no device 'nowhere'"):
        start.first_step(repeats=1, **{**START, "compile": False, "device": "nowhere"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name what to measure: step, memory, inference, data, start"),
        (["start", "--rule", "hypersperical"], "did you mean 'hyperspherical'"),
        (["stp"], "did you mean 'step'"),
        (["step", "--rule", "projektion"], "did you mean 'projection'"),
        (["step", "--rule", "backprop"], "choose another --rule"),
        (["step", "--repeats", "3"], "--repeats must be at least 7"),
        (["step", "--batch", "0"], "--batch must be at least 1"),
        (["memory", "--depths", "0"], "numbers of layers from 1 on"),
        (["memory", "--body", "six"], "one depth alone"),
    ],
)
def test_mistakes_are_one_sentence(capsys, words, message):
    assert main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arm", [speed.checkpointed_step, speed.accumulated_step])
def test_the_honest_rivals_compute_the_same_gradients_as_backprop(arm, monkeypatch):
    seen = []

    def note(update):
        seen.append([parameter.grad.clone() for parameter in update.parameters])

    monkeypatch.setattr(speed.Update, "step", note)
    speed.training_step(work("backprop", layers=5))()
    arm(work(layers=5))()
    for plain, rival in zip(*seen, strict=True):
        assert torch.allclose(plain, rival, rtol=1e-4, atol=1e-6)


def test_a_step_of_hard_negatives_trains_the_reader_that_draws_them(monkeypatch):
    drawn = []

    def watched(network, *rest):
        drawn.append(train_label_classifier(network, *rest))
        return drawn[-1]

    monkeypatch.setattr(speed, "train_label_classifier", watched)
    step = speed.training_step(work("ff"))
    step(), step()
    assert len(drawn) == 2
    assert not torch.equal(*drawn)


def test_checkpointing_keeps_less():
    saved = []
    for step in (speed.training_step(work("backprop", layers=16)), speed.checkpointed_step(work(layers=16))):
        with fo.measure.SavedBytes() as held:
            step()
        saved.append(held.peak)
    assert saved[1] < saved[0]


def test_peak_memory_is_of_a_fresh_process():
    ballast = torch.ones(2**27)  # 512 MiB of our own must not show in the child's figure
    assert 0 < depth.idle_bytes(work()) < ballast.nbytes


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch's compiler, at itself
def test_compiled_blocks_learn_the_same(monkeypatch):
    compiled = torch.compile(block._judge, backend="aot_eager", dynamic=False)
    monkeypatch.setattr(block, "_compiled_judge", lambda: compiled)
    losses = []
    for compile in (False, True):
        step = speed.training_step(work("hyperspherical", compile=compile))
        losses.append(torch.stack([step() for _ in range(3)]))
    assert torch.allclose(*losses, rtol=1e-4)


def test_alternating_arms_all_have_their_turns():
    calls = []
    arms = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = speed.alternate(arms, repeats=7, device=torch.device("cpu"))
    assert set(seconds) == set("abc") == set(calls)
    with pytest.raises(ValueError, match="at least 7"):
        speed.alternate(arms, repeats=6, device=torch.device("cpu"))


def test_the_naive_reference_arm_learns_digits(digits):
    torch.manual_seed(0)
    naive = NaiveForwardForward([64, 100, 100], classes=10)
    for _ in range(30):
        for images, labels in fo.data.batches(digits.train, 100, generator=None):
            naive.step(images, labels)
    right = naive.predict(digits.test.images) == digits.test.labels
    assert right.float().mean() > 0.9


def test_the_naive_step_is_a_step_of_the_rule():
    """Against the library's own block: same first layer, same images, same wrong labels."""
    torch.manual_seed(0)
    rule = fo.rules.ForwardForward(classes=4, negatives="uniform")
    network = fo.mlp((1, 4, 4), [6], rule=rule)
    naive = NaiveForwardForward([16, 6], classes=4)
    naive.layers[0].load_state_dict(network.row[0].body[1].state_dict())
    images = torch.randint(1, 256, (5, 1, 4, 4), dtype=torch.uint8)
    labels, wrong = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 2, 3, 0, 1])
    good, bad = (
        torch.relu(naive.layers[0](naive.labelled(naive.prepared(images), own))).square().mean(1)
        for own in (labels, wrong)
    )
    streams = network.row[0].rule.streams(network.row[0](network.present(images, labels, wrong=wrong)))
    assert torch.allclose(streams.positive, good, rtol=1e-3)
    assert torch.allclose(streams.negative, bad, rtol=1e-3)


def test_the_plain_loop_of_learnable_channels_takes_the_steps_of_the_rule():
    """Same weights, same images: the losses of three steps, each after an update."""
    rule = fo.rules.ChannelLearnable(classes=3)
    body = fo.bodies.TinyCNN(width=0.03, dropout=0.0)
    config = TrainingConfig(optimiser="adamw", learning_rate=0.02, weight_decay=0.01, clip=1.0, precision="fp32")
    work = speed.Work(rule=rule, body=body, shape=(3, 8, 8), batch=12, config=config)
    naive = NaiveChannels(3, 3, width=0.03, dropout=0.0, rate=0.02)
    network = work.network()
    for learner, convolution in zip(network.row, naive.convolutions, strict=True):
        (own,) = [weight for weight in learner.parameters() if weight.dim() == 4]
        convolution.weight.data.copy_(own)
    images, labels = work.images()
    updates = [Update(learner, config) for learner in network.row]
    for _ in range(3):
        ours = whole_step(network, updates, Batch(network.prepare(images), labels), Context("fp32"))
        assert torch.allclose(ours, torch.tensor(naive.step(images, labels)), rtol=1e-4)


def test_a_plain_loop_stands_beside_learnable_channels_on_their_authors_net(capsys):
    words = ("step", "--rule", "channel-learnable", "--body", "tinycnn", "--width", "0.05")
    result = bench(capsys, *words, *QUICK)
    arms = result["arms"]
    assert result["plain_ratio"] == pytest.approx(arms["ours"]["ms"] / arms["plain-loop"]["ms"])


def test_other_processes_compute_beside_the_arms_and_are_gone_afterwards(monkeypatch):
    from forwardonly.bench import speed

    started = []
    real = speed.subprocess.Popen
    monkeypatch.setattr(speed.subprocess, "Popen", lambda *words: started.append(real(*words)) or started[-1])
    with speed.competing(2):
        assert [other.poll() for other in started] == [None, None]
    assert all(other.poll() is not None for other in started)


def test_a_busy_measurement_says_so(capsys):
    words = ["bench", "step", "--body", "mlp", "--hidden", "8", "8", "--batch", "4", "--repeats", "7", "--busy", "1"]
    assert main([*words, "--size", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["options"]["busy"] == 1 and "load" in told["machine"]
    assert main([*words[:-1], "-1"]) == 2
    assert "--busy is a number of processes" in capsys.readouterr().err
