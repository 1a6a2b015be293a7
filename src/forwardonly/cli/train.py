"""`forwardonly train`: builds a network from the options of the command, the rule and the body, and trains it."""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

import tyro

import forwardonly as fo
from forwardonly.cli import cautions, run_data
from forwardonly.cli.parsing import UNSET, Common, brief, given, given_among, own_options
from forwardonly.cli.places import agreed, newest_of, restarted, stem_of
from forwardonly.cli.screen import Screen, percent, sizes
from forwardonly.names import nearest
from forwardonly.network.readout import Kind
from forwardonly.network.storage import CONFIG, RESULT, read_config, write_json
from forwardonly.rules import preset_options, rule_class
from forwardonly.system import mapped
from forwardonly.system.allocator import return_freed_memory
from forwardonly.system.precision import choose_device
from forwardonly.training import RunWarning, StepEvent, Team, TrainingConfig, join
from forwardonly.training.config import suited
from forwardonly.training.runs.figures import AFTER, kept
from forwardonly.training.runs.figures import note as note_of
from forwardonly.training.runs.folder import refuse_changes
from forwardonly.training.runs.loggers import Logger, logger

GROUPS: Mapping[str, Sequence[str]] = {
    "training": ("epochs", "steps", "batch_size", "learning_rate", "validate_every", "diagnose"),
    "schedule_and_optimiser": (
        *("optimiser", "weight_decay", "momentum", "clip"),
        *("schedule", "lr_schedule", "final_rate", "warmup", "delay"),
        *("heads_first", "body_rate", "layer_decay"),
    ),
    "memory_and_processes": (
        *("precision", "device", "threads", "memory_budget", "workers", "compile", "checkpoint_every"),
    ),
    "augmentation": ("crop", "flip", "cutout"),
}
"""The options of `TrainingConfig`, in the groups of the help."""

