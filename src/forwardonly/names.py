"""Names in our tables: finding a thing's own, and what to say of one we do not know."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args


def name_in(table: Mapping[str, type], thing: object) -> str:
    """The name under which a thing's class stands in a table, or the class's own name if it is a user's."""
    return next((name for name, cls in table.items() if type(thing) is cls), type(thing).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """Half a sentence that suggests the nearest known name, or lists them all."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"


def check_choices(options: Any) -> None:
    """Raises ValueError if an option of a dataclass for which words are listed, as a `Literal`, is none of them."""
    for field in fields(options):
        value, words = getattr(options, field.name), get_args(field.type)
        if words and isinstance(words[0], str) and value not in words:
            raise ValueError(f"{field.name} must be one of {', '.join(words)}, not {value!r}.")
