"""Tuning EfficientNet-Lite0 on a few thousand pictures, as a task of `tuning.py`."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tuning_tasks import CPU, Task, computing

import forwardonly as fo
from forwardonly.data.images import limited
from forwardonly.network.models import load_weights, statistics
from forwardonly.system.allocator import return_freed_memory
from forwardonly.system.memory import memory_bytes

LEARNED, HELD, TESTED, OTHERS = 2000, 500, 1000, (1000, 500)
"""Images that are learned, held out and tested, at most, and those of another set, to see what is forgotten."""
FEW = 128
"""Images where memory and time alone are measured: they should be no part of the memory."""
STRENGTH = 0.003
"""Of the logistic regression that new classifiers start from, as scikit-learn's C."""
AT_A_TIME = 50
IN_BLOCKS = ("heads", "joint", "local")
"""Arms whose model has a read-out after every block instead of a classifier."""


class Pictures(Task):
    """EfficientNet-Lite0 of timm with weights of ImageNet, on images of `--side` pixels.

    A new classifier starts from the logistic regression on the untouched model's features, in every arm that has one.
    """

    batch = 32
    options: ClassVar[dict] = {"crop": 0, "flip": "none"}

    def __init__(self, given):
        super().__init__()
        import timm

        self.given, self.arm = given, given.arms[0]
        counts = (LEARNED, TESTED) if given.figures else (FEW, FEW)
        self.train, self.held, self.test = pictures(given.task, given.side, counts)
        if given.figures:
            self.other = pictures("cifar-100" if given.task == "cifar-10" else "cifar-10", given.side, OTHERS)[::2]
        self.forget_peak()
        classes = 0 if self.arm in IN_BLOCKS else len(self.train.classes)
        self.model = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
        load_weights(self.model, given.model)
        self.model.to(memory_format=torch.channels_last)
        self.statistics = statistics(self.model)
        if self.arm == "heads":
            self.model.requires_grad_(False)
        if self.arm == "local" and given.kept_norms:
            for norm in self.model.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.requires_grad_(False)  # and so it keeps its statistics

    def forget_peak(self) -> None:
        """Counts the peak of memory from here, where Linux lets a process do so: reading images is no arm's."""
        return_freed_memory()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.resting = memory_bytes(CPU)

    def begin(self) -> None:
        """Starts the classifier from the features of the untouched model; found once, and kept beside OUT."""
        kept = self.given.out.with_suffix(f".{Path(self.given.task).name}-{self.given.side}.safetensors")
        if not kept.exists():
            save_file(self._started(), kept)
        self.model.classifier.load_state_dict(load_file(kept))

    def _started(self) -> dict[str, Tensor]:
        from sklearn.linear_model import LogisticRegression

        features, labels = self._features(self.model.eval(), self.train)
        found = LogisticRegression(C=STRENGTH, max_iter=500).fit(features.numpy(), labels.numpy())
        weight, bias = (torch.tensor(part.tolist()) for part in (found.coef_, found.intercept_))
        if len(weight) == 1:  # of two classes it gives the second's score alone
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        return {"weight": weight, "bias": bias}

    def prepared(self, arm: str) -> nn.Module:
        if self.given.figures:
            self.begin()
        model = self.model
        if arm == "frozen-half":
            for part in (model.conv_stem, model.bn1, *model.blocks[: len(model.blocks) // 2 + 1]):
                part.requires_grad_(False)
        if arm == "checkpointed":
            model.set_grad_checkpointing(True)
        if arm == "lora":
            from peft import LoraConfig, get_peft_model

            layers = [name for name, own in model.named_modules() if isinstance(own, nn.Conv2d) and own.groups == 1]
            config = LoraConfig(r=8, lora_alpha=16, target_modules=layers, modules_to_save=["classifier"])
            self.model = model = get_peft_model(model, config)
        return model

    def groups(self, model: nn.Module, rate: float, arm: str) -> list[dict]:
        """The new classifier, and adapters, learn at the rate; the body that was trained before at a tenth of it."""
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        new = {name for name in trained if "classifier" in name or "lora" in name}
        old = [weight for name, weight in trained.items() if name not in new]
        groups = [{"params": [trained[name] for name in sorted(new)], "lr": rate}]
        return [*groups, {"params": old, "lr": 0.1 * rate}] if old else groups

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        count = len(self.train) // self.batch
        for step in range(self.given.steps):
            if step % count == 0:
                order = torch.randperm(len(self.train), generator=generator)
            chosen = order[step % count * self.batch :][: self.batch]
            yield self.train.images[chosen], self.train.labels[chosen]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if self.arm == "frozen-half":
            for part in model.modules():  # frozen norms keep their statistics
                if (own := list(part.parameters(recurse=False))) and not own[0].requires_grad:
                    part.eval()
        images, labels = batch
        return F.cross_entropy(model(self.standardised(images)).float(), labels)

    def standardised(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(own).view(-1, 1, 1) for own in self.statistics)
        return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def localized(self, blocks: int, seed: int) -> fo.Network:
        mean, std = self.statistics
        rule = fo.rules.Projection(classes=len(self.train.classes))
        example = self.train.images[:2]
        return fo.localize(self.model, rule, example, blocks=blocks or "auto", mean=mean, std=std, seed=seed)

    def data(self, seed: int) -> fo.data.Images:
        return self.train

    def whole(self, net: fo.Network) -> fo.Network:
        return net

    def measured(self, model: nn.Module) -> dict:
        """Accuracy on held-out images and, unless settings are chosen, on test images; what other images still show."""
        line = {"resting_bytes": self.resting}
        if not self.given.figures:
            return line
        line["held_accuracy"] = self._accuracy(model, self.held)
        if self.given.choose:
            return line
        line["accuracy"] = self._accuracy(model, self.test)
        if isinstance(model, fo.Network):
            line["block_accuracy"] = fo.evaluate(model, self.test, batch_size=AT_A_TIME).block_accuracy
        return {
            **line,
            "other_accuracy": self._probed(fo.unlocalize(model) if isinstance(model, fo.Network) else model),
        }

    def _accuracy(self, model: nn.Module, images: fo.data.Images) -> float:
        if isinstance(model, fo.Network):
            return fo.evaluate(model, images, batch_size=AT_A_TIME).accuracy
        right = 0
        for part, labels in images.in_order(AT_A_TIME):
            with torch.no_grad(), computing():
                right += int((model(self.standardised(part)).argmax(1) == labels).sum())
        return right / len(images)

    def _probed(self, model: nn.Module) -> float:
        """What a ridge classifier reads off the model's features of other images: what is forgotten shows there."""
        from sklearn.linear_model import RidgeClassifier

        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        (x, y), (held_x, held_y) = (self._features(model, part) for part in self.other)
        return float(RidgeClassifier(alpha=100.0).fit(x.numpy(), y.numpy()).score(held_x.numpy(), held_y.numpy()))

    def _features(self, model: nn.Module, images: fo.data.Images) -> tuple[Tensor, Tensor]:
        parts = []
        for part, _ in images.in_order(AT_A_TIME):
            with torch.no_grad(), computing():
                parts.append(model.forward_features(self.standardised(part)).float().mean((2, 3)))
        return torch.cat(parts), images.labels


def pictures(name: str, side: int, counts: tuple[int, int]) -> tuple[fo.data.Images, fo.data.Images, fo.data.Images]:
    """Training, held-out and test images of a set or a folder, each class by its share, of so many pixels a side."""
    known = name in fo.data.NAMES
    held = min(HELD, counts[0])
    found = fo.data.load(name, validation=held, limit=counts[0], image_size=None if known else side)
    assert found.validation is not None
    parts = (found.train, found.validation, limited(found.test, counts[1], 0))
    return tuple(replace(part, images=resized(part.images, side)) for part in parts)


def resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    return torch.cat(
        [
            F.interpolate(part.float(), size=(side, side), mode="bilinear").round().clamp(0, 255).byte()
            for part in images.split(1000)
        ]
    )
