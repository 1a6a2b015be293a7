"""The figures of a run: a row of the history for each epoch, and the final result."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from forwardonly.data import Images, hold_out
from forwardonly.data.ranges import dark
from forwardonly.data.taking import Data
from forwardonly.measure.accuracy import fit_readout
from forwardonly.measure.free_riding import diagnose
from forwardonly.measure.metrics import Figures
from forwardonly.measure.probe import probe
from forwardonly.network.block import is_frozen
from forwardonly.network.localized import Localized, unreached_words
from forwardonly.network.network import Network
from forwardonly.system.memory import peak_memory_bytes
from forwardonly.training.distributed.team import LostPeer
from forwardonly.training.session import Session

AFTER = "After training"


def watched(session: Session) -> dict[str, Any]:
    """The values that rules record of themselves: for each, a list over blocks."""
    blocks = [block.rule.watched() for block in session.network.row]
    return {name: [own[name] for own in blocks] for name in blocks[0]}


def measure(row: dict[str, Any], session: Session, validation: Data | None, other: Data | None, at_a_time: int) -> None:
    """Adds figures on validation data and on `other` data to an epoch's row, and free-riding if the run measures it.

    What fails is noted in the row, and training goes on.
    """
    if validation is not None:
        _validate(row, session, validation, at_a_time)
    if other is not None:
        remember(row, session, other, at_a_time)


def _validate(row: dict[str, Any], session: Session, images: Data, at_a_time: int) -> None:
    network, team, when = session.network, session.team, "After an epoch"
    with kept(row, when, "measuring the validation accuracy"):
        row.update(_named("validation", team.evaluate(network, images, session.precision, at_a_time)))
    if session.config.diagnose and isinstance(images, Images):  # `fit` has refused others
        with kept(row, when, "measuring free-riding"):
            found = team.together(lambda: diagnose(network, images, precision=session.precision), session.device)
            row["free_riding"] = found.as_json()


def remember(row: dict[str, Any], session: Session, other: Data, at_a_time: int) -> None:
    """Adds figures on data of another kind, which show what a pretrained network forgets."""
    with kept(row, "After an epoch", "measuring the other data"):
        row.update(of_other(session, other, at_a_time))


def of_other(session: Session, other: Data, at_a_time: int) -> dict[str, Any]:
    """Figures on data of another kind.

    Of images whose classes are not the network's, the accuracy on a fifth of them of a ridge probe on the others.

    Raises:
        ValueError: the network cannot be measured on them; of one of several processes, RuntimeError.
    """
    network, team = session.network, session.team
    known = set(network.class_names or ())
    if isinstance(other, Images) and len(other) and other.kind == "class" and set(other.classes) != known:
        learned, held = hold_out(other, max(1, len(other) // 5), session.seed)
        read = team.together(
            lambda: probe(network, learned, held, method="ridge", precision=session.precision), session.device
        )
        return {"other_probe_accuracy": read.accuracy}
    measured = _named("other", team.evaluate(network, other, session.precision, at_a_time))
    return {
        name: value for name, value in measured.items() if not name.startswith("block_") and name != "other_confusion"
    }


def _named(split: str, measured: Figures) -> dict[str, Any]:
    """The figures with the name of their split before it, but those of the blocks as they are."""
    return {
        name if name.startswith("block_") else f"{split}_{name}": value
        for name, value in measured.figures.items()
        if value is not None
    }


def result_of(
    session: Session, seconds: float, validation: Data | None, test: Data | None, at_a_time: int
) -> dict[str, Any]:
    """The final result, measured with the last epoch's weights after fitting the readout, if it is a fitted one."""
    network = session.network.eval()
    result: dict[str, Any] = {
        "test_accuracy": None,
        "validation_accuracy": None,
        "block_accuracy": None,
        "seconds": seconds,
        "epochs": session.config.epochs,
        "seed": session.seed,
        "precision": session.precision,
        "device": describe_device(session.device),
        "processes": session.team.world,
        "torch": torch.__version__,
    }
    fitted_on = {"validation": validation, "training": session.images}.get(network.readout.fitted_on or "")
    if fitted_on is not None:
        before = network.readout.weights.clone()
        with kept(result, AFTER, f"fitting the readout {network.readout.kind!r}"):
            try:
                session.team.together(
                    lambda: fit_readout(network, fitted_on, precision=session.precision), session.device
                )
            except RuntimeError:  # of another process: all measure with the same readout
                network.readout.weights.copy_(before)
                raise
    for name, images in (("validation", validation), ("test", test)):
        if images is not None:
            with kept(result, AFTER, f"measuring the {name} accuracy"):
                measured = session.team.evaluate(network, images, session.precision, at_a_time)
                result.update(_named(name, measured))
    result["peak_memory_bytes"] = peak_memory_bytes(session.device)
    return result


@contextmanager
def kept(figures: dict[str, Any], when: str, work: str) -> Iterator[None]:
    """A context for `work` on a trained network, which is not lost by a failure: it is noted in the `figures`.

    Raises:
        LostPeer: another process is gone. Its launcher ends this one too, and the run goes on from its last checkpoint.
    """
    try:
        yield
    except LostPeer:
        raise
    except Exception as problem:
        note(figures, f"{when}, {work} failed: {str(problem) or type(problem).__name__}")


def note(figures: dict[str, Any], text: str) -> None:
    """Adds a sentence to the `notes` of a result or of an epoch's row."""
    figures.setdefault("notes", []).append(text)


def unmoved(session: Session, history: Sequence[Mapping[str, Any]], losses: Tensor) -> list[str]:
    """A sentence for each block whose loss was the same from the first step to the last.

    `losses` (steps, L) are the last epoch's.
    """
    found = []
    for index, block in enumerate(session.network.row):
        own = [row["loss"][index] for row in history if row.get("block", index) == index]
        values = [value for value in own if value is not None]
        if len(values) == 1:  # one epoch: its steps; a block that learned before the last phase is not in `losses`
            first = session.schedule.first_steps[index] - (session.config.epochs - 1) * len(losses)
            values = losses[max(0, first) :, index].tolist()
        if len(values) > 1 and len(set(values)) == 1 and values[0] and not is_frozen(block):
            found.append(
                f"The loss of block {index} stayed at {values[0]:.6g} from the first step to the last, so it learned "
                "nothing: try another learning rate or seed, and look whether its input is the same for all images."
            )
    return found


def unreached(network: Network) -> list[str]:
    """A sentence if weights of a model are in no block because the example did not reach them."""
    names = network.unreached if isinstance(network, Localized) else []
    return [unreached_words(names)] if names else []


def nearly_black(images: Data) -> list[str]:
    """A sentence if the images are bytes of another scale than 0 to 255, as it seems, and their notes do not say so."""
    if not isinstance(images, Images) or not images.images.numel():
        return []
    if images.images.dtype != torch.uint8 or len(images.shape) != 3:
        return []
    said = dark(images.name, int(images.images.max()))
    return [said] if said is not None and said not in images.notes else []


def describe_device(device: torch.device) -> str:
    """A description of the device, for the result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads, {platform.machine()}"
