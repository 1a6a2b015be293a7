"""`forwardonly tune`: cuts a model that has learned before into blocks, and trains it on other images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

import tyro

import forwardonly as fo
from forwardonly.cli import train as training
from forwardonly.cli.parsing import UNSET, given
from forwardonly.cli.screen import Screen
from forwardonly.network import models
from forwardonly.network.storage import CONFIG, from_config, read_config

show = training.show


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is tuned: in a class of its own, so that the help begins with it."""

    model: Annotated[str, UNSET] = ""
    """The model: timm:NAME, or hf:FOLDER of a Hugging Face model; it must be named."""


@dataclass(frozen=True, kw_only=True)
class Tune(training.Train, Model):
    """Options of a tuning; `options` adds those of the rule and the training config."""

    weights: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """A safetensors file of weights that the model starts from; hf:FOLDER has its own."""
    blocks: str = "auto"
    """Where blocks end: auto, a number of blocks, or a regular expression that modules' names match."""
    rule: str = "projection"
    """Learning rule of every block; `--rule NAME --help` shows its options."""

    kinds: ClassVar[Mapping[str, Any]] = MappingProxyType({"rule": fo.rules.TABLE})
    expert: ClassVar[frozenset[str]] = training.EXPERT - {"heads_first", "body_rate", "layer_decay", "image_size"}
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({"heads_first": 0.2, "body_rate": 0.1, "epochs": 5})

    @classmethod
    def named(cls, argv: Sequence[str]) -> Self:
        return cls(rule=given(argv, "--rule", cls.rule), data=given(argv, "--data", cls.data))

    def network_options(self, saved: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
        return {}

    def build(self, train: fo.data.Images, rule: fo.rules.Rule) -> fo.Network:
        """The model with its weights, cut; of a resumed run as it was, for the checkpoint has the weights.

        Raises:
            ValueError: there is no such model, a weight does not fit it, or it cannot be cut so.
        """
        if self.resume and self.out is not None and (self.out / CONFIG).exists():
            return from_config(read_config(self.out)["network"])
        timm = self.model.startswith("timm:")
        options = {"num_classes": 0, "in_chans": train.shape[0]} if timm else {}
        blocks: int | str = int(self.blocks) if self.blocks.isdecimal() else self.blocks
        model = models.build(self.model, options)
        if self.weights is not None:
            models.load_weights(model, self.weights)
        source = {"name": self.model, "options": options}
        example = train.images[:2]
        return fo.localize(model, rule, example, blocks=blocks, readout=self.readout, seed=self.seed, source=source)

    def as_saved(self, network: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": network["model"]["name"]}


def run(chosen: Any, screen: Screen) -> dict[str, Any]:
    """Trains, as `forwardonly train` does.

    Raises:
        ValueError: no model is named.
    """
    if not chosen.model:
        raise ValueError("name the model to tune, as --model timm:resnet18 or --model hf:FOLDER")
    return training.run(chosen, screen)


def options(argv: Sequence[str]) -> Any:
    """The defaults, as an instance of `Tune` with a field for each group of options."""
    return training.options(argv, Tune)
