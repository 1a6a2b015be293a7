"""Something of another kind than a function takes is refused in a sentence, wherever a user hands it over."""

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.export import export_c, export_network, training_step
from forwardonly.serve import make_app

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
RULE = fo.rules.Projection(classes=10)
EXAMPLE = torch.zeros(2, 1, 8, 8)
IMAGES = fo.data.Images(torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8), torch.arange(2), ("a", "b"))
NETWORK = "network must be what fo.mlp, fo.build, fo.localize or fo.load gives, not Sequential."
A_RULE = "rule must be a rule, such as fo.rules.make('projection', classes=10), not "
A_SHAPE = "shape must be the sizes of one example, such as (1, 28, 28), not "
A_BODY = "body must be a body, such as fo.bodies.MLP(hidden=(100, 100)), not "
BLOCKS = "blocks must be 'auto', a number, a regular expression or a list of module names, not "


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fo.fit(MODEL, IMAGES), NETWORK),
        (lambda: fo.evaluate(MODEL, IMAGES), NETWORK),
        (lambda: fo.probe(MODEL, IMAGES), NETWORK),
        (lambda: fo.save(MODEL, "x"), NETWORK),
        (lambda: fo.add_class(MODEL, EXAMPLE, "c"), NETWORK),
        (lambda: fo.summarise(MODEL, IMAGES), NETWORK),
        (lambda: fo.training.Online(MODEL), NETWORK),
        (lambda: export_network(MODEL, "x", format="onnx"), NETWORK),
        (lambda: training_step(MODEL, batch_size=1), NETWORK),
        (lambda: export_c(MODEL, "x"), NETWORK),
        (lambda: make_app(MODEL, ("a", "b"), name="x"), NETWORK),
        (lambda: fo.localize(MODEL, "projection", EXAMPLE), A_RULE + "'projection'."),
        (lambda: fo.mlp((64,), [8], rule="projection"), A_RULE + "'projection'."),
        (lambda: fo.mlp((64,), [8], rule=fo.rules.Projection), A_RULE + "the class Projection."),
        (lambda: fo.build(fo.bodies.MLP(hidden=(8,)), (64,), rule=None), A_RULE + "None."),
        (lambda: fo.mlp(64, [8], rule=RULE), A_SHAPE + "64."),
        (lambda: fo.mlp("digits", [8], rule=RULE), "shape must be a whole number, not 'd'."),
        (lambda: fo.mlp((0,), [8], rule=RULE), "shape must be at least 1, not 0."),
        (lambda: fo.mlp((64,), [8], rule=RULE, seed="a"), "seed must be a whole number, not 'a'."),
        (lambda: fo.build("mlp", (64,), rule=RULE), A_BODY + "'mlp'."),
        (lambda: fo.localize(print, RULE, EXAMPLE), "model must be a module, or a name such as 'timm:resnet18', not "),
        (lambda: fo.localize(MODEL, RULE, EXAMPLE, blocks=2.5), BLOCKS + "2.5."),
        (lambda: fo.localize(MODEL, RULE, EXAMPLE, blocks=None), BLOCKS + "None."),
        (lambda: fo.localize(MODEL, RULE, EXAMPLE, blocks=["q"]), "The model has no module 'q': choose one of 0, 1, "),
        (lambda: fo.load(None), "folder must be a path, not None."),
        (lambda: fo.save(fo.mlp((64,), [8], rule=RULE), 3), "folder must be a path, not 3."),
        (
            lambda: fo.data.load(None),
            "name_or_path must be the name of a data set, a folder or an .npz file, not None.",
        ),
        (lambda: fo.data.texts(__file__, "gpt2"), "encode must be a function from a text to token ids"),
        (lambda: fo.data.Images("x"), "the images: images must be a tensor or an array, not 'x'."),
        (lambda: fo.extract("timm:x", IMAGES), "extractor must be a module, not 'timm:x'."),
        (lambda: fo.extract(nn.Flatten(), np.zeros(3)), "images must be what fo.data.load gives, not ndarray."),
    ],
)
def test_another_kind_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError) as told:
        call()
    assert str(told.value).startswith(sentence)
    assert "\n" not in str(told.value)
