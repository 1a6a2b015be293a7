"""The figures of a run: a row of the history for each epoch, and the final result."""

import platform
from typing import Any

import torch

from forwardonly.data import Images
from forwardonly.measure.accuracy import fit_readout
from forwardonly.measure.free_riding import diagnose
from forwardonly.system.memory import peak_memory_bytes
from forwardonly.training.session import Session


def watched(session: Session) -> dict[str, Any]:
    """The values that rules record of themselves: for each, a list over blocks."""
    blocks = [block.rule.watched() for block in session.network.row]
    return {name: [own[name] for own in blocks] for name in blocks[0]}


def validated(session: Session, images: Images, at_a_time: int) -> dict[str, Any]:
    """Accuracy on validation images, and free-riding if the run measures it."""
    measured = session.team.evaluate(session.network, images, session.precision, at_a_time)
    figures: dict[str, Any] = {"validation_accuracy": measured.accuracy, "block_accuracy": measured.block_accuracy}
    if session.config.diagnose:
        figures["free_riding"] = diagnose(session.network, images, precision=session.precision).as_json()
    return figures


def result_of(
    session: Session, seconds: float, validation: Images | None, test: Images | None, at_a_time: int
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
        fit_readout(network, fitted_on, precision=session.precision)
    for name, images in (("validation", validation), ("test", test)):
        if images is not None:
            measured = session.team.evaluate(network, images, session.precision, at_a_time)
            result[f"{name}_accuracy"] = measured.accuracy
            result["block_accuracy"] = measured.block_accuracy
    result["peak_memory_bytes"] = peak_memory_bytes(session.device)
    return result


def describe_device(device: torch.device) -> str:
    """A description of the device, for the result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads, {platform.machine()}"
