"""Free-riding: diagnostics against numpy written from arXiv 2605.06240, and the law on a trained network."""

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.measure import free_riding
from forwardonly.rules.base import BlockPosition

BETA, GAMMA, DEPTH, N = 4.0, 0.7, 3, 50


@pytest.fixture
def goodness():
    """Both streams of three blocks, (2, L, N)."""
    return np.random.default_rng(0).gamma(2.0, 0.4, size=(2, DEPTH, N))


def rules(**options):
    rule = fo.rules.Cumulative(classes=4, **options)
    return [rule.for_block((5,), BlockPosition(index, DEPTH)) for index in range(DEPTH)]


def measured(goodness, of):
    return free_riding.attenuation(of, torch.tensor(goodness[0]), torch.tensor(goodness[1])).numpy()


def test_attenuation_is_the_papers_formula(goodness):
    m = goodness[0] - goodness[1]
    prior = np.cumsum(m, axis=0) - m
    expected = (1 + np.exp(BETA * m)) / (1 + np.exp(BETA * (m + GAMMA * prior)))
    np.testing.assert_allclose(measured(goodness, rules()), expected, rtol=1e-9)


def test_nothing_is_lost_per_block_nor_after_correction(goodness):
    np.testing.assert_array_equal(measured(goodness, rules(remedy="per-block")), 1.0)
    assert (measured(goodness, rules(remedy="mgc")) >= 1 - 1e-12).all()


def test_attenuation_of_collaboration_counts_all_other_blocks(goodness):
    rule = fo.rules.CollaborativeFixed(classes=4, sharpness=1.0)
    own = [rule.for_block((5,), BlockPosition(index, DEPTH)).double() for index in range(DEPTH)]
    pull = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    together = goodness.sum(1, keepdims=True) - 2
    expected = (pull(-together[0]) + pull(together[1])) / (pull(2 - goodness[0]) + pull(goodness[1] - 2))
    np.testing.assert_allclose(measured(goodness, own), expected, rtol=1e-6)


def test_separation_is_from_the_hardest_wrong_label():
    scores = torch.tensor([[[3.0, 1.0, 2.5], [0.0, 5.0, 1.0]]])
    assert free_riding.separations(scores, torch.tensor([0, 2])).tolist() == [[0.5, -4.0]]


def test_the_law_is_found_where_it_holds_and_not_where_nothing_is_heard(goodness):
    generator = np.random.default_rng(1)
    m, prior = generator.uniform(1, 3, (2, DEPTH, 400))
    ratio = (1 + np.exp(BETA * m)) / (1 + np.exp(BETA * (m + GAMMA * prior)))
    slope = free_riding.law_slope(*map(torch.tensor, (ratio, m, prior)), BETA, GAMMA)
    assert slope == pytest.approx(-BETA * GAMMA, rel=0.02)
    assert free_riding.law_slope(*map(torch.tensor, (ratio, m, prior)), BETA, 0.0) is None
    assert free_riding.law_slope(*map(torch.tensor, (ratio, -m, -prior)), BETA, GAMMA) is None


@pytest.mark.slow
def test_deep_blocks_starve_and_per_block_ones_do_not(digits):
    def found(remedy):
        rule = fo.rules.Cumulative(classes=10, remedy=remedy)
        net = fo.mlp(digits.train.shape, [60, 60, 60], rule=rule)
        options = {"epochs": 10, "batch_size": 32, "learning_rate": 5e-3, "precision": "fp32", "validate_every": 10}
        run = fo.fit(net, digits.train, validation=digits.validation, diagnose=True, **options)
        said = fo.measure.diagnose(net, digits.validation, precision="fp32")
        assert run.history[-1]["free_riding"] == said.as_json()
        return said

    cumulative, control = found("none"), found("per-block")
    assert cumulative.blocks[0].starvation == 0
    assert cumulative.blocks[2].starvation > 0.3
    assert [block.starvation for block in control.blocks] == [0, 0, 0]
    assert cumulative.law_slope == pytest.approx(cumulative.law_predicted, rel=0.05)


def test_one_pass_rules_and_empty_sets(images):
    net = fo.mlp(images.shape, [8, 6], rule=fo.rules.Hyperspherical(classes=4))
    said = fo.measure.diagnose(net, images)
    assert [block.attenuation for block in said.blocks] == [1, 1]
    assert said.law_slope is None and said.blocks[1].prior_margin == pytest.approx(said.blocks[0].margin)
    with pytest.raises(ValueError, match="no images"):
        fo.measure.diagnose(net, images.subset(torch.arange(0)))


@pytest.mark.parametrize("targets", ["number", "labels"])
def test_what_has_no_wrong_class_is_refused(tmp_path, capsys, targets):
    """In Python, by the command even where the names of the classes fit, and before a run that asks for it."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 1, 8, 8, generator=generator), torch.randint(0, 2, (40, 10), generator=generator).float()
    net = fo.mlp((1, 8, 8), [8], rule=fo.rules.Projection(classes=10, targets=targets))
    fo.fit(net, (x, y), epochs=1, out=tmp_path / "run", classes=tuple("0123456789"))
    says = "Free-riding is measured between the right class and a wrong one, and this network learns"
    with pytest.raises(ValueError, match=says):
        fo.measure.diagnose(net, fo.data.load("digits").test)
    capsys.readouterr()
    for more in (["--data", "digits"], []):
        assert cli.main(["diagnose", str(tmp_path / "run"), *more]) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1
    with pytest.raises(ValueError, match=says):
        fo.fit(net, (x, y), validation=(x, y), epochs=1, diagnose=True)
