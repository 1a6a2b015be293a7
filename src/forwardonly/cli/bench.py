"""`forwardonly bench step|memory|inference|data|start`: time and memory against backprop, in one run, as ratios."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
import tyro

import forwardonly as fo
from forwardonly.bench import decoding, depth, speed, start
from forwardonly.bench.speed import Arm, Work
from forwardonly.cli.parsing import UNSET, Common, given, own_options
from forwardonly.cli.screen import Screen
from forwardonly.names import nearest
from forwardonly.system import threads
from forwardonly.system.precision import choose_device
from forwardonly.training import TrainingConfig

Kind = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="step|memory|inference|data|start")]


@dataclass(frozen=True, kw_only=True)
class Bench(Common):
    """Options of every measurement."""

    kind: Kind
    """What to measure."""
    batch: int = 256
    """Images in a step."""
    repeats: int = 9
    """Measurements of each arm, which alternate; their median is reported."""
    threads: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Threads on a CPU; by default PyTorch's own number."""
    busy: int = 0
    """Processes that compute beside the arms, each as much as a core gives, as on a machine that others use too."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True, kw_only=True)
class OnImages(Bench):
    """Measurements on random images."""

    size: int = 16
    """Pixels a side of the images."""
    colours: int = 3
    """Channels of the images."""
    classes: int = 10
    """Number of classes."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the blocks; auto takes bf16 where the processor is faster in it."""
    optimiser: str = TrainingConfig.optimiser
    """Optimiser of all arms: muon, or one of torch.optim, by its name in any case; lbfgs and sparseadam cannot."""

    def work(self, rule: fo.rules.Rule, body: fo.bodies.Body, *, compile: bool = False) -> Work:
        """A training step of that rule on that body."""
        config = TrainingConfig(optimiser=self.optimiser, precision=self.precision, device=self.device, compile=compile)
        shape = (self.colours, self.size, self.size)
        return Work(rule=rule, body=body, shape=shape, batch=self.batch, config=config)


@dataclass(frozen=True, kw_only=True)
class Step(OnImages):
    """Options of `bench step`, besides those of the rule and the body."""

    rule: str = "projection"
    """Learning rule; `--rule NAME --help` shows its options."""
    body: str = "conv"
    """Layers of the network; `--body NAME --help` shows their options."""
    compile: bool = False
    """Measure both sides compiled as well; compiling takes minutes on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Memory(OnImages):
    """Options of `bench memory`, besides those of the rule and the body."""

    rule: str = "projection"
    """Learning rule; `--rule NAME --help` shows its options."""
    body: str = "mlp"
    """Layers of the network: mlp, conv or transformer, whose depth can be chosen."""
    depths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Numbers of layers to measure."""
    figure: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Path of a web page with memory and time against depth."""


@dataclass(frozen=True, kw_only=True)
class Inference(OnImages):
    """Options of `bench inference`: one pass against one pass per label, in prediction and in training."""

    size: int = 28
    """Pixels a side of the images."""
    colours: int = 1
    """Channels of the images."""
    classes: int = 100
    """Number of classes."""
    hidden: tuple[int, ...] = (1000, 1000, 1000, 1000)
    """Units of each layer."""


@dataclass(frozen=True, kw_only=True)
class Data(Bench):
    """Options of `bench data`: loading and batching only."""

    data: str = "digits"
    """A data set's name (see `forwardonly data list`), a folder of images with a directory a class, or an .npz file."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default $FORWARDONLY_DATA, then the user's cache."""
    image_size: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Make squares of this many pixels of a folder's images, and measure decoding, beside Pillow and a DataLoader."""
    readers: int = 2
    """Processes that decode the images of a folder."""
    crop: int = 4
    """Augmentation: pad by this many pixels and cut out the old size at random."""
    flip: Literal["none", "random", "alternating"] = "random"
    """Augmentation: mirror images at random, or each one in every other epoch."""
    cutout: int = 0
    """Augmentation: side in pixels of a square that is blanked at random."""


@dataclass(frozen=True, kw_only=True)
class Start(Bench):
    """Options of `bench start`: from the start of Python to the end of the first training step, on digits."""

    batch: int = TrainingConfig.batch_size
    """Images in a step."""
    rule: str = "hyperspherical"
    """Learning rule."""
    hidden: tuple[int, ...] = fo.bodies.MLP.hidden
    """Units of each layer."""
    compile: bool = False
    """Compile the blocks; the first step then includes compilation."""


