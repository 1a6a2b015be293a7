"""Data: known sets, folders and arrays as uint8 tensors, in batches, augmented on their device."""

from forwardonly.data.adapting import InMemory, read_adapted
from forwardonly.data.augment import Augment, Views
from forwardonly.data.batches import batches
from forwardonly.data.fetching import fetch
from forwardonly.data.folders import list_images, passed_over
from forwardonly.data.held import load_test
from forwardonly.data.images import Features, Images, Splits, hold_out
from forwardonly.data.large import larger_than_memory, stream
from forwardonly.data.loading import load
from forwardonly.data.pictures import read_images
from forwardonly.data.shards import shards
from forwardonly.data.sources import NAMES, Check, Description, augmentation, describe, table, verify
from forwardonly.data.texts import texts

__all__ = [
    "NAMES",
    "Augment",
    "Check",
    "Description",
    "Features",
    "Images",
    "InMemory",
    "Splits",
    "Views",
    "augmentation",
    "batches",
    "describe",
    "fetch",
    "hold_out",
    "larger_than_memory",
    "list_images",
    "load",
    "load_test",
    "passed_over",
    "read_adapted",
    "read_images",
    "shards",
    "stream",
    "table",
    "texts",
    "verify",
]
