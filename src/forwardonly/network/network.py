"""A network: a row of blocks, and its activations, class scores and predictions.

Shapes: B batch, C classes, L blocks; images are (B, channels, height, width).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from forwardonly import labels as label_code
from forwardonly.bodies import Stem
from forwardonly.bodies.dropout import drops
from forwardonly.data.inputs import Expected, Inputs
from forwardonly.data.taking import Columns, take
from forwardonly.names import require, whole_number
from forwardonly.network.block import Block, refuse_shared_weights
from forwardonly.network.candidates import goodness_by_label
from forwardonly.network.given import is_inputs, read_given
from forwardonly.network.label_classifier import LabelClassifier
from forwardonly.network.losses import losses_along, losses_among_all
from forwardonly.network.prepare import Prepare, Units
from forwardonly.network.readout import Kind, Readout
from forwardonly.network.signal import Signal, to_device
from forwardonly.network.vocabulary import ids_of
from forwardonly.rules import ContrastiveRule, OnePassRule, Rule, UnlabelledRule
from forwardonly.targets import OBJECTIVES

FAMILIES = (OnePassRule, ContrastiveRule, UnlabelledRule)


class Network(nn.Module):
    """Blocks in a row, each with a rule of its own.

    Args:
        blocks: at least one; all one-pass, all contrastive, or all without labels.
        shape: of one input: of pictures channels, height and width; of a table its features, of series channels and
            steps, of token ids their number; () for several inputs, in a tuple or a dict.
        readout: how the blocks' scores become the network's.
        stem: untrained module before the first block.
        standardise: shift and scale each feature or channel of the inputs by what the training data have; by default
            pictures alone, if the rule wants it.
        config: what `fo.load` needs to build this network again; empty for a network built by hand.

    `in_place` says whether its blocks are parts of a model that runs as it was written (`localize`).

    `class_names` are those of the data that it learned from, by which `fo.evaluate` matches the labels of others, and
    `feature_names` those of a table's columns, by which others' are put in order; None before. `fo.save` keeps both.

    Raises:
        ValueError: no blocks, blocks of several families, or blocks that share weights.
    """

    in_place = False
    feature_names: tuple[str, ...] | None = None

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        shape: Sequence[int],
        readout: Kind = "sum",
        stem: Stem | None = None,
        standardise: bool | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not blocks:
            raise ValueError("A network needs at least one block.")
        if len({tuple(isinstance(block.rule, family) for family in FAMILIES) for block in blocks}) > 1:
            raise ValueError(
                "A network cannot mix one-pass, contrastive and unlabelled rules: they are fed differently."
            )
        refuse_shared_weights(blocks)
        rule = blocks[0].rule
        self.shape = tuple(shape)
        rule.require_shape(self.shape)
        self.classes = rule.classes
        self._config: dict[str, Any] = dict(config or {})
        self.class_names: tuple[str, ...] | None = None
        self.blocks = nn.ModuleList(blocks)
        self.targets = rule.targets
        if readout == "range" and self.targets != "class":
            raise ValueError("The readout 'range' counts right classes: choose validation, training or sum.")
        self.units = Units(self.classes) if self.targets == "number" else None
        if standardise is None:
            standardise = len(self.shape) == 3 and rule.standardise
        self.prepare = self._make_prepare(stem, standardise)
        self.readout = Readout(readout, len(blocks))
        self.label_classifier: LabelClassifier | None = None
        if getattr(rule, "needs_label_classifier", False):
            self.eval()  # the trial must not change running statistics
            passed = self.read(self.prepare(self.blank(1)))
            self.train()
            self.label_classifier = LabelClassifier([math.prod(own.shape[1:]) for own in passed], self.classes)

    def _make_prepare(self, stem: Stem | None, standardise: bool) -> Prepare:
        """What comes before the first block; also lays the weights out as it lays out its maps."""
        convolutional = any(isinstance(part, nn.Conv2d) for part in self.blocks.modules())
        if convolutional:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's own types
        ids = ids_of(self.row[0])
        return Prepare(self.shape, standardise=standardise, stem=stem, channels_last=convolutional, **ids)

    @property
    def config(self) -> dict[str, Any]:
        """What `fo.load` needs to build this network again; empty for a network built by hand.

        Its "input" says whether the network was fitted to pixels or to features; missing before training. Of features
        that lie as pictures do, "range" says from where to where they went.
        """
        known = bool(self._config) and self.prepare.input is not None
        if not known:
            return dict(self._config)
        lie = {} if self.prepare.range is None else {"range": list(self.prepare.range)}
        return {**self._config, "input": self.prepare.input, **lie}

    @property
    def row(self) -> list[Block]:
        """The blocks, from the input on."""
        return [block for block in self.blocks if isinstance(block, Block)]

    @property
    def rule(self) -> Rule:
        """The first block's rule, whose options hold for the network."""
        return self.row[0].rule

    @property
    def labelled(self) -> bool:
        """Whether the network learns from labels, and so has class scores."""
        return self.rule.labelled

    def require_classes(self) -> None:
        """Raises ValueError for a network that learns without labels, where class scores are asked for."""
        if not self.labelled:
            raise ValueError(
                "This network learns without labels, so it has no class scores: read it with labelled images by "
                "fo.probe(network, train), or `forwardonly probe RUN`."
            )

    @property
    def draws_hard(self) -> bool:
        """Whether training draws wrong labels from the label classifier's predictions."""
        return getattr(self.rule, "negatives", "uniform") == "hard"

    @property
    def draws(self) -> bool:
        """Whether blocks draw random numbers in training, as dropout does."""
        return any(map(drops, self.modules()))

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.readout.weights.device

    def blank(self, count: int) -> Any:
        """That many inputs without content, as the network takes them."""
        return self.prepare.blank(count)

    @property
    def expected(self) -> Expected:
        """What the network takes and learns, by which data of any origin are read."""
        own = (self.shape, self.targets, self.classes, self.class_names, self.prepare.tokens, self.labelled)
        return Expected(*own, self.feature_names, self.prepare.vocabulary)

    def aimed(self, targets: Tensor) -> Tensor:
        """Targets as the rules' losses take them: numbers in standard units, others as they are."""
        return targets if self.units is None else self.units.standardised(targets)

    def present(
        self,
        images: Inputs,
        labels: Tensor,
        generator: torch.Generator | None = None,
        wrong: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> Signal:
        """The first block's input in training.

        For one-pass rules, the prepared images (B, ...). For contrastive rules, (2B, ...): the positive stream, which
        is the images with their labels, and behind it the negative one, the same images with `wrong` labels (B,). If
        `wrong` is None, `generator` draws them; hard ones are drawn from the label classifier's `logits` (B, C),
        computed unless given. Rules without labels make both streams of the images, of which there may be two views,
        (2B, ...) behind each other; of the labels only the number counts.
        """
        prepared = self.prepare(images)
        if isinstance(self.rule, UnlabelledRule):
            assert generator is not None
            views = prepared.split(len(labels))
            return torch.cat(self.rule.pair(views[0], views[-1], generator))
        if not isinstance(self.rule, ContrastiveRule):
            return prepared
        if wrong is None:
            assert generator is not None
            wrong = self._draw_wrong(prepared, labels, generator, logits)
        return torch.cat([self.with_labels(prepared, labels), self.with_labels(prepared, wrong)])

    def _draw_wrong(
        self, prepared: Tensor, labels: Tensor, generator: torch.Generator, logits: Tensor | None
    ) -> Tensor:
        """A wrong label for each image, (B,): uniform, or hard, drawn from the label classifier's predictions."""
        if not self.draws_hard:
            return label_code.wrong_labels(labels, self.classes, generator)
        if logits is None:
            assert self.label_classifier is not None
            with torch.no_grad():
                logits = self.label_classifier(self.read(prepared)).sum(0)
        return label_code.hard_labels(labels, logits, generator)

    def with_labels(self, prepared: Tensor, labels: Tensor) -> Tensor:
        """Prepared images with labels (B,) embedded in them."""
        return label_code.embed_labels(*self._label_input(prepared), labels)

    def _label_input(self, prepared: Tensor) -> tuple[Tensor, int, float, label_code.Placement]:
        """Images to embed labels in, the number of classes, the value of the code's "1", and the placement."""
        rule = self.rule
        assert isinstance(rule, ContrastiveRule)
        images = rule.normalise(prepared) if rule.normalise_input else prepared
        return images, self.classes, rule.label_one(self.prepare.high), rule.label_placement

    def walk(self, incoming: Signal, at: Callable[[Block, Any], Signal], blocks: int | None = None) -> None:
        """Takes a prepared batch through the first `blocks`, or all.

        `at` a block, given what arrives there, says what it passes on.
        """
        for block in self.row[:blocks]:
            incoming = at(block, incoming)

    def each(
        self, incoming: Signal, see: Callable[[Block, Tensor, Signal], Any], blocks: int | None = None
    ) -> list[Any]:
        """What is to `see` of the first `blocks`, or all, each given its activation and its output; autograd is off.

        Raises:
            ValueError: a model of the user's leaves one of them out for these inputs.
        """
        seen = self.seen(incoming, see, blocks)
        if missing := set(range(len(self.row[:blocks]))) - set(seen):
            raise ValueError(
                f"The model leaves out block {min(missing)} for these inputs, and what is asked for needs every block: "
                "choose inputs for which all of them run."
            )
        return [seen[index] for index in sorted(seen)]

    def seen(
        self, incoming: Signal, see: Callable[[Block, Tensor, Signal], Any], blocks: int | None = None
    ) -> dict[int, Any]:
        """As `each`, by the blocks' indices: without those that a model of the user's leaves out for these inputs."""
        seen = {}
        indices = {id(block): index for index, block in enumerate(self.row)}

        def at(block: Block, arriving: Any) -> Signal:
            activation = block(arriving)
            passed = block.pass_on(activation, arriving)
            seen[indices[id(block)]] = see(block, activation, passed)
            return passed

        with torch.no_grad():
            self.walk(incoming, at, blocks)
        return seen

    def local_losses(self, incoming: Signal, labels: Tensor) -> list[Tensor]:
        """Each block's loss on one batch, with its graph; the weights do not change."""
        if self.row[0].needs_peers == "all":
            return losses_among_all(self.walk, incoming)
        return losses_along(self.walk, incoming, labels)

    def read(self, prepared: Tensor) -> list[Tensor]:
        """Every block's output for images under a neutral label: the label classifier's input."""
        return self.each(self.alone(prepared), lambda block, activation, passed: block.shown(passed))

    def alone(self, prepared: Any) -> Any:
        """The first block's input for prepared images as such: under a neutral label, where labels are embedded."""
        if isinstance(self.rule, UnlabelledRule):
            return self.rule.alone(prepared)
        if isinstance(self.rule, ContrastiveRule):
            return label_code.embed_neutral(*self._label_input(prepared))
        return prepared

    def scores(self, images: Inputs) -> Tensor:
        """Every block's scores of the classes, or of other outputs, (L, B, C) in float32; of tokens (L, B, T, C).

        Numbers are in their own units. One-pass rules and softmax prediction take one pass, goodness under labels C.

        Raises:
            ValueError: images of another shape than the network's, not finite, or floats outside 0 to 1 where the
                network was trained on pixels; a network that learns without labels.
        """
        self.require_classes()
        with torch.no_grad():
            prepared = self.prepare(self._read(images))
            if isinstance(self.rule, ContrastiveRule):
                if getattr(self.rule, "predict", "goodness") == "softmax":
                    assert self.label_classifier is not None
                    return self.label_classifier(self.read(prepared))
                return self._goodness_of_all(prepared)
            scores = self.readout.whole(self.seen(prepared, lambda block, own, _: _one_pass_scores(block, own)))
            return scores if self.units is None else self.units(scores)

    def goodness(self, images: Tensor) -> Tensor:
        """Every block's own score of each class, (L, B, C): `scores`, but for contrastive rules always the goodness.

        Raises:
            ValueError: as `scores`.
        """
        if not isinstance(self.rule, ContrastiveRule):
            return self.scores(images)
        with torch.no_grad():
            return self._goodness_of_all(self.prepare(self._read(images)))

    def _read(self, inputs: Any) -> Any:
        """Inputs of any kind that `fo.fit` takes, as tensors on the network's device."""
        return to_device(read_given(inputs, self.expected, self.prepare), self.device)

    def _goodness_of_all(self, prepared: Tensor) -> Tensor:
        return goodness_by_label(self.row, *self.apart(prepared))

    def apart(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Unlabelled images (B, ...) and every label on a blank image (C, ...), whose sums are the labelled images."""
        images, classes, value, placement = self._label_input(prepared)
        unlabelled = label_code.embed(images, images.new_zeros(images.shape[0], classes), value, placement)
        blank = images.new_zeros(classes, *images.shape[1:])
        return unlabelled, label_code.embed(blank, torch.eye(classes, device=images.device), value, placement)

    def forward(self, images: Inputs) -> Tensor:
        """The network's scores (B, C): the readout of `scores`; of numbers, the mean that the readout weighs."""
        return self.joined(self.scores(images))

    def joined(self, scores: Tensor) -> Tensor:
        """What `forward` gives, of what `scores` gave."""
        joined: Tensor = self.readout(scores)
        return joined if self.units is None else self.readout.mean(joined)

    def predict(self, images: Any, *, columns: Columns | None = None, batch_size: int = 1000) -> Tensor:
        """What the network says of each input, in evaluation mode: the index of its class, (B,).

        Of several labels which are present, (B, C); of numbers their values, (B, C), or (B,) for one; of tokens the
        next at each position, (B, T).

        Args:
            images: inputs (B, ...), or data of any kind that `fo.fit` takes, whose targets are not looked at.
            columns: as in `fo.fit`.
            batch_size: inputs at a time, of data that are read batch by batch.

        Raises:
            ValueError: as `scores`, or data that are none.
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        if is_inputs(images, self.expected, self.prepare):
            with self.evaluating():
                scores = self(images)
        else:
            data = take(images, self.expected, columns=columns, name="the data to predict")
            with self.evaluating():
                scores = torch.cat([self(inputs) for inputs in data.inputs_in_order(batch_size)])
        said = OBJECTIVES[self.targets].predict(scores)
        return said.squeeze(1) if self.targets == "number" and self.classes == 1 else said

    def probabilities(self, images: Inputs) -> Tensor:
        """Softmax over classes, (B, C), of the blocks' mean score at the scale of their loss; in evaluation mode.

        Of several labels at once, the sigmoid of each. They are ours, and not calibrated: the rules rank classes and do
        not model probabilities.

        Raises:
            ValueError: as `scores`, or a network that learns numbers.
        """
        with self.evaluating():
            return self.probabilities_of(self.scores(images))

    def probabilities_of(self, scores: Tensor) -> Tensor:
        """`probabilities`, of what `scores` gave, (L, B, C)."""
        of = OBJECTIVES[self.targets].probabilities
        if of is None:
            raise ValueError("The network learns numbers, which have no probabilities: predict says them.")
        return of(self.rule.score_scale * self.readout.mean(self.readout(scores)))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """A context in evaluation mode; the network's own mode is restored, also after an error."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)


def require_network(network: Any) -> None:
    """Raises ValueError unless it is a network of ours."""
    require("network", network, Network, "what fo.mlp, fo.build, fo.localize or fo.load gives")


def _one_pass_scores(block: Block, activation: Tensor) -> Tensor:
    assert isinstance(block.rule, OnePassRule)
    return block.rule.every_score(activation)
