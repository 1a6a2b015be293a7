"""Networks of several labels and of numbers, on the command line and in the service; and what cannot be served."""

import csv
import io
import json
import warnings

import pytest
import torch
from PIL import Image

import forwardonly as fo
from forwardonly import cli
from forwardonly.serve import make_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from starlette.testclient import TestClient

NAMES = ("even", "small", "four", "never")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    """Two digits as image files, and runs that say of them which labels are present, one number, and two numbers."""
    folder, train = tmp_path_factory.mktemp("runs"), digits.train
    said = torch.stack([train.labels % 2 == 0, train.labels < 5, train.labels == 4, train.labels < 0], 1).float()
    value = train.labels.float()
    targets = {"labels": said, "number": value, "numbers": torch.stack([value, 100 - value], 1)}
    for name, wanted in targets.items():
        kind = "labels" if name == "labels" else "number"
        outputs = wanted.shape[1] if wanted.dim() > 1 else 1
        net = fo.mlp(train.shape, [32, 16], rule=fo.rules.Projection(classes=outputs, targets=kind))
        names = {"classes": NAMES} if name == "labels" else {}
        fo.fit(net, (train.images, wanted), epochs=6, out=folder / name, precision="fp32", **names)
    for digit in (4, 9):
        place = (digits.test.labels == digit).nonzero()[0].item()
        Image.fromarray(digits.test.images[place, 0].numpy()).save(folder / f"{digit}.png")
    return folder


def pixels_of(runs, *names):
    return fo.data.read_adapted([runs / name for name in names], (1, 8, 8))[0]


def predict(capsys, runs, run, *words):
    files = [str(runs / "4.png"), str(runs / "9.png")]
    assert cli.main(["predict", str(runs / run), *files, *words]) == 0
    return capsys.readouterr()


def test_predict_names_the_labels_that_are_present(runs, capsys):
    net, pixels = fo.load(runs / "labels"), pixels_of(runs, "4.png", "9.png")
    four, nine = json.loads(predict(capsys, runs, "labels", "--json").out)["predictions"]
    assert four["labels"] == ["even", "small", "four"] and four["indices"] == [0, 1, 2] and nine["labels"] == []
    for found, present, shares in zip((four, nine), net.predict(pixels), net.probabilities(pixels), strict=True):
        assert found["indices"] == present.nonzero().flatten().tolist() and not {"class", "index"} & found.keys()
        assert list(found["probabilities"]) == list(NAMES)
        assert list(found["probabilities"].values()) == pytest.approx(shares.tolist(), rel=1e-4)
    shown = " ".join(predict(capsys, runs, "labels").err.split())
    assert "labels present" in shown and "none of the 4" in shown and "class" not in shown
    assert f"even {100 * four['probabilities']['even']:.2f} %, small" in shown
    rows = list(csv.DictReader(io.StringIO(predict(capsys, runs, "labels", "--csv").out)))
    assert [row["labels"] for row in rows] == ["even; small; four", ""]
    assert float(rows[1]["even"]) == pytest.approx(nine["probabilities"]["even"]) and "class" not in rows[0]


@pytest.mark.parametrize("run", ["number", "numbers"])
def test_predict_says_numbers(runs, capsys, run):
    expected = fo.load(runs / run).predict(pixels_of(runs, "4.png", "9.png")).view(2, -1)
    found = json.loads(predict(capsys, runs, run, "--json").out)["predictions"]
    for each, numbers in zip(found, expected, strict=True):
        assert list(each["numbers"].values()) == pytest.approx(numbers.tolist(), rel=1e-4)
        assert each.keys() == {"image", "numbers", "changes"}
    shown = predict(capsys, runs, run).err
    assert "number 0" in shown and f"{found[0]['numbers']['0']:.6g}" in shown and "%" not in shown
    rows = list(csv.DictReader(io.StringIO(predict(capsys, runs, run, "--csv").out)))
    assert [float(row["0"]) for row in rows] == [each["numbers"]["0"] for each in found]


