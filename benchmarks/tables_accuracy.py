"""Generated tables of test accuracy: the best local rules beside backprop, and the time that they take to it."""

from typing import NamedTuple

from lines import Line, Results, accuracy
from tables import NOT_MEASURED, processor, table


class Pair(NamedTuple):
    """A local rule and backprop on one net: what tables call them, and the groups of their lines."""

    data: str
    net: str
    kind: str
    local: str
    backprop: str | None
    whole_run: str | None = None
    """The timing of whole runs that stands for both."""


MLP = "784-1000-1000"
SIX, HALF = "six", "six, half as wide"
PAIRS = [
    Pair("MNIST", MLP, "prototypes", "hyperspherical/mnist/mlp-2x1000", "backprop/mnist/mlp-2x1000"),
    Pair("MNIST", "784-1000-1000-1000", "goodness", "ff/mnist/mlp-3x1000", "backprop/mnist/mlp-3x1000"),
    Pair("MNIST", HALF, "auxiliary", "best/mnist/six-half-all-images", "backprop/mnist/six-half"),
    Pair("MNIST", HALF, "plain", "projection/mnist/six-half", None),
    Pair("MNIST", SIX, "channels", "channel-learnable/mnist/six", None),
    Pair(
        "Fashion-MNIST",
        MLP,
        "prototypes",
        "hyperspherical/fashion-mnist/mlp-2x1000",
        "backprop/fashion-mnist/mlp-2x1000",
    ),
    Pair("Fashion-MNIST", HALF, "auxiliary", "best/fashion-mnist/six-half", "backprop/fashion-mnist/six-half"),
    Pair("Fashion-MNIST", HALF, "plain", "projection/fashion-mnist/six-half", None),
    Pair("Fashion-MNIST", SIX, "channels", "channel-learnable/fashion-mnist/six", None),
    Pair(
        "CIFAR-10",
        "3072-1000-1000-1000",
        "prototypes",
        "hyperspherical/cifar-10/mlp-3x1000",
        "backprop/cifar-10/mlp-3x1000",
    ),
    Pair(
        "CIFAR-10",
        SIX,
        "auxiliary",
        "best/cifar-10/six",
        "backprop/cifar-10/six",
        "whole-run/best/six/two-workers-fp32",
    ),
    Pair(
        "CIFAR-10",
        SIX,
        "plain",
        "bilinear/cifar-10/six",
        "backprop/cifar-10/six",
        "whole-run/bilinear/six/two-workers-fp32",
    ),
    Pair("CIFAR-10", SIX, "prototypes", "hyperspherical/cifar-10/six-muon", None),
    Pair("CIFAR-10", SIX, "channels", "channel-learnable/cifar-10/six-14-epochs", None),
    Pair(
        "CIFAR-10",
        "ResNet-17, a quarter as wide",
        "channels",
        "channel-learnable/cifar-10/resnet17-quarter",
        "backprop/cifar-10/resnet17-quarter",
    ),
    Pair("CIFAR-100", SIX, "auxiliary", "best/cifar-100/six", "backprop/cifar-100/six"),
    Pair("CIFAR-100", SIX, "plain", "bilinear/cifar-100/six", "backprop/cifar-100/six"),
    Pair("CIFAR-100", SIX, "prototypes", "hyperspherical/cifar-100/six-20-epochs", None),
    Pair("CIFAR-100", SIX, "channels", "channel-learnable/cifar-100/six", None),
    Pair("Tiny ImageNet", SIX, "auxiliary", "best/tiny-imagenet/six", None),
]
"""The best rule of each kind on each data set and net."""
HEADLINE = [
    "hyperspherical/mnist/mlp-2x1000",
    "best/mnist/six-half-all-images",
    "hyperspherical/fashion-mnist/mlp-2x1000",
    "best/fashion-mnist/six-half",
    "bilinear/cifar-10/six",
    "best/cifar-10/six",
    "best/cifar-100/six",
    "bilinear/cifar-100/six",
]
"""The rows of the README's table, by the group of the local rule."""


def seeds(results: Results, group: str) -> str:
    """The seeds of a group's figure."""
    return ", ".join(str(line["seed"]) for line in results.group(group))


def headline(results: Results) -> str:
    """The README's table."""
    rows = []
    for pair in (pair for name in HEADLINE for pair in PAIRS if pair.local == name):
        assert pair.backprop is not None
        accuracies = [accuracy(results, pair.local), accuracy(results, pair.backprop, beside=pair.local)]
        net = pair.net.replace(SIX, "six convolutions")
        rows.append([pair.data, net, f"`{_rule(results, pair.local)}`", *accuracies, time_of(results, pair)])
    return table(["data", "net", "rule", "test %", "backprop, test %", "time / backprop"], rows)


def time_of(results: Results, pair: Pair) -> str:
    """The ratio of times with its processor: a timing of whole runs, or two runs that had the machine to themselves."""
    assert pair.backprop is not None
    if pair.whole_run:
        line = results.timing(pair.whole_run)
        return f"{line['ratios']['backprop']:.2f} ({processor(line['machine'])})"
    lines = [*results.group(pair.local), *results.group(pair.backprop)]
    if not all(line["alone"] for line in lines):
        return ""
    return f"{results.seconds(pair.local) / results.seconds(pair.backprop):.2f} ({processor(lines[0]['machine'])})"


def best(results: Results) -> str:
    """The best rule of each kind, with backprop beside it; six columns, for more do not fit the site's page."""
    rows = []
    for pair in PAIRS:
        (line, *_) = results.group(pair.local)
        theirs, epochs = NOT_MEASURED, str(_epochs(line))
        if pair.backprop:
            theirs = accuracy(results, pair.backprop, beside=pair.local)
            (other, *_) = results.beside(pair.backprop, pair.local)
            epochs += "" if _epochs(other) == _epochs(line) else f", backprop {_epochs(other)}"
        rule = f"`{_rule(results, pair.local)}`, {pair.kind}"
        cells = [accuracy(results, pair.local), seeds(results, pair.local), theirs, epochs]
        rows.append([f"{pair.data}, {pair.net}", rule, *cells])
    return table(["data, net", "rule, kind", "test %", "seeds", "backprop, test %", "epochs"], rows)


def _rule(results: Results, group: str) -> str:
    """What the rule of a group's lines is called: `best` with the same head behind every block is `auxiliary`."""
    rule = results.group(group)[0]["config"]["rule"]
    uniform = rule.get("coarse") is False or rule.get("head") == "uniform"
    return "auxiliary" if rule["name"] == "best" and uniform else str(rule["name"])


def _epochs(line: Line) -> int:
    return int(line["config"]["training"]["epochs"])


FAST = {
    "mnist-fast": ("MNIST, four convolutions of a quarter of the width", "projection"),
    "fashion-fast": ("Fashion-MNIST, six convolutions, half as wide", "best"),
    "cifar-10-fast/quick": ("CIFAR-10, six convolutions, half as wide", "best"),
    "cifar-10-fast/full": ("CIFAR-10, six convolutions", "best"),
}


def fast(results: Results) -> str:
    """Time to accuracy: whole runs from the files to the test figure."""
    rows = []
    for name, (net, rule) in FAST.items():
        ours, theirs = f"{name}/{rule}", f"{name}/backprop"
        cells = [text for of in (ours, theirs) for text in (accuracy(results, of), f"{results.seconds(of):.0f}")]
        (line,) = results.group(ours)
        rows.append([f"{net}, `{_rule(results, ours)}`", *cells, processor(line["machine"])])
    return table(["data, net, rule", "test %", "seconds", "backprop, test %", "seconds", "processor"], rows)
