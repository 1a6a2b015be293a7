"""A run: `fit` trains a network on data of any kind and records its history, in a folder if one is given."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from forwardonly.data import Images
from forwardonly.data.images import require_contrast
from forwardonly.data.inputs import Expected
from forwardonly.data.matching import covers, featured_as, features_of, named_as
from forwardonly.data.streams import Passing
from forwardonly.data.taking import Columns, Data, take
from forwardonly.measure.free_riding import require_wrong_labels
from forwardonly.names import plain, whole_number
from forwardonly.network.localized import Localized
from forwardonly.network.network import Network, require_network
from forwardonly.system.cores import cores
from forwardonly.system.precision import choose_device, choose_precision
from forwardonly.system.threads import own_number, using
from forwardonly.training import compatibility, strategies
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.feed import prepared_for
from forwardonly.training.interrupt import finish_step_on_interrupt
from forwardonly.training.memory.budget import make_plan
from forwardonly.training.progress import StepEvent
from forwardonly.training.runs.folder import arithmetic_of
from forwardonly.training.session import open_session
from forwardonly.training.trainer import Trainer


@dataclass
class Run:
    """A finished run: the network, the history with a row for each epoch, the final result, and the folder, if any."""

    network: Network
    history: list[dict[str, Any]]
    result: dict[str, Any]
    folder: Path | None


class RunWarning(UserWarning):
    """Something that a run could not do, such as measure or learn; also in the `notes` of the row or the result."""


def fit(
    network: Network,
    train: Any,
    *,
    validation: Any = None,
    test: Any = None,
    other: Any = None,
    classes: Sequence[Any] | None = None,
    columns: Columns | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: Callable[[StepEvent], None] | None = None,
    extra: dict[str, Any] | None = None,
    team: Team | None = None,
    **options: Any,
) -> Run:
    """Trains a network, every block by its own rule.

    The network remembers the names of the classes (`Network.class_names`). Labels of validation and test images, and of
    training images if it has learned classes of these names before, are matched to them by name. So are the columns of
    tables that have names (`Network.feature_names`).

    What fails after training (measuring, writing) or did not learn is warned of and noted in the result's `notes`, and
    a failed validation in those of the epoch's row; the run goes on, or is returned all the same. Of a network built by
    hand, a run folder holds weights and figures, but `fo.load` cannot rebuild it; of one that `localize` cut, it can,
    with the model as `model=` where no name builds it.

    Args:
        network: is moved to the device that the options name.
        train: images to learn from, or data of any kind: our own sets; (X, y) of tensors, numpy arrays or pandas
            tables; a torch `Dataset` or `DataLoader`; Hugging Face `datasets`; any iterable of batches (inputs,
            targets), or a function that makes one, which needs `steps=` if it has no length. A `DataLoader`'s batches
            and those of an iterable go by as they are. Under a rule without labels, `fo.data.Images(images)` is enough.
        validation: images, or other data, to report accuracy on after each epoch, and of a model that `localize` cut
            before the first step too, in the result as `before`.
        test: images, or other data, to report accuracy on once, at the end.
        other: data of another kind, to see what a pretrained network forgets: figures on it are in each row as
            `other_...`, and those before the first step, with the validation's, in the result as `before`. Of images
            whose classes are not the network's, what a ridge probe reads off it (`fo.probe`).
        classes: names of the classes in the order of their indices, where the data do not say them; labels are looked
            up among them.
        columns: of data with named columns, which are the inputs and which the target, as ("image", "label").
        out: run folder; without one nothing is written.
        resume: continue from the checkpoint in `out`, on any device and with the same images, wherever they lie. With
            more epochs, a finished run continues too; from where it stands, the learning rate follows the new schedule.
        seed: of every random draw in the run; initial weights were drawn when the network was built.
        progress: called after every step; with several workers, while the last few steps are still in flight.
        extra: stored in the run's `config.json` with the network's config and the training config.
        team: the processes that share the run, all of which call this with the same arguments; see `training.join`.
        options: fields of `TrainingConfig`; those not given take the values that suit the rule and the data set.

    Raises:
        ValueError: invalid options, images or labels, a validation or test image of a class that the training images do
            not have, a folder that cannot be written, or a run to resume that had other images or options.
        NonFiniteLoss: a loss or a weight became NaN or infinite; the folder keeps the last good checkpoint.
        Interrupted: Ctrl-C; the step was finished and, with `out` and one process, a checkpoint written.
        LostPeer: another process of the team died or hangs.
    """
    require_network(network)
    seed = whole_number("seed", seed, 0)

    def taken(name: str, data: Any, expected: Expected, learning: bool = False) -> Data:
        return take(data, expected, classes=classes, columns=columns, name=name, learning=learning)

    scales = network.prepare  # which a network that standardises learns from its first data
    train = taken("train", train, network.expected, learning=not (scales.standardise and bool(scales.fitted)))
    like_train = network.expected._replace(features=features_of(train) or network.feature_names)
    validation = None if validation is None else taken("validation", validation, like_train)
    test = None if test is None else taken("test", test, like_train)
    other = None if other is None else taken("other", other, like_train)
    _check(network, train, validation, test, other)
    if network.labelled:
        train, validation, test = _matched(network, train, validation, test)
    folder = None if out is None else Path(out)
    config = TrainingConfig.resolve(network.rule, train, options)
    team = team or Team()
    device = team.device(choose_device(config.device))
    begun = folder if resume else None
    config = _settled(config, begun, device, team)
    if begun is not None and options.get("threads") is None and (config.threads or 0) > cores():
        warnings.warn(
            f"The run goes on with its {config.threads} threads, to the same bits; this process may use fewer "
            f"cores, so that threads={cores()} is faster.",
            RunWarning,
            stacklevel=2,
        )
    if config.threads is None and team.alone:
        config = replace(config, threads=own_number())
    setting = compatibility.Setting(config, network, device, team, train)
    with (
        _emitted(setting),
        nullcontext() if config.threads is None else using(config.threads),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        compatibility.check(setting)
        _check_options(network, config, train, validation, options)
        batch_size = prepared_for(train, config.batch_size, seed)
        names = features_of(train)  # of a stream they are known once it is open
        validation, test, other = (
            None if data is None else featured_as(data, names) for data in (validation, test, other)
        )
        if isinstance(train, Passing) and train.batch_size is None and options.get("batch_size") is not None:
            raise ValueError(f"{train.name} has batches of its own, which go by as they are: leave batch_size out.")
        compatibility.check_counts(setting, batch_size)
        plan = make_plan(network, train, config, device, batch_size)
        plan.place(network, device)
        session = open_session(network, train, config, device, seed, team, batch_size)
        strategy = strategies.choose(session)
        trainer = Trainer(session, strategy, folder, plan.predicted, validation, other)
        with plan.applied(session, strategy.placement[team.stage], folder):
            trainer.open(plain(extra or {}), resume, validation if network.readout.fitted_on == "validation" else None)
            network.class_names = (train.classes or None) if network.labelled else None
            network.feature_names = names or network.feature_names
            try:
                with finish_step_on_interrupt() as interrupted:
                    trainer.look_before()
                    for row in trainer.train(progress, interrupted):
                        trainer.progress.history.append(row)
                        _warn(row)
            finally:
                session.free()
            extra_figures = {} if config.memory_budget is None else {"plan": asdict(plan)}
            result = trainer.finish(test, extra_figures)
    _warn(result)
    return Run(network, trainer.progress.history, result, folder)


def _settled(config: TrainingConfig, begun: Path | None, device: torch.device, team: Team) -> TrainingConfig:
    """The config with the arithmetic that it leaves open: of the run in `begun`, or of the leading process.

    That is the precision, where `auto` would mean another one in this process, and the number of threads of a run's
    process that is alone.
    """
    precision, threads = arithmetic_of(begun) if begun is not None and team.leads else (None, None)
    if config.precision == "auto":
        own = choose_precision("auto", device)
        leading = precision if precision in ("fp32", "bf16") else own
        leading = team.broadcast({"precision": leading}, device)["precision"]
        if leading != own:
            config = replace(config, precision=leading)
    if config.threads is None and team.alone and isinstance(threads, int) and threads > 0:
        config = replace(config, threads=threads)
    return config


@contextmanager
def _emitted(setting: compatibility.Setting) -> Iterator[None]:
    """A context in which the blocks of a model can be called alone, where the run needs it and the model allows it."""
    network = setting.network
    if not isinstance(network, Localized):
        yield
        return
    try:
        if compatibility.needs_blocks(setting):
            network.emit(setting.config.compile)
        yield
    finally:
        network.keep_in_place()


def _warn(figures: Mapping[str, Any]) -> None:
    """Warns, where `fit` was called, of what is noted in a row or the result."""
    for note in figures.get("notes", ()):
        warnings.warn(note, RunWarning, stacklevel=3)


def _check(network: Network, train: Data, validation: Data | None, test: Data | None, other: Data | None) -> None:
    """Raises ValueError unless the network can learn from the data."""
    if torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in network.parameters()):
        raise ValueError("Training needs gradients: build the network and call fit outside torch.inference_mode().")
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ValueError("Every weight of the network is frozen: free those that are to learn with requires_grad_().")
    for data in (train, validation, test):
        if data is not None and not network.prepare.tokens and tuple(data.shape) != network.shape:
            raise ValueError(f"The network takes images of {network.shape}, not {tuple(data.shape)}.")
    if isinstance(train, Images):
        if len(train) == 0:
            raise ValueError("There are no training images.")
        require_contrast(train)
        if network.labelled:
            train.require_labels()
        low, high = (int(bound) for bound in train.labels.aminmax()) if train.kind in ("class", "token") else (0, 0)
        if train.kind == "token":
            low = max(low, 0)  # positions that are not to be predicted are below
        if network.labelled and not 0 <= low <= high < network.classes:
            raise ValueError(
                f"Labels must be from 0 to {network.classes - 1}, the network's classes, but go from {low} to {high}."
            )
    for name, data in (("validation", validation), ("test", test)):
        if isinstance(data, Images) and network.labelled and not len(data) and not data.labelled:
            raise ValueError(f"There are no {name} images.")
    fitted_on = network.readout.fitted_on
    if not network.labelled and any(each is not None for each in (validation, test, fitted_on)):
        raise ValueError(
            "This network learns without labels, so it has no accuracy on validation or test images and no fitted "
            "readout: leave them out, and read it with labelled images by fo.probe(network, train) or "
            "`forwardonly probe RUN`."
        )
    if fitted_on == "validation" and validation is None:
        raise ValueError(f"The readout {network.readout.kind!r} is fitted to validation images: hold some out.")
    if fitted_on == "training" and isinstance(train, Passing):
        raise ValueError("The readout 'training' reads the training images again, which have gone by: choose sum.")
    for name, data in (("validation", validation), ("other", other)):
        if isinstance(data, Passing) and data.once:
            raise ValueError(
                f"{name} is read after each epoch, and a generator ends after the first: give a list, a DataLoader, or "
                "a function that makes the stream."
            )


def _check_options(
    network: Network, config: TrainingConfig, train: Data, validation: Data | None, given: dict[str, Any]
) -> None:
    """Raises ValueError for options that do not suit the network or the data."""
    if config.heads_first > 0 and not any(True for block in network.row for _ in block.rule.parameters()):
        raise ValueError(
            "heads_first needs a rule with weights of its own, such as projection: this one has none, so give "
            "heads_first 0."
        )
    if config.augment is not None and len(network.shape) != 3:
        raise ValueError(f"crop, flip and cutout are for pictures, and the network takes {network.shape}.")
    if config.flip == "alternating" and isinstance(train, Passing):
        raise ValueError("flip alternating needs to know which image is which, as a stream does not: choose random.")
    if config.diagnose and validation is not None and not isinstance(validation, Images):
        raise ValueError("diagnose needs validation images in memory: give (X, y), or leave it out.")
    if config.diagnose and validation is not None:
        require_wrong_labels(network)
    if isinstance(train, Passing) and train.once and config.epochs > 1 and config.steps is None:
        raise ValueError(f"{train.name} is a generator, which ends after one epoch: choose epochs=1, or steps=N.")


def _matched(
    network: Network, train: Data, validation: Data | None, test: Data | None
) -> tuple[Data, Data | None, Data | None]:
    """All images with the same class names: the network's, if it has learned those of the training images, or these.

    Raises:
        ValueError: validation or test images are of a class that the training images do not have.
    """
    names, known = train.classes[: network.classes], network.class_names
    if known is not None and covers(known, train):
        names = known
    held = [
        None if images is None else named_as(images, names, "the set of training images")
        for images in (validation, test)
    ]
    return named_as(train, names, "the network"), held[0], held[1]