def test_of_many_numbers_the_first_are_shown(tmp_path, digits, capsys):
    net = fo.mlp((1, 8, 8), [8], rule=fo.rules.Projection(classes=9, targets="number"))
    fo.fit(
        net, (digits.train.images, digits.train.labels[:, None].repeat(1, 9).float()), epochs=1, out=tmp_path / "run"
    )
    Image.fromarray(digits.test.images[0, 0].numpy()).save(tmp_path / "a.png")
    assert cli.main(["predict", str(tmp_path / "run"), str(tmp_path / "a.png")]) == 0
    err = capsys.readouterr().err
    assert "the first 6 of 9 numbers; --json and --csv have them all" in err and "number 6" not in err


@pytest.mark.parametrize("run", ["labels", "number", "numbers"])
def test_the_service_says_what_the_network_says(runs, run):
    net = fo.load(runs / run)
    client = TestClient(make_app(net, net.class_names, name="x"))
    assert client.get("/model").json()["targets"] == net.targets
    files = [("image", (name, (runs / name).read_bytes())) for name in ("4.png", "9.png")]
    pixels = pixels_of(runs, "4.png", "9.png")
    by_json = client.post("/predict", json={"images": pixels.tolist()}).json()
    found = client.post("/predict", files=files).json()["predictions"]
    assert by_json["predictions"] == found and by_json["classes"] == list(net.class_names)
    scores, said = net.scores(pixels), net.predict(pixels).view(2, -1)
    for index, each in enumerate(found):
        assert [block["scores"] for block in each["blocks"]] == [
            pytest.approx(own.tolist()) for own in scores[:, index]
        ]
        if run == "labels":
            assert each["indices"] == said[index].nonzero().flatten().tolist() and "class" not in each
            present = [[NAMES[k] for k in (own > 0).nonzero().flatten().tolist()] for own in scores[:, index]]
            assert [block["labels"] for block in each["blocks"]] == present
        else:
            assert list(each["numbers"].values()) == pytest.approx(said[index].tolist())
            assert "probabilities" not in each and all(block.keys() == {"scores"} for block in each["blocks"])
    if run == "labels":
        assert found[0]["labels"] == ["even", "small", "four"] and found[1]["labels"] == []


def untrained(shape=(1, 8, 8), classes=10, **options):
    return fo.mlp(shape, [8], rule=fo.rules.Projection(classes=classes, **options))


def of_features():
    net = untrained(classes=2)
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 9
    fo.fit(net, (images, torch.arange(20) % 2), epochs=1)
    return net


TEN = tuple("0123456789")


@pytest.mark.parametrize(
    ("network", "names", "says"),
    [
        (untrained, ("a",), "learns classes, 10 of them, but classes has 1: give one name for each, such as"),
        (untrained, (*TEN, "x"), "learns classes, 10 of them, but classes has 11"),
        (untrained, (*TEN[:9], "0"), "Two classes are named '0'"),
        (untrained, None, "classes must be the names of the network's classes, such as network.class_names, not None"),
        (untrained, 10, "classes must be the names of the network's classes"),
        (lambda: untrained(targets="labels"), ("a",), "learns several labels at once, 10 of them, but classes has 1"),
        (lambda: untrained(classes=1, targets="number"), ("a", "b"), "learns numbers, 1 of them, but classes has 2"),
        (lambda: untrained((6,)), TEN, "for images, and this network takes none: ask it by network.predict"),
        (lambda: untrained((3, 9)), TEN, "for images, and this network takes none"),
        (of_features, ("a", "b"), "bytes of images, which this one does not take: The network was trained on floats"),
    ],
)
def test_what_cannot_be_served_is_refused_when_the_service_is_made(network, names, says):
    with pytest.raises(ValueError, match=says):
        make_app(network(), names, name="x")


def test_a_run_that_cannot_be_served_is_one_sentence(tmp_path, capsys):
    fo.save(of_features(), tmp_path / "features")
    assert cli.main(["serve", str(tmp_path / "features"), "--port", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "The service gives networks bytes of images" in err


def test_a_network_of_tokens_has_no_answers_here():
    from forwardonly.network.answers import answers

    net = untrained(classes=3, targets="token")
    with pytest.raises(ValueError, match="says classes, labels or numbers, and this network learns tokens"):
        make_app(net, ("a", "b", "c"), name="x")
    with pytest.raises(ValueError, match=r"learns tokens: ask it by network\.predict"):
        answers(net, torch.zeros(1, 1, 4, 3), ("a", "b", "c"))
