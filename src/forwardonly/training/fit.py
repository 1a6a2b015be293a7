"""A run: `fit` trains a network on images and records its history, in a folder if one is given."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from forwardonly.data import Images
from forwardonly.data.images import require_contrast
from forwardonly.data.matching import covers, named_as
from forwardonly.names import plain, whole_number
from forwardonly.network.network import Network
from forwardonly.system.precision import choose_device
from forwardonly.training import compatibility, strategies
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.interrupt import finish_step_on_interrupt
from forwardonly.training.memory.budget import make_plan
from forwardonly.training.progress import StepEvent
from forwardonly.training.session import open_session
from forwardonly.training.trainer import Trainer, as_begun


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
    train: Images,
    *,
    validation: Images | None = None,
    test: Images | None = None,
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
    training images if it has learned classes of these names before, are matched to them by name.

    What fails after training (measuring, writing) or did not learn is warned of and noted in the result's `notes`, and
    a failed validation in those of the epoch's row; the run goes on, or is returned all the same. Of a network built by
    hand or by `localize`, a run folder holds weights and figures, but `fo.load` cannot rebuild it.

    Args:
        network: is moved to the device that the options name.
        train: images to learn from; under a rule without labels, their labels do not matter and may be missing.
        validation: images to report accuracy on after each epoch.
        test: images to report accuracy on once, at the end.
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
    seed = whole_number("seed", seed, 0)
    _check(network, train, validation, test)
    if network.labelled:
        train, validation, test = _matched(network, train, validation, test)
    folder = None if out is None else Path(out)
    config = TrainingConfig.resolve(network.rule, train, options)
    team = team or Team()
    device = team.device(choose_device(config.device))
    if resume and folder is not None:
        config = as_begun(config, folder, device, team)
    setting = compatibility.Setting(config, network, device, team)
    compatibility.check(setting)
    compatibility.check_counts(setting, len(train))
    with torch.enable_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        plan = make_plan(network, train, config, device)
        plan.place(network, device)
        session = open_session(network, train, config, device, seed, team)
        strategy = strategies.choose(session)
        trainer = Trainer(session, strategy, folder, plan.predicted)
        with plan.applied(session, strategy.placement[team.stage], folder):
            trainer.open(plain(extra or {}), resume, validation if network.readout.fitted_on == "validation" else None)
            network.class_names = train.classes if network.labelled else None
            with finish_step_on_interrupt() as interrupted:
                for row in trainer.train(validation, progress, interrupted):
                    trainer.progress.history.append(row)
                    _warn(row)
            extra_figures = {} if config.memory_budget is None else {"plan": asdict(plan)}
            result = trainer.finish(validation, test, extra_figures)
    _warn(result)
    return Run(network, trainer.progress.history, result, folder)


def _warn(figures: Mapping[str, Any]) -> None:
    """Warns, where `fit` was called, of what is noted in a row or the result."""
    for note in figures.get("notes", ()):
        warnings.warn(note, RunWarning, stacklevel=3)


def _check(network: Network, train: Images, validation: Images | None, test: Images | None) -> None:
    """Raises ValueError unless the network can learn from the images and labels."""
    for name, images in (("train", train), ("validation", validation), ("test", test)):
        if not isinstance(images, Images) and not (images is None and name != "train"):
            raise ValueError(
                f"{name} must be fo.data.Images or fo.data.Features, not {type(images).__name__}: "
                "fo.data.Images(images, labels, classes, name) makes them of tensors."
            )
    if torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in network.parameters()):
        raise ValueError("Training needs gradients: build the network and call fit outside torch.inference_mode().")
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ValueError("Every weight of the network is frozen: free those that are to learn with requires_grad_().")
    if len(train) == 0:
        raise ValueError("There are no training images.")
    require_contrast(train)
    for images in (train, validation, test):
        if images is not None and tuple(images.shape) != network.shape:
            raise ValueError(f"The network takes images of {network.shape}, not {tuple(images.shape)}.")
    if not network.labelled:
        if validation is not None or test is not None or network.readout.fitted_on is not None:
            raise ValueError(
                "This network learns without labels, so it has no accuracy on validation or test images and no fitted "
                "readout: leave them out, and read it with labelled images by fo.probe(network, train) or "
                "`forwardonly probe RUN`."
            )
        return
    train.require_labels()
    low, high = int(train.labels.min()), int(train.labels.max())
    if not 0 <= low <= high < network.classes:
        raise ValueError(
            f"Labels must be from 0 to {network.classes - 1}, the network's classes, but go from {low} to {high}."
        )
    if network.readout.fitted_on == "validation" and validation is None:
        raise ValueError(f"The readout {network.readout.kind!r} is fitted to validation images: hold some out.")


def _matched(
    network: Network, train: Images, validation: Images | None, test: Images | None
) -> tuple[Images, Images | None, Images | None]:
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