KINDS: dict[str, type[Bench]] = {
    "step": Step,
    "memory": Memory,
    "inference": Inference,
    "data": Data,
    "start": Start,
}


def options(argv: Sequence[str]) -> Any:
    """The options of the measurement that `argv` begins with; some include those of the rule and the body."""
    kind = argv[0] if argv and not argv[0].startswith("-") else ""
    if kind not in KINDS:
        if "--help" in argv or "-h" in argv:
            return Bench
        what = f"unknown measurement {kind!r}: {nearest(kind, KINDS)}" if kind else "name what to measure"
        raise ValueError(what if kind else f"{what}: {', '.join(KINDS)}")
    cls = KINDS[kind]
    if not issubclass(cls, Step | Memory):
        return cls
    rule, body = given(argv, "--rule", cls.rule), given(argv, "--body", cls.body)
    for what, name, table in (("rule", rule, fo.rules.TABLE), ("body", body, fo.bodies.TABLE)):
        if name not in table:
            raise ValueError(f"unknown {what} {name!r}: {nearest(name, table)}")
    if rule == "backprop":
        raise ValueError("backprop is what rules are measured against: choose another --rule")
    own_rule = own_options(fo.rules.rule_class(fo.rules.TABLE[rule]), without=("classes", "targets"))
    own_body = own_options(fo.bodies.TABLE[body])
    groups = [
        (
            "rule_options",
            Annotated[own_rule, tyro.conf.arg(name="rule")],
            own_rule(**fo.rules.preset_options(fo.rules.TABLE[rule])),
        ),
        ("body_options", Annotated[own_body, tyro.conf.arg(name="")], own_body()),
    ]
    return make_dataclass(cls.__name__, groups, bases=(cls,), frozen=True, kw_only=True)


def run(chosen: Any, screen: Screen) -> dict[str, Any]:
    """Measures; every result has `kind`, `machine` and the options of the measurement."""
    if chosen.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {chosen.batch}")
    if chosen.repeats < 7:
        raise ValueError(f"--repeats must be at least 7, for a median to mean something, not {chosen.repeats}")
    if chosen.threads is not None and chosen.threads < 1:
        raise ValueError(f"--threads must be at least 1, not {chosen.threads}")
    if chosen.busy < 0:
        raise ValueError(f"--busy is a number of processes, 0 or more, not {chosen.busy}")
    with threads.using(threads.own_number() if chosen.threads is None else chosen.threads):
        with speed.competing(chosen.busy):
            measured = MEASURES[chosen.kind](chosen)
        recorded = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(chosen).items()}
        return {"kind": chosen.kind, **measured, "options": recorded, "machine": speed.machine(chosen_device(chosen))}


def show(result: dict[str, Any], screen: Screen) -> None:
    """The arms as a table, and the ratios."""
    if result["kind"] == "memory":
        rows = [
            [
                depth,
                f"{result['saved_bytes'][depth] / 2**20:.1f}",
                *(f"{result['peak_bytes'][arm][depth] / 2**20:.0f}" for arm in result["peak_bytes"]),
            ]
            for depth in result["saved_bytes"]
        ]
        screen.table(
            "memory, MiB", ["depth", "saved for backward", *(f"peak: {arm}" for arm in result["peak_bytes"])], rows
        )
        screen.say(f"a process that trains one layer on two images takes {result['idle_bytes'] / 2**20:.0f} MiB")
    elif result["kind"] == "start":
        rows = [[part, f"{seconds:.2f}"] for part, seconds in result["seconds"].items()]
        screen.table("from the start of Python to the end of the first step, medians", ["", "s"], rows)
    else:
        rows = [[name, f"{arm['ms']:.2f}", f"{arm['samples_per_second']:.0f}"] for name, arm in result["arms"].items()]
        screen.table("median of alternating measurements", ["", "ms", "images a second"], rows)
    for name, value in result.items():
        if name.endswith("ratio"):
            screen.say(f"{RATIOS[name]}: {value:.3f}")
    screen.say(", ".join(f"{name} {value}" for name, value in result["machine"].items()))


