"""Generated tables of learning on devices: steps in C, classes added later, and federated averaging."""

from collections.abc import Callable
from typing import Any

from lines import Results
from tables import table

DEVICE = {
    "digits-mlp": "digits, 64-64-64-64-64",
    "mnist-cnn": "MNIST, four convolutions",
    "keyword-1d": "keywords, `separable`, 40 × 1 × 49",
    "colour-depthwise": "colour, `separable`, 3 × 32 × 32",
}
DEVICE_ARMS = {"float32": "float32", "int8": "int8", "backprop-float32": "backprop, float32"}


def device(title: str, cell: Callable[[Any], str]) -> Callable[[Results], str]:
    """The table of training steps in C of which `cell` says what is measured of one."""

    def shown(results: Results) -> str:
        arms = results.timing("device/cortex-m4")["arms"]
        rows = [[words, *(cell(arms[f"{name}/{arm}"]) for arm in DEVICE_ARMS)] for name, words in DEVICE.items()]
        return table([title, *DEVICE_ARMS.values()], rows)

    return shown


def device_new_class(results: Results) -> str:
    """What a new class costs on the device."""
    arms = results.timing("device/new-class")["arms"]
    rows = []
    for name, words in DEVICE.items():
        own = arms[f"{name}/new-class"]
        work, constants = own["instructions_add_class"] / 1e6, own["constants"] / 1000
        rows.append([words, f"{work:.1f}", f"{constants:.1f}", str(own["stack_bytes"])])
    return table(["a class from ten examples", "million instructions", "KB of constants", "bytes of stack"], rows)


def device_accuracy(results: Results) -> str:
    """Accuracy after training in C, beside Python."""
    rows = []
    names = {
        "device-accuracy/digits-mlp": "digits",
        "device-accuracy/vowels-1d": "Japanese vowels (UCR)",
        "device-accuracy/mnist-cnn": "MNIST, 6,000 images, `cnn` with batch norm, 8 a step",
    }
    for name, words in names.items():
        line = results.timing(name)
        means = [f"{100 * line['arms'][arm]['mean']:.2f}" for arm in ("python-float32", "c-float32", "c-int8")]
        rows.append([words, *means, str(line["config"]["seeds"])])
    return table(["", "Python, float32, %", "C, float32, %", "C, int8, %", "seeds"], rows)


ADDED = {
    "hyperspherical/added": "`fo.add_class`, with statistics",
    "hyperspherical/without": "`fo.add_class`, without",
    "backprop/plain": "backprop, fine-tuned on the ten",
    "backprop/memory": "backprop, also on 20 of each old class",
}


def new_class(results: Results) -> str:
    """One class added to nine: old classes before and after, and the new one beside training on all ten."""
    rows = []
    lines = {
        "MNIST": ("new-class/mnist", "new-class/mnist/hyperspherical"),
        "Fashion-MNIST": ("new-class/fashion-mnist", "new-class/fashion-mnist/hyperspherical"),
    }
    for words, names in lines.items():
        arms = _arms(results, *names)
        for arm, how in ADDED.items():
            rule = arm.partition("/")[0]
            before, own, full = arms[f"{rule}/before"], arms[arm], arms[f"{rule}/full"]
            cells = [before["old"], own["old"], full["old"], own["new"], full["new"]]
            rows.append([f"{words}, {how}", *(f"{value:.1f}" for value in cells)])
    head = ["test %", "old classes before", "after", "trained on all", "new class", "trained on all"]
    return table(head, rows)


def _arms(results: Results, *names: str) -> dict[str, Any]:
    """The arms of several lines; the last that has one counts."""
    return {arm: own for name in names for arm, own in results.timing(name)["arms"].items()}


def new_class_steps(results: Results) -> str:
    """Ten classes of a hundred after ten."""
    names = {
        "hyperspherical/added-10": "`fo.add_class`, ten examples a class",
        "hyperspherical/added-500": "`fo.add_class`, all 500 a class",
        "backprop/plain": "backprop, fine-tuned on each ten",
        "backprop/memory": "backprop, also on 20 of each old class",
        "hyperspherical/full": "`hyperspherical`, all classes at once",
        "backprop/full": "backprop, all classes at once",
    }
    arms = _arms(results, "new-class/cifar-100", "new-class/cifar-100/hyperspherical")
    parts = ("old", "new", "all")
    rows = [[how, *(f"{arms[arm][part]:.1f}" for part in parts)] for arm, how in names.items() if arm in arms]
    return table(["test % after the last step", "first 90 classes", "last 10", "all"], rows)


def federated(results: Results) -> str:
    """Federated averaging beside central training."""
    line = results.timing("federated/hyperspherical")
    names = {
        "central": "central",
        "central-longest": "central",
        "equal": "20 clients, equal parts",
        "skewed": "20 clients, skewed parts",
    }
    rows = []
    for arm, words in names.items():
        own, federal = line["arms"][arm], arm in line["config"]["settings"]
        behind = f"{line['ratios'][f'points-behind/{arm}/central']:.2f}" if federal else ""
        seen = f"{own['images'] / 60_000:.1f}" if federal else str(line["config"]["epochs"][arm])
        asked = str(line["config"]["settings"][arm]["asked"]) if federal else ""
        sent = f"{own['rounds'] * own['bytes_a_round'] / 1e9:.2f}" if federal else ""
        cells = [seen, asked, str(own.get("rounds", "")), sent, str(len(own["each"]))]
        rows.append([words, f"{own['accuracy']:.2f}", behind, *cells])
    titles = [
        "",
        "test %",
        "points behind",
        "epochs' images seen",
        "clients a round",
        "rounds",
        "GB sent in all",
        "seeds",
    ]
    return table(titles, rows)
