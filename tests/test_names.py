"""Suggestions in error sentences."""

from forwardonly.names import LISTED, nearest


def test_the_nearest_name_is_suggested_or_some_are_listed():
    assert nearest("resnet81", ["resnet18", "vgg"]) == "did you mean 'resnet18'?"
    assert nearest("zzz", ["b", "a"]) == "choose one of a, b"
    many = nearest("zzz", [f"model{number:04}" for number in range(1000)])
    assert many.count(",") == LISTED and many.endswith(", ...")
