"""Batches and augmentation, on every available device."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import pytest
import torch

from forwardonly.data import Augment, Images, batches

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make(count=50, shape=(3, 6, 5), device="cpu"):
    images = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Images(images, torch.arange(count) % 2, ("a", "b"), "toy").to(device)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize("device", DEVICES)
def test_a_pass_shows_each_image_once_with_its_label(device):
    split = make(device=device)
    for drop_last, sizes in ((False, [16, 16, 16, 2]), (True, [16, 16, 16])):
        seen = list(batches(split, 16, generator=seeded(), drop_last=drop_last))
        assert [len(labels) for _, labels in seen] == sizes
    images = torch.cat([x for x, _ in batches(split, 16, generator=seeded())])
    labels = torch.cat([y for _, y in batches(split, 16, generator=seeded())])
    order = torch.randperm(50, generator=seeded()).to(device)
    assert torch.equal(images, split.images[order]) and torch.equal(labels, split.labels[order])
    assert images.dtype == torch.uint8 and images.device.type == device
    assert torch.equal(torch.cat([x for x, _ in batches(split, 7, generator=None)]), split.images)


def test_batch_sizes_that_give_nothing():
    with pytest.raises(ValueError, match="at least 1"):
        batches(make(), 0, generator=None)
    with pytest.raises(ValueError, match="at most 50"):
        batches(make(), 51, generator=None, drop_last=True)
    with pytest.raises(ValueError, match="need a generator"):
        batches(make(), 5, generator=None, augment=Augment(crop=1))


EVERYTHING = Augment(crop=2, flip="random", cutout=3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("own", [False, True])
def test_the_generator_decides_everything(device, own):
    split = make(device=device)
    place = device if own else "cpu"
    first, again, other = (
        torch.cat([x for x, _ in batches(split, 16, generator=seeded(s, place), augment=EVERYTHING)]) for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.uint8 and first.shape == split.images.shape and first.device.type == device


@pytest.mark.parametrize("device", DEVICES)
def test_crop_is_a_window_of_the_mirrored_image(device):
    split = make(device=device)
    out = Augment(crop=2)(split.images, seeded())
    wide = torch.nn.functional.pad(split.images.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    places = set()
    for image, padded in zip(out, wide, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, padded[:, y : y + 6, x : x + 5])]
        assert fits
        places.add(fits[0])
    assert len(places) > 15


@pytest.mark.parametrize("device", DEVICES)
def test_random_flip_turns_about_half(device):
    images = make(400, device=device).images
    out = Augment(flip="random")(images, seeded())
    turned = (out == images.flip(3)).flatten(1).all(1)
    kept = (out == images).flatten(1).all(1)
    assert torch.equal(turned, ~kept) and 150 < turned.sum() < 250


@pytest.mark.parametrize("device", DEVICES)
def test_alternating_flip_shows_each_image_both_ways_in_two_epochs(device):
    split, augment = make(400, device=device), Augment(flip="alternating")
    indices = torch.arange(400, device=device)
    even, odd, later = (augment(split.images, None, epoch, indices) for epoch in (0, 1, 2))
    assert torch.equal(even, odd.flip(3)) and torch.equal(even, later)
    turned = (even == split.images.flip(3)).flatten(1).all(1)
    assert 150 < turned.sum() < 250
    # through batches it goes by the image, whatever the order
    order = torch.randperm(400, generator=seeded(3)).to(device)
    shuffled = torch.cat([x for x, _ in batches(split, 64, generator=seeded(3), augment=augment, epoch=1)])
    assert torch.equal(shuffled, odd[order])
    assert torch.equal(torch.cat([x for x, _ in batches(split, 64, generator=None, augment=augment)]), even)
    with pytest.raises(ValueError, match="indices"):
        augment(split.images, None)


@pytest.mark.parametrize("device", DEVICES)
def test_cutout_paints_a_square_in_the_mean_colour(device):
    images = make(100, (2, 12, 12), device).images
    out = Augment(cutout=5)(images, seeded())
    mean = images.long().sum((2, 3), keepdim=True) // 144
    changed = (out != images).any(1)
    assert torch.equal(out, torch.where(changed[:, None], mean.to(torch.uint8), images))
    for one in changed:  # what changed lies in a square of 5 and, the noise rarely being the mean, nearly fills it
        rows, columns = one.any(1).nonzero(), one.any(0).nonzero()
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert 2 <= height <= 5 and 2 <= width <= 5 and one.sum() >= height * width - 2
    assert torch.equal(images, make(100, (2, 12, 12), device).images)  # and the original is left alone


@pytest.mark.parametrize(
    ("options", "said"),
    [({"crop": -1}, "crop must be"), ({"cutout": -2}, "cutout must be"), ({"flip": "sideways"}, "flip must be")],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said):
        Augment(**options)


def test_crop_wider_than_the_image():
    with pytest.raises(ValueError, match="less than the image's sides, 6 x 5, not 5"):
        Augment(crop=5)(make().images, seeded())
    with pytest.raises(ValueError, match="need a generator"):
        EVERYTHING(make().images, None)
