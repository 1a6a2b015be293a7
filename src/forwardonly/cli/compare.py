"""`forwardonly compare`: rules against each other on data sets, over seeds: table, tests, figures, report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

import forwardonly as fo
from forwardonly.cli import train
from forwardonly.cli.parsing import UNSET, Common, brief, given, own_options, parse
from forwardonly.cli.screen import Screen, percent
from forwardonly.experiments import compare
from forwardonly.experiments.compare import parse_arm, planned_jobs
from forwardonly.experiments.report import interval, p_value
from forwardonly.names import nearest
from forwardonly.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Options of every comparison; `options` adds those of training and of the body, which hold for all runs."""

    rules: tuple[str, ...]
    """Rules to compare, each RULE or RULE:option=value,option=value, such as cumulative:remedy=mgc,gamma=1."""
    out: Path
    """Folder of the runs and the report; finished runs in it are not repeated."""
    data: tuple[str, ...] = ("digits",)
    """Data sets to compare them on."""
    seeds: int = 5
    """Runs of each rule on each data set: seeds 0, 1, ..."""
    jobs: int = 1
    """Runs at a time; they share the processor's cores."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default $FORWARDONLY_DATA, then the user's cache."""
    image_size: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Resize and crop the images of a folder to squares of this many pixels."""
    validation: int = 0
    """Training images to hold out; the learning curves show the accuracy on them."""
    limit: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Learn from so many of the other training images, the same share of every class: for a quick trial."""
    body: str = "mlp"
    """Layers of the network; `--body NAME --help` shows their options."""


def options(argv: Sequence[str]) -> Any:
    """`Compare` with the options of training and of the body; options that are not given stay as each rule has them."""
    body = given(argv, "--body", Compare.body)
    if body not in fo.bodies.TABLE:
        raise ValueError(f"unknown body {body!r}: {nearest(body, fo.bodies.TABLE)}")
    own = {field.name for field in fields(Compare)}
    extra = []
    for cls in (TrainingConfig, fo.bodies.TABLE[body]):
        each = own_options(cls, without=tuple(own), hidden=train.EXPERT if brief(argv) else ())
        for name, kind in get_type_hints(each, include_extras=True).items():
            plain, *annotations = get_args(kind)
            extra.append((name, Annotated[plain | None, UNSET, tyro.conf.DisallowNone, *annotations], None))
    return make_dataclass("Compare", extra, bases=(Compare,), frozen=True, kw_only=True)


def run(chosen: Any, screen: Screen) -> dict[str, Any]:
    """Trains what is not trained yet, and compares the results."""
    shared = train_options(chosen)
    arms = [parse_arm(text) for text in chosen.rules]
    for group in planned_jobs(arms, chosen.data, chosen.seeds, chosen.out, shared).values():
        check(group[0].options)  # finds a mistake in an arm's options now and not after hours
    with screen.batch("comparing") as draw:
        return compare(
            chosen.rules,
            chosen.data,
            out=chosen.out,
            seeds=chosen.seeds,
            options=shared,
            jobs=chosen.jobs,
            progress=draw,
        )


def show(result: dict[str, Any], screen: Screen) -> None:
    """The arms, the tests, and the path of the report."""
    rows = [
        [
            arm["rule"],
            arm["data"],
            percent(arm["mean"]),
            "" if arm["std"] is None else percent(arm["std"]),
            len(arm["seeds"]),
        ]
        for arm in result["arms"]
    ]
    screen.table("test accuracy", ["rule", "data", "mean", "std", "n"], rows, words=2)
    show_tests(result, screen)
    for note in result["notes"]:
        screen.say(note)
    screen.say(f"report: {result['report']}")


def show_tests(result: dict[str, Any], screen: Screen) -> None:
    """The paired tests between arms, if there are any."""
    rows = [
        [
            f"{test['a']} - {test['b']}",
            test["data"],
            f"{100 * test['difference']:+.2f}",
            interval(test["difference_ci"], 100),
            p_value(test["p_holm"]),
            "" if test["cohens_d"] is None else f"{test['cohens_d']:.2f}",
        ]
        for test in result["tests"]
    ]
    if rows:
        columns = ["pair", "data", "points", "95 % interval", "p (Holm)", "Cohen's d"]
        screen.table("paired t-tests over seeds", columns, rows, words=2)


def train_options(chosen: Any) -> list[str]:
    """Options of `forwardonly train` that hold for all runs, as command-line words."""
    not_trains = {"json", "rules", "data", "seeds", "out", "jobs"}
    words: list[str] = []
    for field in fields(chosen):
        value = getattr(chosen, field.name)
        if field.name in not_trains or value is None or value == field.default:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words += [flag, str(value)]
    return words


def check(words: Sequence[str]) -> None:
    """Raises ValueError if `forwardonly train` would refuse these options, as far as that is known without the data."""
    parsed = parse(train.options(words), words, prog="forwardonly train", description="")
    rule = fo.rules.make(parsed.rule, classes=10, **asdict(parsed.rule_options))
    _ = TrainingConfig.resolve(rule, given=train.training_options(parsed)).augment  # which checks its own options