EXPERT = frozenset(
    {
        "data_dir",
        "image_size",
        "cache",
        "limit",
        "log",
        "validate_every",
        "diagnose",
        "momentum",
        "clip",
        "lr_schedule",
        "final_rate",
    }
    | {"steps", "warmup", "threads", "compile", "checkpoint_every", "cutout", "heads_first", "body_rate", "layer_decay"}
)
"""Options that `--help-all` shows and `--help` does not, besides those that a rule names itself."""


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Options of every training; `options` adds those of the rule, the body and the training config."""

    rule: str = "hyperspherical"
    """Learning rule of every block; `--rule NAME --help` shows its options."""
    data: str = "digits"
    """A data set's name (see `forwardonly data list`), a folder of images with a directory a class, or an .npz file."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default $FORWARDONLY_DATA, then the user's cache."""
    image_size: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Resize and crop the images of a folder to squares of this many pixels."""
    cache: bool = False
    """Decode the images of a folder once, into a file beside it, and read that: for folders larger than memory."""
    validation: int = 0
    """Training images to hold out, the same share of every class; accuracy on them is reported after each epoch."""
    limit: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Learn from so many of the other training images, the same share of every class: for a quick trial."""
    body: str = "mlp"
    """Layers of the network; `--body NAME --help` shows their options."""
    readout: Kind = "sum"
    """Which blocks predict: all, not the first, the last, all weighed by validation or training loss, a best range."""
    seed: int = 0
    """Seed of every random draw: initial weights, order of the images, augmentation."""
    out: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the run; by default a new one, runs/DATA-RULE-seedSEED."""
    log: Logger = "none"
    """Also send each epoch's figures to tensorboard (in the run's folder), wandb or trackio."""
    resume: bool = False
    """Resume the run in `--out` or the newest; it may have more epochs, another device, and its data elsewhere."""
    stages: int = 1
    """Number of processes, of those that torchrun starts, that share the blocks; the others share each batch."""

    kinds: ClassVar[Mapping[str, Any]] = MappingProxyType({"rule": fo.rules.TABLE, "body": fo.bodies.TABLE})
    """What is chosen by name, with the table of each."""
    expert: ClassVar[frozenset[str]] = EXPERT
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Training options whose defaults are other than those of `TrainingConfig`."""
    advice: ClassVar[str] = "more --epochs, a convolutional --body, or --rule best"
    """What to try where the result is like guessing."""
    streamed: ClassVar[bool | None] = None
    """Whether the resumed run read its folder as it was needed; None of a new one, or of one that does not say."""

    @classmethod
    def named(cls, argv: Sequence[str]) -> Self:
        """The defaults, with what decides which further options there are."""
        return cls(
            rule=given(argv, "--rule", cls.rule),
            data=given(argv, "--data", cls.data),
            body=given(argv, "--body", cls.body),
        )

    def network_options(self, saved: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
        """A group of options of the network, with their values."""
        return {"network": (_unprefixed(own_options(fo.bodies.TABLE[self.body])), _values(saved, "body"))}

    def load(self) -> fo.data.Splits:
        """The splits of the data."""
        return run_data.load(self)

    def make_rule(self, train: fo.data.Images) -> fo.rules.Rule:
        """The rule for that data."""
        return fo.rules.make(self.rule, classes=len(train.classes), **asdict(self.rule_options))  # type: ignore[attr-defined]

    def load_other(self, train: fo.data.Images) -> Any:
        """Data to see on what is forgotten, if any, as large as those that are learned from."""
        return None

    def noted(self) -> dict[str, Any]:
        """What else the run's config says of its data."""
        return {}

    def build(self, train: fo.data.Images, rule: fo.rules.Rule) -> fo.Network:
        """The network of these options."""
        body = fo.bodies.TABLE[self.body](**asdict(self.network))  # type: ignore[attr-defined]  # of its group
        return fo.build(body, train.shape, rule=rule, readout=self.readout, seed=self.seed)

    def as_saved(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that say what network a resumed run has, from its config."""
        return {"body": saved["network"]["body"]["name"]}


def options(argv: Sequence[str], kind: type[Train] = Train) -> Any:
    """The defaults, as an instance of `kind` with a field for each group of options."""
    plain = kind.named(argv)
    if not (resumes := "--resume" in argv) and not restarted():
        return _with_groups(plain, {}, argv)
    default = newest_of(stem_of(plain.data, plain.rule, given(argv, "--seed", str(Train.seed))))
    out = Path(given(argv, "--out", str(default)))
    if not resumes and not (out / CONFIG).exists():
        return _with_groups(plain, {}, argv)  # the first attempt stopped before it made a run
    if not resumes:  # with a default of True, tyro would refuse the flag where it is given
        plain = replace(plain, resume=True)
    saved = read_config(out)
    command, of = kind.__name__.lower(), "tune" if "model" in saved["network"] else "train"
    if "data" in saved and command != of:
        raise ValueError(f"{out} was started by `forwardonly {of}`: resume it by that command")
    try:
        for part in plain.kinds:
            name = saved["network"][part]["name"]
            if given(argv, f"--{part}", name) != name:
                raise ValueError(f"{out} was started with --{part} {name}: leave that option as it was")
        return _with_groups(_as_started(plain, out, saved), saved, argv)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{out} was not started by this version of `forwardonly {command}`, which cannot resume it"
        ) from None


def _with_groups(plain: Train, saved: dict[str, Any], argv: Sequence[str]) -> Any:
    """`plain` with the options of its rule and body; their values are those of a saved config, if any."""
    for kind, table in plain.kinds.items():
        if (name := getattr(plain, kind)) not in table:
            raise ValueError(f"unknown {kind} {name!r}: {nearest(name, table)}")
    rule = fo.rules.TABLE[plain.rule]
    own = suited(rule, given(argv, "--schedule", TrainingConfig.schedule))
    shown = {
        **asdict(TrainingConfig()),
        **own,
        **plain.defaults,
        **asdict(fo.data.augmentation(plain.data)),
        **saved.get("training", {}),
    }
    hidden = plain.expert if brief(argv) else frozenset()
    groups: dict[str, tuple[Any, dict[str, Any]]] = {
        name: (_unprefixed(own_options(TrainingConfig, only=names, hidden=hidden)), shown)
        for name, names in GROUPS.items()
    }
    groups.update(plain.network_options(saved))
    cls = rule_class(rule)
    own_rule = own_options(cls, without=("classes", "targets"), hidden=cls.expert if brief(argv) else ())
    values = {**preset_options(rule), **_values(saved, "rule")}
    groups["rule_options"] = (Annotated[own_rule, tyro.conf.arg(name="rule")], values)
    first: list[tuple[str, Any]] = [
        (kind, Annotated[str, tyro.conf.arg(metavar="{" + ",".join(table) + "}")])
        for kind, table in plain.kinds.items()
    ]
    off = [own for own in fields(plain) if own.name in hidden or (own.name == "body" and "body" not in plain.kinds)]
    first += [(own.name, Annotated[own.type, tyro.conf.Suppress]) for own in off]
    unknown = saved.get("training", {}).keys() - {own.name for own in fields(TrainingConfig)}
    if unknown:
        raise KeyError(*unknown)
    names = given_among(argv, shown) | saved.get("training", {}).keys() | plain.defaults.keys()
    every = make_dataclass(
        "Train",
        [*first, *((name, kind) for name, (kind, _) in groups.items())],
        bases=(type(plain),),
        namespace={"given": names, "streamed": saved.get("data", {}).get("streamed")},
        frozen=True,
        kw_only=True,
    )
    return every(
        **{field.name: getattr(plain, field.name) for field in fields(plain)},
        **{name: _made(kind, values) for name, (kind, values) in groups.items()},
    )


def _unprefixed(cls: type[Any]) -> Any:
    """A group of options whose names have no prefix."""
    omit: Any = tyro.conf.OmitArgPrefixes
    return omit[cls]


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    """An instance of an annotated dataclass, from those of the values that are its fields."""
    cls = kind.__origin__
    return cls(**{own.name: values[own.name] for own in fields(cls) if own.name in values})


def training_options(chosen: Any) -> dict[str, Any]:
    """The options of `TrainingConfig` that were given, or that the resumed run has."""
    values = all_training_options(chosen)
    return {name: values[name] for name in chosen.given}


def all_training_options(chosen: Any) -> dict[str, Any]:
    """Every option of `TrainingConfig` with the value that the help shows, or that was given."""
    return {name: value for group in GROUPS for name, value in asdict(getattr(chosen, group)).items()}


def run(chosen: Any, screen: Screen) -> dict[str, Any]:
    """Trains. Returns the object of `result.json`, each block's validation accuracy if measured, and the folder."""
    with join(chosen.stages) as team:
        return _train(chosen, screen, team)


def _train(chosen: Any, screen: Screen, team: Team) -> dict[str, Any]:
    started = time.perf_counter()
    with screen.unless_quick(f"loading {chosen.data}"), team.first_on_machine():  # one process downloads
        train, validation, test = chosen.load()
        other = chosen.load_other(train)
    rule = chosen.make_rule(train)
    config = TrainingConfig.resolve(rule, train, training_options(chosen))
    out = chosen.out or agreed(team, stem_of(chosen.data, chosen.rule, chosen.seed))
    on_disk = config.memory_budget is not None and choose_device(config.device).type == "cpu"
    if on_disk:
        return_freed_memory()
    with mapped.Building(mapped.Arena(out)) if on_disk else nullcontext():
        network = chosen.build(train, rule)
    extra = {"data": {**run_data.described(chosen, train), **chosen.noted(), "notes": list(train.notes)}}
    news = [
        *train.notes,
        *getattr(other, "notes", ()),
        *cautions.before(train, test, config, labelled=rule.labelled and train.kind == "class"),
    ]  # said once the run has been found fit to start or to go on
    if chosen.resume:
        then = read_config(out)
        decides = [*run_data.DECIDES, *chosen.noted()]
        now = {"network": network.config, "data": {name: extra["data"][name] for name in decides}}
        refuse_changes(out, then, json.loads(json.dumps(now)))
        if config.epochs > (before := then["training"]["epochs"]):
            news.append(
                f"{out} goes on to {config.epochs} epochs, not {before}: from where it stands, the learning rate "
                f"follows the schedule of {config.epochs} epochs"
            )
    logged = logger(chosen.log if team.rank == 0 else "none", out, {**network.config, **asdict(config)})
    with (
        warnings.catch_warnings(),
        logged as note,
        screen.progress(f"{chosen.rule} on {train.name}", sizes(train, config, fo.measure.weights(network))) as draw,
    ):
        warnings.simplefilter("ignore", RunWarning)  # `show` says them

        def progress(event: StepEvent) -> None:
            while news:
                screen.say(news.pop(0))
            draw(event)
            for said in (event.row or {}).get("notes", ()):
                screen.say(said)
            note(event)

        finished = fo.fit(
            network,
            train,
            validation=validation,
            test=test if rule.labelled and len(test) else None,
            other=other,
            out=out,
            resume=chosen.resume,
            seed=chosen.seed,
            progress=progress,
            extra=extra,
            team=team,
            **asdict(config),
        )
    result = finished.result
    for sentence in cautions.after(result, test, chosen.readout, chosen.advice):
        note_of(result, sentence)
    if not chosen.resume:  # time to accuracy counts everything, from reading files to the test accuracy
        result["total_seconds"] = time.perf_counter() - started
    if team.leads:
        with kept(result, AFTER, "writing the result"):
            write_json(out / RESULT, result)
    result["run"] = str(out)
    if "block_accuracy" in finished.history[-1]:
        result["validation_block_accuracy"] = finished.history[-1]["block_accuracy"]
    return result


def show(result: dict[str, Any], screen: Screen) -> None:
    """A table of each block's accuracy as far as it was measured, and the folder of the run."""
    measured = {
        "validation": (result.get("validation_block_accuracy"), result["validation_accuracy"]),
        "test": (result["block_accuracy"], result["test_accuracy"]),
    }
    parts = {name: (blocks, whole) for name, (blocks, whole) in measured.items() if blocks and whole is not None}
    if parts:
        depth = len(next(iter(parts.values()))[0])
        rows = [[f"block {k + 1}", *(percent(blocks[k]) for blocks, _ in parts.values())] for k in range(depth)]
        rows.append(["network", *(percent(whole) for _, whole in parts.values())])
        screen.table("accuracy", ["", *parts], rows)
    show_work(result, screen)
    if (Path(result["run"]) / RESULT).exists():
        command = "evaluate" if result["test_accuracy"] is not None else "probe"
        screen.say(f"saved in {result['run']}; look closer with: forwardonly {command} {result['run']}")


def show_work(result: dict[str, Any], screen: Screen) -> None:
    """How long the run took, and what it noted."""
    screen.say(f"trained for {result['seconds']:.1f} s on {result['device']} in {result['precision']}")
    for note in result.get("notes", ()):
        screen.say(note)


def _as_started(plain: Train, out: Path, saved: dict[str, Any]) -> Train:
    """The options with which the resumed run was started."""
    data, network = saved["data"], saved["network"]
    return replace(
        plain,
        rule=network["rule"]["name"],
        data=data["name"],
        data_dir=None if data["data_dir"] is None else Path(data["data_dir"]),
        image_size=data["image_size"],
        validation=data["validation"],
        limit=data.get("limit"),
        cache=data.get("cache") is True,
        **plain.as_saved(saved),
        readout=network["readout"],
        seed=saved["seed"],
        out=out,
    )


def _values(saved: dict[str, Any], part: str) -> dict[str, Any]:
    """The options of the rule or body in a run's config, as their dataclasses take them."""
    values = saved["network"][part] if saved else {}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name not in ("name", "classes", "targets")
    }