def _step(chosen: Any) -> dict[str, Any]:
    work = _work(chosen)
    arms: dict[str, Arm] = {"ours": speed.training_step(work), "backprop": speed.training_step(work.by_backprop)}
    if chosen.compile:
        compiled = replace(work, config=replace(work.config, compile=True))
        arms["ours-compiled"] = speed.training_step(compiled)
        arms["backprop-compiled"] = speed.training_step(compiled.by_backprop)
    arms["backprop-checkpointed"] = speed.checkpointed_step(work)
    if work.batch >= speed.MICRO_BATCHES:
        arms["backprop-accumulated"] = speed.accumulated_step(work)
    arms["forward"] = speed.forward_pass(work)
    if (chosen.rule, chosen.body) == ("channel-learnable", "tinycnn"):
        arms["plain-loop"] = speed.naive_channels_step(work)
    seconds = speed.alternate(arms, repeats=chosen.repeats, device=work.device)
    ours, theirs = (
        min(seconds[name] for name in seconds if name in (side, f"{side}-compiled")) for side in ("ours", "backprop")
    )
    return {
        "step_ratio": ours / theirs,
        "checkpointed_ratio": ours / seconds["backprop-checkpointed"],
        **({"plain_ratio": ours / seconds["plain-loop"]} if "plain-loop" in seconds else {}),
        "arms": _rates(seconds, chosen.batch),
    }


def _memory(chosen: Any) -> dict[str, Any]:
    work = _work(chosen)
    if not chosen.depths or min(chosen.depths) < 1:
        raise ValueError(f"--depths takes numbers of layers from 1 on, not {list(chosen.depths)}")
    works = {layers: replace(work, body=depth.at_depth(work.body, layers)) for layers in chosen.depths}
    saved = {str(layers): depth.saved_bytes(each) for layers, each in works.items()}
    peak = {arm: {str(layers): depth.peak_bytes(each, arm) for layers, each in works.items()} for arm in depth.ARMS}
    timed: dict[str, dict[str, float]] = {"ours": {}, "backprop": {}}
    for layers, each in works.items():
        arms = {"ours": speed.training_step(each), "backprop": speed.training_step(each.by_backprop)}
        for arm, seconds in speed.alternate(arms, repeats=chosen.repeats, device=each.device).items():
            timed[arm][str(layers)] = 1e3 * seconds
    idle = depth.idle_bytes(work)
    first, last = str(min(chosen.depths)), str(max(chosen.depths))
    result = {
        "saved_bytes": saved,
        "peak_bytes": peak,
        "idle_bytes": idle,
        "step_ms": timed,
        "saved_ratio": saved[last] / saved[first],
        "peak_ratio": (peak["ours"][last] - idle) / (peak["backprop"][last] - idle),
        "checkpointed_peak_ratio": (peak["ours"][last] - idle) / (peak["backprop-checkpointed"][last] - idle),
        "process_ratio": peak["ours"][last] / peak["backprop"][last],
    }
    if chosen.figure is not None:
        chosen.figure.write_text(_drawn(result), encoding="utf-8")
    return result


def _inference(chosen: Inference) -> dict[str, Any]:
    body = fo.bodies.MLP(hidden=tuple(chosen.hidden))
    one_pass = chosen.work(fo.rules.Hyperspherical(classes=chosen.classes), body)
    contrastive = chosen.work(fo.rules.ForwardForward(classes=chosen.classes), body)
    arms: dict[str, Arm] = {
        "hyperspherical": speed.class_scores(one_pass),
        "ff-as-published": speed.full_pass_a_label(contrastive),
        "ff-shared": speed.class_scores(contrastive),
        "ff-one-label": speed.pass_of_one_label(contrastive),
        "training-hyperspherical": speed.training_step(one_pass),
        "training-ff": speed.training_step(contrastive),
        "training-ff-naive": speed.naive_step(contrastive),
    }
    seconds = speed.alternate(arms, repeats=chosen.repeats, device=one_pass.device)
    return {
        "ratio": seconds["ff-as-published"] / seconds["hyperspherical"],
        "training_ratio": seconds["training-ff"] / seconds["training-hyperspherical"],
        "naive_training_ratio": seconds["training-ff-naive"] / seconds["training-ff"],
        "shared_ratio": seconds["ff-shared"] / seconds["ff-one-label"],
        "arms": _rates(seconds, chosen.batch),
    }


