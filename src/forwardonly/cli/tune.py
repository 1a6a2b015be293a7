"""`forwardonly tune`: cuts a model that has learned before into blocks, and trains it on other images or texts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

import torch
import tyro
from torch import nn

import forwardonly as fo
from forwardonly.cli import train as training
from forwardonly.cli.parsing import UNSET, given
from forwardonly.cli.run_data import is_folder, place
from forwardonly.cli.screen import Screen, leads
from forwardonly.data.adapting import adapted
from forwardonly.data.texts import LENGTH
from forwardonly.experiments import tuning
from forwardonly.names import as_words, regular_expression
from forwardonly.network import models
from forwardonly.network.localized import Localized
from forwardonly.network.readout import Kind
from forwardonly.network.storage import from_config, read_config, read_history
from forwardonly.training.runs import checkpoint
from forwardonly.training.runs.figures import AFTER
from forwardonly.training.runs.figures import kept as failing_softly

Statistics = tuple[Sequence[float], Sequence[float]] | tuple[None, None]
"""Mean and deviation of the pixels, for each channel; or not known."""
UNKNOWN = (None, None)
PRETRAINED, RANDOM = "pretrained", "random"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is tuned: in a class of its own, so that the help begins with it."""

    model: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """The model: timm:NAME; hf:FOLDER, or hf:OWNER/NAME of the Hugging Face hub; or the folder of another tuning."""


