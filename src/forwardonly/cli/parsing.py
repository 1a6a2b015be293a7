"""Parses the command line into a dataclass of options, by tyro; mistakes become one sentence."""

import ast
import contextlib
import difflib
import functools
import inspect
import io
import itertools
import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from forwardonly.names import nearest

UNSET = tyro.conf.arg(help_behavior_hint="")
"""For options that may be None: their own sentence says what happens without them."""

HELP_ALL = "--help-all"

_KINDS = {"INT": "a whole number", "FLOAT": "a number", "[INT [INT ...]]": "whole numbers"}


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every command has."""

    json: bool = False
    """Print the result as one JSON object on standard output."""


def parse(options: Any, argv: Sequence[str], *, prog: str, description: str) -> Any:
    """Parses `argv` as `options`: a dataclass, or an instance of one, whose values are then the defaults.

    Raises:
        ValueError: a mistake in `argv`, named in one sentence.
        SystemExit: with status 0, after printing help.
    """
    if any(word == "none" or word.endswith("=none") for word in argv):
        argv = _none_as_tyro_has_it(argv, _flags(_help(options, prog), before=r" +\{None\}\|"))
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            parsed, unknown = _tyro(options, argv, prog, description)
        if not unknown:
            return parsed
    except SystemExit as stop:
        if not stop.code:
            raise
        unknown = []
    page = _help(options, prog)
    flags = _flags(page)
    _refuse_opposites(argv, flags)
    if already := [word for word in argv if word.replace("_", "-") not in flags and _opposite(word) in flags]:
        # of an option whose default is True, as in a resumed run, tyro has only the flag that turns it off
        return parse(options, [word for word in argv if word not in already], prog=prog, description=description)
    _refuse_unknown_option(argv, flags, prog)
    if unknown:
        raise ValueError(f"unexpected {unknown[0]!r}; see {prog} --help")
    raise ValueError(_complaint(box.getvalue(), argv, prog))


def _refuse_opposites(argv: Sequence[str], flags: Collection[str]) -> None:
    """Raises ValueError if `argv` has both a flag and the one that says the opposite."""
    words = {word.replace("_", "-") for word in argv if word.startswith("--")}
    for word in sorted(words):
        if (opposite := _opposite(word)) in words and (word in flags or opposite in flags):
            raise ValueError(f"{word} and {opposite} say the opposite of each other: keep one")


def _opposite(flag: str) -> str:
    """`--group.no-name` of `--group.name`, and the other way round."""
    name = re.split(r"^--|\.", flag.replace("_", "-"))[-1]
    start = flag[: len(flag) - len(name)]
    return start + (name.removeprefix("no-") if name.startswith("no-") else f"no-{name}")


def given(argv: Sequence[str], flag: str, default: str) -> str:
    """The value of an option, found before parsing: for options that determine which others exist."""
    values = _values_of(flag, argv)
    return values[0] if values else default


def given_among(argv: Sequence[str], names: Iterable[str]) -> set[str]:
    """Those of the options, by the names of their fields, that `argv` contains."""
    words = {word.partition("=")[0].replace("_", "-") for word in argv}
    return {name for name in names if {f"--{name}".replace("_", "-"), f"--no-{name}".replace("_", "-")} & words}


def brief(argv: Sequence[str]) -> bool:
    """Whether `argv` asks for the help of the most common options, and not for `--help-all`."""
    return ("--help" in argv or "-h" in argv) and HELP_ALL not in argv


def own_options(
    cls: type[Any], *, only: Collection[str] = (), without: Collection[str] = (), hidden: Collection[str] = ()
) -> type[Any]:
    """A plain dataclass with options of `cls`, and their sentences as help, in which `hidden` ones do not appear."""
    hints = get_type_hints(cls, include_extras=True)
    sentences = _sentences(cls)  # type: ignore[arg-type]  # a class can be hashed
    return make_dataclass(
        f"{cls.__name__}Options",
        [
            (
                own.name,
                _annotated(hints[own.name], sentences.get(own.name, ""), own.name in hidden, own.default is None),
                _default(own),
            )
            for own in fields(cls)
            if own.name not in without and (not only or own.name in only)
        ],
        frozen=True,
        kw_only=True,
    )


def _annotated(hint: Any, sentence: str, hidden: bool, unset: bool) -> Any:
    documented = Annotated[hint, tyro.conf.arg(help=sentence, help_behavior_hint=_where_set if unset else None)]
    return Annotated[documented, tyro.conf.Suppress] if hidden else documented


def _where_set(default: str) -> str:
    """The default of an option that may be None, whose own sentence says what happens then."""
    return "" if default == "None" else f"(default: {default})"


@functools.cache
def _sentences(cls: type[Any]) -> dict[str, str]:
    """The string below each field of a dataclass and of its base classes."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(cls.__mro__)):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for above, below in itertools.pairwise(body.body):
            if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(below, ast.Expr):
                found[above.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def _default(own: Field[Any]) -> Any:
    if own.default is not MISSING:
        return field(default=own.default)
    return field(default_factory=own.default_factory) if own.default_factory is not MISSING else field()


def _tyro(options: Any, argv: Sequence[str], prog: str, description: str) -> tuple[Any, list[str]]:
    a_type = isinstance(options, type)
    return tyro.cli(
        options if a_type else type(options),
        default=tyro.MISSING_NONPROP if a_type else options,
        args=argv,
        prog=prog,
        description=description,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
    )


def _none_as_tyro_has_it(argv: Sequence[str], flags: Collection[str]) -> list[str]:
    """`argv` with "None" for the word "none" after an option of `flags`, those that may be none."""
    words = list(argv)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if equals and value == "none" and name.replace("_", "-") in flags:
            words[index] = f"{name}=None"
        elif word == "none" and index and words[index - 1].replace("_", "-") in flags:
            words[index] = "None"
    return words


def _help(options: Any, prog: str) -> str:
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        _tyro(options, ["--help"], prog, "")
    return page.getvalue()


def _flags(page: str, before: str = "") -> list[str]:
    """Every `--option` that a help page lists; with `before`, those that stand before this pattern."""
    return re.findall(r"^[│ ]+(?:-\w, )?(--[\w.-]+)" + before, page, re.MULTILINE)


def _refuse_unknown_option(argv: Sequence[str], flags: list[str], prog: str) -> None:
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in flags:
            group = [flag for flag in flags if "." in flag and flag.startswith(name.partition(".")[0] + ".")]
            close = difflib.get_close_matches(name, flags, n=1, cutoff=0.75)
            if group and not close:
                raise ValueError(f"unknown option {name!r}: choose one of {', '.join(group)}")
            raise ValueError(
                f"unknown option {name!r}" + (f": did you mean {close[0]!r}?" if close else f"; see {prog} --help")
            )


def _complaint(box: str, argv: Sequence[str], prog: str) -> str:
    """Tyro's error message as a sentence of ours, or in its own words if it is of an unknown kind."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # below the title, with or without a frame
    text = " ".join(itertools.takewhile(_is_text, itertools.dropwhile(lambda line: not _is_text(line), lines)))
    if found := re.match(r"Missing value for argument '(.+)'", text):
        return f"{found[1]} needs a value; see {prog} --help"
    if found := re.match(r"invalid choice '(.*)' for argument '(.+)'. Expected one of \((.*)\)", text):
        choices = re.findall(r"'([^']*)'", found[3])
        return f"{found[2]} cannot be {found[1]!r}: {nearest(found[1], choices)}"
    if found := re.match(r"Missing from .*?: (?:\{([^}]*)\}|(\S+))", text):
        missing = f"name one of {', '.join(re.split(', *', found[1]))}" if found[1] else f"{found[2]} is missing"
        return f"{missing}; see {prog} --help"
    if found := re.match(r"Error parsing (\S+):", text):
        flag = found[1]
        takes = next((line.removeprefix(f"{flag} ") for line in lines if line.startswith(f"{flag} ")), "something else")
        kind = takes.removeprefix("{None}|")
        known = _KINDS.get(kind, kind) + (" or none" if kind != takes else "")
        return f"{flag} takes {known}, not {' '.join(_values_of(flag, argv))!r}"
    return f"{text}; see {prog} --help"


def _is_text(line: str) -> bool:
    return not set(line) <= set("╭╰╮╯─- ")


def _values_of(flag: str, argv: Sequence[str]) -> list[str]:
    """The words that `argv` gives to an option at its last occurrence."""
    values: list[str] = []
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            following = itertools.takewhile(lambda next_word: not next_word.startswith("--"), argv[index + 1 :])
            values = [value] if equals else list(following)
    return values
