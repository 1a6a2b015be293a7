"""Names in the tables of rules, bodies and the like: looking them up, and messages about unknown ones."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args


def name_in(table: Mapping[str, object], thing: object) -> str:
    """The name under which a table has the preset or the class that made `thing`, or else the name of its class."""
    preset = getattr(thing, "preset", None)
    if preset in table:
        return str(preset)
    return next((name for name, entry in table.items() if type(thing) is entry), type(thing).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """The second half of an error sentence: suggests the nearest known name, or lists them all."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"


def refuse_unknown(kind: str, name: str, options: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError if an option of a rule, body or the like is unknown."""
    for option in options:
        if option not in known:
            raise ValueError(f"The {kind} {name!r} has no option {option!r}: {nearest(option, known)}")


def check_choices(options: Any) -> None:
    """Raises ValueError if an option of a dataclass that is a `Literal` of words has another value."""
    for field in fields(options):
        value, words = getattr(options, field.name), get_args(field.type)
        if words and isinstance(words[0], str) and value not in words:
            raise ValueError(f"{field.name} must be one of {', '.join(words)}, not {value!r}.")
