"""Transfer: features of a frozen network, computed once, cached on disk, learned from."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import forwardonly as fo


class Counting(nn.Module):
    """An extractor that counts its calls."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.calls = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), 0

    def forward(self, images):
        self.calls += 1
        return self.norm(self.conv(images)).relu()


def extract(extractor, images, **options):
    return fo.extract(extractor, images, precision="fp32", device="cpu", batch_size=32, **options)


def test_features_are_what_the_extractor_gives_in_evaluation_mode(images):
    extractor = Counting().train()
    features = extract(extractor, images, mean=(0.5,), std=(0.25,))
    pixels = (images.images.float() / 255 - 0.5) / 0.25
    assert extractor.training and extractor.norm.training
    torch.testing.assert_close(features.images, Counting().eval()(pixels))
    assert features.shape == (6, 4, 4)
    assert torch.equal(features.labels, images.labels)


def test_flat_features_become_maps_of_one_pixel(images):
    assert extract(nn.Flatten(), images).shape == (36, 1, 1)


def test_features_are_computed_once(images, tmp_path):
    extractor = Counting()
    first = extract(extractor, images, cache=tmp_path)
    calls = extractor.calls
    second = extract(extractor, images, cache=tmp_path)
    assert extractor.calls == calls == 3
    assert torch.equal(first.images, second.images)


def test_anything_else_makes_other_features(images, tmp_path):
    extract(Counting(), images, cache=tmp_path)
    extract(Counting(seed=1), images, cache=tmp_path)
    extract(Counting(), images, cache=tmp_path, mean=(0.5,))
    extract(Counting(), images.subset(torch.arange(40)), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


class Pooled(nn.Module):
    """Features whose layers and weights say nothing of `pool`."""

    def __init__(self, pool, by=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.by = nn.Conv2d(1, 6, 3), pool, by

    def forward(self, images):
        return self.by * self.pool(self.conv(images))


def mean(maps):
    return maps.mean((2, 3))


@pytest.mark.parametrize("other", [Pooled(lambda maps: maps.amax((2, 3))), Pooled(mean, by=1.01)])
def test_an_extractor_of_the_same_weights_and_another_forward_has_its_own_features(images, tmp_path, other):
    for _ in range(2):  # first computed, then found
        for own in (Pooled(mean), other):
            cached = extract(own, images, cache=tmp_path)
            assert torch.equal(cached.images, extract(own, images).images)
    assert len(list(tmp_path.iterdir())) == 2


class Apart(nn.Module):
    """Gives another last bit at every second call, as another number of threads may; and looks at its whole batch."""

    calls = 0

    def forward(self, images):
        Apart.calls += 1
        features = images.flatten(1) - images.mean()
        return features * (1 + (Apart.calls % 2) * 1e-6)


def test_rounding_and_what_else_is_in_a_batch_make_no_other_extractor(images, tmp_path):
    first = extract(Apart(), images, cache=tmp_path)
    Apart.calls += 1
    assert torch.equal(extract(Apart(), images, cache=tmp_path).images, first.images)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_trial_draws_no_random_number_and_an_extractor_that_draws_is_known_again(images, tmp_path):
    class Draws(nn.Module):
        def forward(self, images):
            return images.flatten(1) + torch.rand(())

    first = extract(Draws(), images, cache=tmp_path)
    state = torch.random.get_rng_state()
    assert torch.equal(extract(Draws(), images, cache=tmp_path).images, first.images)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_damaged_cache_is_computed_again(images, tmp_path):
    first = extract(Counting(), images, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(extract(Counting(), images, cache=tmp_path).images, first.images)


def test_the_front_of_a_network_gives_what_its_block_passes_on(images):
    network = fo.build(fo.bodies.CNN(width=0.1), (1, 24, 24), rule=fo.rules.Hyperspherical(classes=4))
    shots = torch.randint(0, 256, (5, 1, 24, 24), dtype=torch.uint8)
    network.prepare.fit(shots)
    passed = network.eval().each(network.prepare(shots), lambda block, activation, passed: passed)[1]
    torch.testing.assert_close(fo.Front(network, 2).eval()(shots.float() / 255), passed)


def test_new_classes_are_learned_on_the_front_of_a_network_trained_on_others(digits):
    old, new = range(6), [6, 7, 8, 9]
    base = fo.mlp(digits.train.shape, [100, 100], rule=fo.rules.Hyperspherical(classes=6))
    fo.fit(base, digits.train.of_classes(old), epochs=10, batch_size=32, precision="fp32")
    front = fo.Front(base, 1)
    train, test = (extract(front, split.of_classes(new)) for split in (digits.train, digits.test))
    head = fo.mlp(train.shape, [100], rule=fo.rules.Hyperspherical(classes=4))
    run = fo.fit(head, train, test=test, epochs=20, batch_size=32, precision="fp32")
    assert run.result["test_accuracy"] > 0.9


def test_features_are_not_augmented_as_the_images_that_they_are_of(images):
    rule = fo.rules.Hyperspherical(classes=4)
    known = replace(images, name="cifar-10")
    assert fo.training.TrainingConfig.resolve(rule, known).augment is not None
    assert fo.training.TrainingConfig.resolve(rule, extract(nn.Flatten(), known)).augment is None


@pytest.mark.parametrize("blocks", [0, 3])
def test_a_front_longer_than_the_network_is_one_clear_sentence(digits, blocks):
    with pytest.raises(ValueError, match=f"has 2 blocks: its front cannot have {blocks}"):
        fo.Front(fo.mlp(digits.train.shape, [5, 5], rule=fo.rules.Projection(classes=10)), blocks)


def test_what_rules_cannot_read_is_one_clear_sentence(images):
    with pytest.raises(ValueError, match="must give one tensor of maps"):
        extract(nn.Flatten(2), images)


@pytest.mark.parametrize("chosen", [[1], [0, 0], [0, 9]])
def test_classes_that_make_no_set_are_one_clear_sentence(images, chosen):
    with pytest.raises(ValueError, match="choose two or more different classes of 0 to 3"):
        images.of_classes(chosen)
