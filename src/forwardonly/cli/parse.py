"""From words on the command line to a dataclass of options, by tyro; mistakes become one sentence."""

import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every command has."""

    json: bool = False
    """Print the result as one JSON object on standard output."""


def parse(options: type[Any], argv: Sequence[str], *, prog: str, description: str) -> Any:
    """An instance of `options` from `argv`.

    Raises:
        ValueError: a mistake in `argv`, named in one sentence.
        SystemExit: with status 0, after printing help.
    """
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
    _refuse_unknown_option(argv, _flags(options, prog), prog)
    if unknown:
        raise ValueError(f"unexpected {unknown[0]!r}; see {prog} --help")
    raise ValueError(_sentence(_first_paragraph(box.getvalue()), prog))


def nearest(name: str, known: Iterable[str]) -> str:
    """The advice that follows "unknown ...;"."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"


def given(argv: Sequence[str], option: str, default: str) -> str:
    """The value of `--option VALUE` or `--option=VALUE` in `argv`, for options that decide which others there are."""
    value = default
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == option and following and not following.startswith("--"):
            value = following
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


def _tyro(options: type[Any], argv: Sequence[str], prog: str, description: str) -> tuple[Any, list[str]]:
    return tyro.cli(
        options,
        args=argv,
        prog=prog,
        description=description,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _flags(options: type[Any], prog: str) -> list[str]:
    """Every `--option` there is, as the help lists them."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        _tyro(options, ["--help"], prog, "")
    return re.findall(r"^│ (?:-\w, )?(--[\w.-]+)", page.getvalue(), re.MULTILINE)


def _refuse_unknown_option(argv: Sequence[str], flags: list[str], prog: str) -> None:
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in flags:
            group = [flag for flag in flags if "." in name and flag.startswith(name.partition(".")[0] + ".")]
            close = difflib.get_close_matches(name, flags, n=1)
            if group and not close:
                advice = f"choose one of {', '.join(group)}"
            else:
                advice = f"did you mean {close[0]!r}?" if close else f"see {prog} --help"
            raise ValueError(f"unknown option {name!r}; {advice}")


def _first_paragraph(box: str) -> str:
    """The text of tyro's error box down to its first rule, as one line."""
    lines = [line.strip("│╭╮╰╯ \n") for line in box.splitlines()[1:]]
    text = []
    for line in lines:
        if set(line) <= {"─"}:
            break
        text.append(line)
    return " ".join(text)


def _sentence(text: str, prog: str) -> str:
    """tyro's complaint in our words; its own where it has found something else to complain of."""
    if found := re.match(r"Missing value for argument '(.+)'", text):
        return f"{found[1]} needs a value; see {prog} --help"
    if found := re.match(r"invalid choice '(.*)' for argument '(.+)'. Expected one of \((.*)\)", text):
        choices = re.findall(r"'([^']*)'", found[3])
        return f"{found[2]} cannot be {found[1]!r}; {nearest(found[1], choices)}"
    if found := re.match(r"Missing from .*?: (\S+)", text):
        return f"{found[1]} is missing; see {prog} --help"
    if found := re.match(r"Error parsing ([^:]+): (.*)", text):
        return f"{found[1]} has a value that it cannot take: {found[2]}; see {prog} --help"
    return f"{text}; see {prog} --help"
