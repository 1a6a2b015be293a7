"""Models of timm and Hugging Face, unedited: a fixed ten of those that `benchmarks/models.py` walks."""

import pytest
import torch
from safetensors.torch import save_file

import forwardonly as fo
from forwardonly import cli
from forwardonly.network.models import _imported, load_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # other libraries' own
]
TEN = (
    *("timm:convnext_atto", "timm:vit_tiny_patch16_224", "timm:efficientnet_lite0", "timm:resnet18"),
    *("timm:gmixer_12_224", "timm:swin_tiny_patch4_window7_224"),
    *("transformers:BertModel", "transformers:LlamaModel", "transformers:ViTModel", "transformers:Wav2Vec2Model"),
)


@pytest.mark.parametrize("name", TEN)
def test_a_model_is_cut_learns_and_is_saved(walk, name):
    torch.manual_seed(0)
    model, inputs = walk["made"](name)
    network = fo.localize(model, fo.rules.Projection(classes=4), inputs(2))
    own = [sum(weight.numel() for weight in block.body.parameters()) for block in network.row]
    assert len(own) >= 4 and max(own) <= 0.5 * sum(own)
    labels = torch.arange(8) % 4
    assert walk["reached_wrongly"](network, inputs(2), labels[:2]) == 0
    assert walk["saved_share"](network, inputs(8), labels) < 0.6
    assert walk["loads"](network, inputs(8), name)
    fell, blocks = walk["lowering"](network, inputs)
    assert fell == blocks


@pytest.mark.parametrize("name", [name for name in TEN if name.startswith("timm:")])
def test_blocks_of_a_model_are_called_alone_as_in_place(walk, name):
    """`emit` compares them in both modes, to the bit; here also two steps."""
    from forwardonly.training.batch import Batch
    from forwardonly.training.config import TrainingConfig
    from forwardonly.training.step import Context
    from forwardonly.training.strategies import whole_step
    from forwardonly.training.update import Update

    seen = []
    for emitted in (False, True):
        torch.manual_seed(0)
        model, inputs = walk["made"](name)
        network = fo.localize(model, fo.rules.Projection(classes=4), inputs(2))
        if emitted:
            network.emit()
            assert not network.in_place, network.stays_because
        network.train()
        updates = [Update(block, TrainingConfig()) for block in network.row]
        torch.manual_seed(1)
        batch = Batch(network.prepare(inputs(4)), torch.arange(4))
        seen.append([whole_step(network, updates, batch, Context("fp32")) for _ in range(2)])
    assert torch.equal(torch.stack(seen[0]), torch.stack(seen[1]))


@pytest.mark.parametrize("name", ["timm:convnext_atto", "transformers:BertModel"])
def test_onnx_of_a_model_gives_its_scores(walk, name):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model, inputs = walk["made"](name)
    network = fo.localize(model, fo.rules.Projection(classes=4), inputs(2))
    assert walk["onnx_difference"](network, inputs(2), inputs(3)) < 1e-4


def test_a_named_model_is_built_again(walk, tmp_path):
    example = torch.rand(2, 3, 32, 32)
    network = fo.localize("timm:resnet10t", fo.rules.Projection(classes=4), example, num_classes=0)
    fo.save(network, tmp_path)
    assert torch.equal(fo.load(tmp_path).scores(example), network.eval().scores(example))
    with pytest.raises(ValueError, match="timm has no model 'resnet10': did you mean"):
        fo.localize("timm:resnet10", fo.rules.Projection(classes=4), example)


@pytest.fixture
def pictures(tmp_path):
    import numpy as np

    drawn = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    drawn[::2, :16] //= 4  # every other image is dark above
    path = tmp_path / "pictures.npz"
    np.savez(path, x=drawn, y=np.arange(60) % 2)
    return path


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The Hugging Face hub cannot be reached, and nothing of it is kept but what a test puts into this folder."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_model_of_the_hub_is_built_from_what_is_kept_of_it(walk, offline):
    import transformers

    kept = offline / "models--somebody--small"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    torch.manual_seed(5)
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    model = transformers.BertModel(config).eval()
    model.save_pretrained(kept / "snapshots" / ("0" * 40))
    words = torch.randint(3, 200, (2, 6))
    network = fo.localize("hf:somebody/small", fo.rules.Projection(classes=2), words, blocks=3, keep_head=True)
    given = fo.unlocalize(network).eval()(words).last_hidden_state
    assert torch.equal(given, model(words).last_hidden_state)


def test_random_weights_are_those_of_the_seed(walk, pictures, tmp_path):
    words = ["tune", "--model", "timm:resnet10t", "--weights", "random", "--data", str(pictures), "--blocks", "2"]
    words += ["--epochs", "1", "--batch-size", "12", "--precision", "fp32"]
    for name, seed in [("one", "0"), ("again", "0"), ("other", "1")]:
        torch.manual_seed(len(name))  # what the process drew before says nothing
        assert cli.main([*words, "--seed", seed, "--out", str(tmp_path / name)]) == 0
    one, again, other = (list(fo.load(tmp_path / name).state_dict().values()) for name in ("one", "again", "other"))
    assert all(map(torch.equal, one, again)) and not all(map(torch.equal, one, other))


