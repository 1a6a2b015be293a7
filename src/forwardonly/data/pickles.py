"""CIFAR's pickles, read without unpickling: nothing that a file names is imported, called or built.

A pickle is a program for a small stack machine. The standard library lists its instructions (`pickletools.genops` only
tokenises); this file interprets those that plain values and arrays of whole numbers need, in protocols 0 to 5, and
refuses all others. Names of functions stay names: those that numpy writes for an array or a number, and the one that
Python 3 writes for bytes in protocol 2, are recognised and never looked up. Memory stays in proportion to the file:
lengths are compared with the bytes in the file, and arrays are views.
"""

from __future__ import annotations

import pickletools
import re
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forwardonly.data.reading import GIB, UnreadableError, reading

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_FROMBUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
_SCALAR = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"}
_TYPE = re.compile(r"[<>|=]?[iu][1248]|u?int(8|16|32|64)")
_ALLOWED = _RECONSTRUCT | _FROMBUFFER | _SCALAR | {"numpy ndarray", "numpy dtype", "_codecs encode"}
# Instructions whose argument is the value. Python 2's byte strings arrive as str, one letter per byte (latin-1).
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_UNICODE = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_VALUES = _NUMBERS | _STRINGS | _UNICODE | _BYTES
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class _Name:
    """The name of a function or class, "module attribute"."""

    name: str


@dataclass(eq=False)
class _Array:
    """An array that is announced first and given its bytes by a later BUILD."""

    value: np.ndarray | None = None


@dataclass(eq=False)
class _Type:
    """A type of whole numbers; its byte order is given by a later BUILD."""

    value: np.dtype[Any]


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in `path`, of str, int, list, tuple and arrays of whole numbers; ValueError for all else."""
    with reading(path, "a CIFAR pickle"):
        if path.stat().st_size > GIB:
            raise UnreadableError(f"{path}: larger than 1 GiB, which no CIFAR file is")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # odd escapes in a protocol 0 string
            content = _run(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
        return {k: v.value if isinstance(v, _Array) else v for k, v in content.items()}


def _run(program: bytes) -> Any:
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marks.pop()
        return items

    argument: Any
    for instruction, argument, _ in pickletools.genops(program):
        match instruction.name:
            case name if name in _VALUES:
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(stack)
                stack = []
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                items = since_mark()
                stack.append(items)
            case "TUPLE":
                items = since_mark()
                stack.append(tuple(items))
            case "DICT":
                items = since_mark()
                stack.append(_fill({}, items))
            case name if name in _SHORT_TUPLES:
                count = _SHORT_TUPLES[name]
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _a_list(stack[-1]).append(item)
            case "APPENDS":
                items = since_mark()
                _a_list(stack[-1]).extend(items)
            case "SETITEM":
                items = [stack.pop(-2), stack.pop()]
                _fill(stack[-1], items)
            case "SETITEMS":
                items = since_mark()
                _fill(stack[-1], items)
            case "GLOBAL":
                stack.append(_allowed(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_allowed(f"{module} {attribute}"))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"the pickle instruction {other} has no place in a data set")
    raise ValueError("it has no end")


def _a_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("it appends to something that is no list")
    return value


def _fill(target: Any, items: list[Any]) -> dict[str, Any]:
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("it sets items of something that is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, bytes):
            key = key.decode("latin-1")
        if not isinstance(key, str):
            raise ValueError("a dictionary in it has a key that is no string")
        target[key] = value
    return target


def _allowed(name: str) -> _Name:
    if name not in _ALLOWED:
        shown = name.replace(" ", ".")[:80]
        raise ValueError(f"it asks for {shown!r}, which a data set does not need: refused without running it")
    return _Name(name)


def _call(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Name(name), _ if name in _RECONSTRUCT:
            return _Array()
        case _Name("numpy dtype"), (str(text), *_) if _TYPE.fullmatch(text):
            return _Type(np.dtype(text))
        case _Name(name), (data, _Type(kind), tuple(shape), "C" | "F" as order, *rest) if (
            name in _FROMBUFFER and rest in ([], [None])
        ):
            return _Array(_array(data, shape, kind, order))
        case _Name(name), (_Type(kind), data) if name in _SCALAR:
            return _array(data, (), kind, "C").item()
        case _Name("_codecs encode"), (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
        case _:
            raise ValueError(
                "it holds an array that is not of unsigned bytes or whole numbers, or calls something else"
            )


def _build(target: Any, state: Any) -> None:
    match target, state:
        case _Type(), (int(), "<" | ">" | "|" | "=" as order, *_):
            target.value = target.value.newbyteorder(order)
        case _Array(), (_, tuple(shape), _Type(kind), fortran, str() | bytes() as data):
            target.value = _array(data, shape, kind, "F" if fortran else "C")
        case _:
            raise ValueError("it sets the state of something that is no array of unsigned bytes or whole numbers")


def _array(data: Any, shape: tuple[Any, ...], kind: np.dtype[Any], order: Literal["C", "F"]) -> np.ndarray:
    """A view of the bytes in the file, which the shape must fit."""
    if isinstance(data, str):
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array in it has no bytes")
    fits = all(type(n) is int and n >= 0 for n in shape) and prod(shape) * kind.itemsize == len(data)
    if not fits or len(shape) > 4:
        raise ValueError(f"an array in it has {len(data)} bytes, which its shape does not fit")
    return np.frombuffer(data, kind).reshape(shape, order=order)
