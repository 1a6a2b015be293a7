"""Models of timm and Hugging Face, unedited: a fixed ten of those that `benchmarks/models.py` walks."""

import runpy
import warnings
from pathlib import Path

import pytest
import torch

import forwardonly as fo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # other libraries' own
]
WALK = Path(__file__).parents[1] / "benchmarks" / "models.py"
TEN = (
    *("timm:convnext_atto", "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050", "timm:resnet18"),
    *("timm:gmixer_12_224", "timm:swin_tiny_patch4_window7_224"),
    *("transformers:BertModel", "transformers:LlamaModel", "transformers:ViTModel", "transformers:Wav2Vec2Model"),
)


@pytest.fixture(scope="module")
def walk():
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = runpy.run_path(str(WALK))
        found["library"] = found["declare_torchvision_operators"]()
        pytest.importorskip("timm")
    return found


@pytest.mark.parametrize("name", TEN)
def test_a_model_is_cut_learns_and_is_saved(walk, name):
    torch.manual_seed(0)
    model, inputs = walk["made"](name)
    network = fo.localize(model, fo.rules.Projection(classes=4), inputs(2))
    own = [sum(weight.numel() for weight in block.body.parameters()) for block in network.row]
    assert len(own) >= 4 and max(own) <= 0.5 * sum(own)
    labels = torch.arange(8) % 4
    assert walk["reached_wrongly"](network, inputs(2), labels[:2]) == 0
    assert walk["saved_share"](network, model, inputs(8), labels) < 0.6
    assert walk["loads"](network, inputs(8), name)
    fell, blocks = walk["lowering"](network, inputs)
    assert fell == blocks


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