def test_tuning_from_the_command_line(walk, pictures, tmp_path, capsys):
    import timm

    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(3)
    save_file(timm.create_model("resnet10t", num_classes=7).state_dict(), weights)  # a head of other classes
    words = ["tune", "--model", "timm:resnet10t", "--weights", str(weights), "--data", str(pictures)]
    words += ["--epochs", "2", "--batch-size", "12", "--precision", "fp32", "--out"]
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    assert cli.main([*words, str(tmp_path / "short"), "--epochs", "1", "--lr-schedule", "constant"]) == 0
    resumed = ["tune", "--resume", "--out", str(tmp_path / "short"), "--epochs", "2"]
    assert cli.main([*resumed, "--blocks", "3"]) == 2
    assert "was started with another data blocks, auto and not 3" in capsys.readouterr().err
    assert cli.main(resumed) == 0
    assert cli.main(["evaluate", str(tmp_path / "whole"), "--json"]) == 0
    assert '"test_accuracy"' in capsys.readouterr().out
    whole = fo.load(tmp_path / "whole")
    assert whole.config["model"] == {"name": "timm:resnet10t", "options": {"num_classes": 0, "in_chans": 3}}
    again = fo.load(tmp_path / "short")
    assert len(again.row) == len(whole.row) >= 4


def test_frozen_norms_stay_as_they_were_also_when_a_tuning_goes_on(walk, pictures, tmp_path, capsys):
    import timm

    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(3)
    model = timm.create_model("resnet10t", num_classes=0, zero_init_last=False)  # or nothing behind a 0 would learn
    save_file(model.state_dict(), weights)
    words = ["tune", "--model", "timm:resnet10t", "--weights", str(weights), "--data", str(pictures)]
    words += ["--batch-size", "12", "--precision", "fp32", "--freeze", "bn", "--heads-first", "0", "--out"]
    assert cli.main([*words, str(tmp_path / "run"), "--epochs", "1"]) == 0
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "run"), "--epochs", "2"]) == 0
    tuned = fo.unlocalize(fo.load(tmp_path / "run")).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(tuned[name], weight) == ("bn" in name), name
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "run"), "--epochs", "3", "--freeze", "conv"]) == 2
    assert "freeze" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "name the model to tune"),
        (["--model", "timm:resnet10"], "timm has no model 'resnet10'"),
        (["--model", "resnet10t"], "such as 'timm:resnet18'"),
        (["--model", "hf:nowhere"], "nowhere has no config.json"),
        (
            ["--model", "timm:resnet10t", "--weights", "none.safetensors"],
            "There is no file of weights none.safetensors",
        ),
        (["--model", "timm:resnet10t", "--weights", "random", "--blocks", "99"], "can be cut into 1 to"),
        (
            ["--model", "timm:resnet10t", "--weights", "random", "--freeze", "lstm"],
            "--freeze 'lstm' matches no weight of the model, such as 'conv1.0.weight'",
        ),
        (
            ["--model", "timm:resnet10t", "--weights", "random", "--freeze", "("],
            "--freeze '(' is not a regular expression: ",
        ),
        (["--model", "timm:resnet10t"], "There are no pretrained weights of timm:resnet10t to be had: "),
        (["--model", "hf:somebody/model"], "somebody/model is no folder here, and cannot be fetched from the Hugging"),
    ],
)
def test_a_tuning_that_cannot_be_is_one_sentence(walk, pictures, more, sentence, capsys, offline):
    assert cli.main(["tune", "--data", str(pictures), *more]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said


@pytest.mark.parametrize(("name", "options"), [("resnet10t", {}), ("vit_tiny_patch16_224", {"img_size": 32})])
def test_colour_weights_read_grey_pictures_by_the_sum_over_colours(walk, tmp_path, name, options):
    import timm

    torch.manual_seed(4)
    colour = timm.create_model(name, num_classes=0, **options).eval()
    save_file(colour.state_dict(), tmp_path / "colour.safetensors")
    grey = timm.create_model(name, num_classes=0, in_chans=1, **options).eval()
    load_weights(grey, tmp_path / "colour.safetensors")
    pixels = torch.rand(2, 1, 32, 32)
    assert torch.allclose(grey(pixels), colour(pixels.expand(-1, 3, -1, -1)), atol=1e-5)


def test_a_classifier_of_other_classes_is_left_out_and_nothing_else(walk, tmp_path):
    import timm

    given = timm.create_model("resnet10t", num_classes=7).state_dict()
    save_file(given, tmp_path / "seven.safetensors")
    for classes in (0, 3):
        model = timm.create_model("resnet10t", num_classes=classes)
        load_weights(model, tmp_path / "seven.safetensors")
        own = {name: weight for name, weight in model.state_dict().items() if not name.startswith("fc.")}
        assert all(torch.equal(given[name], weight) for name, weight in own.items())
    model = timm.create_model("resnet10t", num_classes=0)
    last = list(dict(model.named_parameters()))[-1]  # there is no classifier behind it
    save_file({name: weight for name, weight in given.items() if name != last}, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=f"its weight '{last}' of 512 is missing there"):
        load_weights(model, tmp_path / "less.safetensors")


def test_weights_of_another_model_are_named(walk, pictures, tmp_path, capsys):
    import timm

    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "other.safetensors")
    words = [
        "tune",
        "--data",
        str(pictures),
        "--model",
        "timm:resnet10t",
        "--weights",
        str(tmp_path / "other.safetensors"),
    ]
    assert cli.main(words) == 2
    assert (
        "does not fit the model: its weight 'conv1.0.weight' of 24 x 3 x 3 x 3 is missing there"
        in capsys.readouterr().err
    )
    (tmp_path / "text.safetensors").write_text("no weights")
    assert cli.main([*words[:-1], str(tmp_path / "text.safetensors")]) == 2
    assert "is no safetensors file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("nosuchpackage", "needs the package nosuchpackage: pip install nosuchpackage"),
        ("brokenpackage", "The package brokenpackage cannot be imported: it wants another torch"),
    ],
)
def test_a_package_that_is_missing_or_does_not_go_is_named(tmp_path, monkeypatch, package, sentence):
    (tmp_path / "brokenpackage.py").write_text("raise RuntimeError('it wants another torch')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        _imported(package)