def _data(chosen: Data) -> dict[str, Any]:
    device = chosen_device(chosen)

    def load() -> fo.data.Images:
        return fo.data.load(chosen.data, data_dir=chosen.data_dir, image_size=chosen.image_size).train.to(device)

    images = load()
    augment = fo.data.Augment(crop=chosen.crop, flip=chosen.flip, cutout=chosen.cutout)
    generator = torch.Generator(device).manual_seed(0)

    def epoch(augment: fo.data.Augment | None) -> Arm:
        def go() -> None:
            for _ in fo.data.batches(images, chosen.batch, generator=generator, augment=augment):
                pass

        return go

    arms: dict[str, Arm] = {"load": load, "batches": epoch(None), "augmented": epoch(augment)}
    if chosen.image_size is None:
        return {"arms": _rates(speed.alternate(arms, repeats=chosen.repeats, device=device), len(images))}
    with TemporaryDirectory() as place:
        arms |= decoding.arms(Path(chosen.data), chosen.image_size, chosen.batch, chosen.readers, Path(place))
        seconds = speed.alternate(arms, repeats=chosen.repeats, device=device)
    plain = seconds["Pillow, DataLoader"]
    return {
        "decoding_ratio": plain / seconds["decoded"],
        "cached_ratio": plain / seconds["from the cache"],
        "arms": _rates(seconds, len(images)),
    }


def _start(chosen: Start) -> dict[str, Any]:
    if chosen.rule not in fo.rules.TABLE:
        raise ValueError(f"unknown rule {chosen.rule!r}: {nearest(chosen.rule, fo.rules.TABLE)}")
    names = ("rule", "hidden", "batch", "compile", "device", "threads")
    return {"seconds": start.first_step(repeats=chosen.repeats, **{name: getattr(chosen, name) for name in names})}


MEASURES: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "step": _step,
    "memory": _memory,
    "inference": _inference,
    "data": _data,
    "start": _start,
}

RATIOS = {
    "decoding_ratio": "images decoded a second, ours / Pillow and DataLoader",
    "cached_ratio": "images a second, from our cache / Pillow and DataLoader",
    "step_ratio": "a step, ours / backprop",
    "checkpointed_ratio": "a step, ours / backprop with checkpointing",
    "plain_ratio": "a step, ours / a plain loop of the rule in float32",
    "saved_ratio": "bytes saved for backward, deepest / shallowest",
    "peak_ratio": "peak memory at the deepest, above what the code alone takes, ours / backprop",
    "checkpointed_peak_ratio": "the same / backprop with checkpointing",
    "process_ratio": "peak memory of the whole process at the deepest, ours / backprop",
    "ratio": "predicting, a full pass a label / one pass",
    "training_ratio": "a training step, two streams / one",
    "naive_training_ratio": "a Forward-Forward step, as in the usual scripts / ours",
    "shared_ratio": "Forward-Forward among all labels, first layer shared / one pass",
}


def chosen_device(chosen: Bench) -> torch.device:
    """The device that the options name."""
    return choose_device(chosen.device)


def _work(chosen: Any) -> Work:
    rule = fo.rules.TABLE[chosen.rule](classes=chosen.classes, **asdict(chosen.rule_options))
    values = {own.name: getattr(chosen.body_options, own.name) for own in fields(chosen.body_options)}
    work: Work = chosen.work(rule, fo.bodies.TABLE[chosen.body](**values))
    return work


def _rates(seconds: Mapping[str, float], images: int) -> dict[str, dict[str, float]]:
    return {name: {"ms": 1e3 * each, "samples_per_second": images / each} for name, each in seconds.items()}


def _drawn(result: dict[str, Any]) -> str:
    """A page with memory and time against depth."""
    from forwardonly.experiments import figures
    from forwardonly.experiments.report import card, document

    arms = {name: index for index, name in enumerate(result["peak_bytes"])}

    def curves(values: Mapping[str, Mapping[str, float]], unit: float, label: str) -> str:
        lines = [
            figures.Line(name, arms[name], [float(layers) for layers in own], [each / unit for each in own.values()])
            for name, own in values.items()
        ]
        return figures.lines(lines, "depth", label)

    body = "<h1>Memory and time against depth</h1>" + figures.legend([*arms.items()])
    panels = [
        card("Peak memory", curves(result["peak_bytes"], 2**20, "MiB")),
        card("Bytes saved for backward, ours", curves({"ours": result["saved_bytes"]}, 2**20, "MiB")),
        card("Time of a step", curves(result["step_ms"], 1.0, "ms")),
    ]
    return document("Memory and time against depth", body + f'<div class="grid">{"".join(panels)}</div>')
