"""Names and values of options: looking names up in the tables of rules and bodies, and checking the values' types."""

import difflib
import math
import numbers
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

LISTED = 40
"""Names that an error lists; a library of models has thousands."""


def name_in(table: Mapping[str, object], thing: object) -> str:
    """The name under which a table has the preset or the class that made `thing`, or else the name of its class."""
    preset = getattr(thing, "preset", None)
    if preset in table:
        return str(preset)
    return next((name for name, entry in table.items() if type(thing) is entry), type(thing).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """The second half of an error sentence: suggests the nearest known name, or lists them."""
    names = sorted(filter(None, known))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"


def refuse_unknown(kind: str, name: str, options: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError if an option of a rule, body or the like is unknown."""
    for option in options:
        if option not in known:
            raise ValueError(f"The {kind} {name!r} has no option {option!r}: {nearest(option, known)}")


def check_options(options: Any) -> None:
    """Checks the types of a dataclass's options, and gives numpy's numbers and arrays as Python's own.

    A sequence becomes a tuple, and one number where several may stand a tuple of one.

    Raises:
        ValueError: a number that is not whole where it must be, not finite, a word that is no choice, and the like.
    """
    hints: dict[str, Any] | None = None
    for field in fields(options):
        hint: Any = field.type
        if isinstance(hint, str):  # of a module with `from __future__ import annotations`
            hints = get_type_hints(type(options)) if hints is None else hints
            hint = hints[field.name]
        given = getattr(options, field.name)
        value = _option(field.name, given, hint)
        if value is not given:
            object.__setattr__(options, field.name, value)  # dataclasses of options are frozen


def whole_number(name: str, value: Any, least: int) -> int:
    """A whole number of `least` or more, numpy's included, as an int.

    Raises:
        ValueError: it is something else.
    """
    value = _option(name, value, int)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return int(value)


def plain(value: Any) -> Any:
    """A value in types that JSON can represent: numpy's numbers and arrays, also in lists and dicts, as Python's."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Options by name, without their dashes, as a command line: several values are several words, False is `--no-name`,
    or `--group.no-name`, None is the word none.
    """
    words = []
    for name, value in options.items():
        group, dot, own = name.replace("_", "-").rpartition(".")
        words.append(f"--{group}{dot}{'no-' if value is False else ''}{own}")
        if not isinstance(value, bool):
            values = value if isinstance(value, list | tuple) else (value,)
            words += ["none" if each is None else str(each) for each in values]
    return words


def one_of(name: str, value: Any, words: Collection[str]) -> str:
    """`value`, which is one of a few words.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}.")
    return str(value)


def regular_expression(name: str, text: str) -> re.Pattern[str]:
    """The compiled expression of an option.

    Raises:
        ValueError: it is none.
    """
    try:
        return re.compile(text)
    except re.error as problem:
        raise ValueError(f"{name} {text!r} is not a regular expression: {problem}.") from None


def require(name: str, value: Any, kind: type | tuple[type, ...], fits: str) -> None:
    """Raises ValueError, which says what fits, unless a value is of a kind."""
    if isinstance(value, kind):
        return
    told = repr(value) if value is None or isinstance(value, str | int | float) else type(value).__name__
    if isinstance(value, type):
        told = f"the class {value.__name__}"
    raise ValueError(f"{name} must be {fits}, not {told}.")


def as_path(name: str, value: Any) -> Path:
    """The path of a file or a folder.

    Raises:
        ValueError: it is none.
    """
    require(name, value, (str, os.PathLike), "a path")
    return Path(value)


def _option(name: str, value: Any, hint: Any) -> Any:
    """The value of an option whose type is `hint`; values of types that are not known here are returned as they are."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            return None
        return _option(name, value, kinds[0]) if len(kinds) == 1 else value
    if get_origin(hint) is tuple:
        return _several(name, value, get_args(hint)[0])
    words = get_args(hint)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if words and isinstance(words[0], str):
        return one_of(name, value, words)
    true_or_false = isinstance(value, bool)
    if hint is int:
        if true_or_false or not isinstance(value, numbers.Integral):
            raise ValueError(f"{name} must be a whole number, not {value!r}.")
        return int(value)
    if hint is float:
        number = not true_or_false and isinstance(value, numbers.Real)
        if not number or not math.isfinite(value):
            raise ValueError(f"{name} must be a number, not {value!r}.")
        return value if isinstance(value, int | float) else float(value)
    if hint is bool and not true_or_false:
        raise ValueError(f"{name} must be True or False, not {value!r}.")
    if hint is str and not isinstance(value, str):
        raise ValueError(f"{name} must be a word, not {value!r}.")
    return value


def _several(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    values = (value,) if isinstance(value, numbers.Number) else value
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be several numbers, such as (200, 100), not {value!r}.")
    checked = tuple(_option(name, each, kind) for each in values)
    same = isinstance(value, tuple) and all(one is two for one, two in zip(value, checked, strict=True))
    return value if same else checked