@dataclass(frozen=True, kw_only=True)
class Tune(training.Train, Model):
    """Options of a tuning; `options` adds those of the rule and the training config."""

    weights: str = PRETRAINED
    """What a timm model starts from: pretrained weights, fetched by timm; a safetensors file; or random ones."""
    blocks: str = "auto"
    """Where blocks end: auto, a number of blocks, or a regular expression that modules' names match."""
    freeze: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """Weights that stay as they are: a regular expression that their names match, such as bn for batch norms."""
    data: str = "digits"
    """A data set's name, a folder of images with a directory a class, or an .npz file; for language, text files."""
    validation: int = 0
    """Training images, or rows of text, to hold out; they are measured after each epoch."""
    rule: str = "projection"
    """Learning rule of every block; `--rule NAME --help` shows its options."""
    readout: Annotated[Kind | None, UNSET, tyro.conf.DisallowNone] = None  # type: ignore[assignment]
    """Which blocks predict; by default all, and of a language model the last, whose scores are the model's own."""
    other: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """Data of another kind, a set or a folder as for --data, to see before and after each epoch what is forgotten."""
    length: int = LENGTH
    """Tokens of a row, where a language model learns from a folder of text files."""

    kinds: ClassVar[Mapping[str, Any]] = MappingProxyType({"rule": fo.rules.TABLE})
    expert: ClassVar[frozenset[str]] = training.EXPERT - {"heads_first", "body_rate", "layer_decay", "image_size"}
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({"heads_first": 0.2, "body_rate": 0.1, "epochs": 5})
    advice: ClassVar[str] = "more --epochs, or a higher --body-rate"

    @classmethod
    def named(cls, argv: Sequence[str]) -> Self:
        return cls(rule=given(argv, "--rule", cls.rule), data=given(argv, "--data", cls.data))

    def network_options(self, saved: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
        return {}

    @cached_property  # it reads a file
    def words(self) -> int | None:
        """Size of a language model's vocabulary; None of a model of images."""
        if (run := self._run) is not None:
            rule = run["network"]["rule"]
            return int(rule["classes"]) if rule.get("targets") == "token" else None
        return None if self._folder is None else models.vocabulary(self._folder)

    @cached_property  # it may be fetched
    def _folder(self) -> Path | None:
        """The folder of a Hugging Face model or of a run; None of a model of timm."""
        name = self.model or ""
        if name.startswith("hf:"):
            return models.folder_of(name.removeprefix("hf:"))
        path = Path(name).expanduser()
        return path if name and path.is_dir() else None

    @cached_property  # it reads a file
    def _run(self) -> dict[str, Any] | None:
        """The config of the run whose model is tuned further; None of another model.

        Raises:
            ValueError: the folder is neither that of a Hugging Face model nor a run's.
        """
        folder = self._folder
        if folder is None or models.config_of(folder):
            return None
        if (self.model or "").startswith("hf:"):
            raise ValueError(f"{folder} has no config.json of a Hugging Face model")
        return read_config(folder)

    @property
    def _tokenizer(self) -> Path:
        """The folder of a language model's tokenizer.

        Raises:
            ValueError: the run whose model is tuned further does not say it.
        """
        assert self._folder is not None
        if (run := self._run) is None:
            return self._folder
        if (noted := run.get("data", {}).get("tokenizer")) is None:
            raise ValueError(
                f"{self._folder} does not say by which tokenizer it read texts: go on with it by fo.load and fo.fit"
            )
        return Path(noted)

    def load(self) -> fo.data.Splits:
        self._refuse()
        return super().load() if self.words is None else self._texts(self.data, self.validation)

    def load_other(self, train: fo.data.Images) -> Any:
        if self.other is None:
            return None
        if self.words is not None:
            return self._texts(self.other, 0).train
        size = train.shape[-1] if is_folder(self.other) else None
        learned = place(self.other) == place(self.data)
        other, _ = fo.data.load_test(self.other, data_dir=self.data_dir, image_size=size, whole=not learned)
        return adapted(other, train.shape)

    def _refuse(self) -> None:
        """Refuses what is known to be wrong before data are read or the model is built.

        Raises:
            ValueError: no model has that name, there is no file of weights, or an expression is none.
        """
        if self._folder is None:
            models.parts_of(self.model or "")
            if self._file is not None and not self._goes_on and not self._file.is_file():
                raise ValueError(f"There is no file of weights {self.weights}.")
        for name in ("blocks", "freeze"):
            if (text := getattr(self, name)) is not None:
                regular_expression(f"--{name}", text)

    @property
    def _goes_on(self) -> bool:
        """Whether a run is resumed that has a checkpoint; one that was killed before it starts again."""
        return self.resume and self.out is not None and checkpoint.exists(self.out)

    @property
    def _file(self) -> Path | None:
        """The file of weights that a timm model starts from, if it does."""
        return None if self.weights in (PRETRAINED, RANDOM) else Path(self.weights).expanduser()

    def _texts(self, path: str, validation: int) -> fo.data.Splits:
        """Texts by the model's own tokenizer.

        Raises:
            ValueError: it has none, or one of more tokens than the model knows, or there is too little text.
        """
        tokenizer = models.tokenizer(self._tokenizer)
        end = tokenizer.eos_token_id
        splits = fo.data.texts(path, tokenizer.encode, length=self.length, validation=validation, end=end)
        parts = [part for part in splits if part is not None and len(part)]
        largest = max(int(tokens.max()) for part in parts for tokens in (part.images, part.labels))
        if self.words is not None and largest >= self.words:
            raise ValueError(
                f"The tokenizer in {self._tokenizer} gives token {largest}, and the model knows {self.words}, from 0 "
                "on: it is that of another model."
            )
        return splits

    def make_rule(self, train: fo.data.Images) -> fo.rules.Rule:
        if self.words is None:
            return super().make_rule(train)
        return fo.rules.make(self.rule, classes=self.words, targets="token", **asdict(self.rule_options))  # type: ignore[attr-defined]

    def noted(self) -> dict[str, Any]:
        kind = "" if self._run is not None else "hf:"
        model = self.model if self._folder is None else f"{kind}{self._folder.resolve()}"
        tokenizer = None if self.words is None else str(self._tokenizer.resolve())
        weights = self.weights if self._file is None else str(self._file.resolve())
        cut = {"model": model, "weights": weights, "blocks": self.blocks, "freeze": self.freeze}
        return {
            **cut,
            "other": None if self.other is None else place(self.other),
            "length": self.length,
            "tokenizer": tokenizer,
        }

    def build(self, train: fo.data.Images, rule: fo.rules.Rule) -> fo.Network:
        """The model with its weights, cut; of a run that goes on as it was, for its checkpoint has the weights.

        Raises:
            ValueError: there is no such model, a weight does not fit it, it cannot be cut so, or no weight is to be
                frozen.
        """
        if self.out is not None and self._goes_on:
            network = from_config(read_config(self.out)["network"])
            assert isinstance(network, Localized)
            self._freeze(network.model)
            return network
        blocks: int | str = int(self.blocks) if self.blocks.isdecimal() else self.blocks
        model, source, (mean, std) = self._model(train)
        self._freeze(model)
        if mean is not None and len(mean) != train.shape[0]:
            mean = std = None
        text = self.words is not None
        few = train.images[:2] if isinstance(train, fo.data.Images) else train.sample(2).inputs
        example = few[:, :8] if text else few  # cutting keeps a graph of the whole model
        return fo.localize(
            model,
            rule,
            example,
            blocks=blocks,
            heads="own" if text else "new",
            readout=self.readout or ("last" if text else "sum"),
            mean=mean,
            std=std,
            seed=self.seed,
            source=source,
        )

    def _freeze(self, model: nn.Module) -> None:
        """Freezes the weights that `freeze` names; norms whose weights are all frozen keep their statistics too."""
        if self.freeze is None:
            return
        chosen = [weight for name, weight in model.named_parameters() if re.search(self.freeze, name)]
        if not chosen:
            names = [name for name, _ in model.named_parameters()]
            raise ValueError(f"--freeze {self.freeze!r} matches no weight of the model, such as {names[0]!r}")
        for weight in chosen:
            weight.requires_grad_(False)

    def _model(self, train: fo.data.Images) -> tuple[nn.Module, dict[str, Any], Statistics]:
        """The model with its weights, how it is built again, and the statistics of the pixels that it learned from."""
        if self._folder is not None:
            if self.weights != PRETRAINED:
                raise ValueError(f"--weights are those of a timm model: {self._folder} has its own")
            if self._run is not None:
                return _of_run(self._folder, self._run)
            model = models.build(f"hf:{self._folder}", {})
            return model, models.source_of(model) or {}, UNKNOWN
        name, options = self.model or "", {"num_classes": 0, "in_chans": train.shape[0]}
        source = {"name": name, "options": options}
        if self.weights == RANDOM:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                return models.build(name, options), source, UNKNOWN
        if self._file is None:
            model = models.pretrained(name, options)
        else:
            model = models.build(name, options)
            models.load_weights(model, self._file)
        return model, source, models.statistics(model) or UNKNOWN

    def as_saved(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        data = saved["data"]
        kept = {name: data[name] for name in ("model", "weights", "blocks", "other", "length")}
        return {**kept, "freeze": data.get("freeze")}


def _of_run(folder: Path, config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any], Statistics]:
    """As `Tune._model`, of the model that a run has tuned.

    Raises:
        ValueError: the folder has no run of a model that can be built again.
    """
    source = config["network"].get("model")
    if source is None:
        raise ValueError(f"{folder} has no model of timm or Hugging Face: go on with it by fo.load and fo.fit")
    network = fo.load(folder)
    prepare = network.prepare
    known = prepare.standardise and len(network.shape) == 3
    statistics = (prepare.mean.flatten().tolist(), prepare.std.flatten().tolist()) if known else UNKNOWN
    return fo.unlocalize(network), source, statistics


def run(chosen: Any, screen: Screen) -> dict[str, Any]:
    """Trains, as `forwardonly train` does.

    Raises:
        ValueError: no model is named.
    """
    if not chosen.model:
        raise ValueError("name the model to tune, as --model timm:resnet18, --model hf:FOLDER or --model RUN")
    result = training.run(chosen, screen)
    kept = ("epoch", *tuning.FIGURES)
    history = read_history(Path(result["run"]))
    result["measured"] = [{name: row[name] for name in kept if name in row} for row in history]
    if leads():
        with failing_softly(result, AFTER, "writing the report"):
            result["report"] = str(tuning.write(Path(result["run"]), result, command(chosen)))
    return result


def command(chosen: Any) -> list[str]:
    """The words of the command line that repeats a tuning, also one that was resumed, in a new folder."""
    plain = options(["--rule", chosen.rule, "--data", chosen.data])
    here = {"json", "resume", "out", "log", "stages", "body"}
    words = {own.name: getattr(chosen, own.name) for own in fields(Tune) if own.name not in here}
    words = {name: value for name, value in words.items() if value != getattr(Tune, name) or name == "data"}
    of_rule, usual = asdict(chosen.rule_options), asdict(plain.rule_options)
    words |= {f"rule.{name}": value for name, value in of_rule.items() if value != usual[name]}
    of_training, usual = training.training_options(chosen), training.all_training_options(plain)
    words |= {name: value for name, value in of_training.items() if name == "batch_size" or value != usual[name]}
    return ["forwardonly", "tune", *as_words(words)]


def show(result: dict[str, Any], screen: Screen) -> None:
    """The figures of each epoch beside those of the untouched model, and the folder of the run."""
    columns, rows = tuning.measured(result.get("before"), result["measured"])
    if rows:
        screen.table("task and what is forgotten", columns, rows)
    if result["test_accuracy"] is not None:
        training.show(result, screen)
    else:
        training.show_work(result, screen)
        screen.say(f"saved in {result['run']}; use it from Python, as fo.load({result['run']!r})")
    if "report" in result:
        screen.say(f"report: {result['report']}")


def options(argv: Sequence[str]) -> Any:
    """The defaults, as an instance of `Tune` with a field for each group of options."""
    return training.options(argv, Tune)
