"""The command line: `forwardonly COMMAND [OPTIONS]`.

A command is a line in COMMANDS and a module in this package with

    options(argv)                  a dataclass that extends `parsing.Common`, or an instance of one with the defaults;
                                   its `prog` and `does`, if it has them, head its help
    run(options, screen) -> dict   does the work; the result is what `--json` prints. If it has a `problem`, the command
                                   fails with that sentence after its result was shown
    show(result, screen) -> None   draws the result for people

It is imported when it is called, so that help and error messages do not wait for PyTorch.
"""

import importlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from forwardonly.cli.parsing import HELP_ALL, brief, parse
from forwardonly.cli.screen import Screen, leads
from forwardonly.names import nearest
from forwardonly.system.allocator import keep_freed_memory
from forwardonly.system.cores import quota
from forwardonly.system.openmp import wait_briefly
from forwardonly.version import __version__


class Command(NamedTuple):
    module: str
    does: str


COMMANDS = {
    "train": Command("forwardonly.cli.train", "Train one network and save it as a run."),
    "tune": Command("forwardonly.cli.tune", "Train a model of timm or Hugging Face that has learned before."),
    "evaluate": Command(
        "forwardonly.cli.evaluate", "Measure a run: accuracy, accuracy of each block, confusion matrix."
    ),
    "probe": Command("forwardonly.cli.probe", "Classify by a run's activations: what it learned, also without labels."),
    "predict": Command("forwardonly.cli.predict", "Say the class, the labels or the numbers of images by a run."),
    "compare": Command("forwardonly.cli.compare", "Compare rules over seeds: table, tests, report."),
    "reproduce": Command("forwardonly.cli.reproduce", "Reproduce one table of a paper, with its numbers next to ours."),
    "diagnose": Command(
        "forwardonly.cli.diagnose", "Diagnose a run: free-riding and channel assignments, block by block."
    ),
    "bench": Command(
        "forwardonly.cli.bench", "Measure time and memory against backprop: step, memory, inference, data, start."
    ),
    "export": Command("forwardonly.cli.export", "Write a run's network, or its training step, for other runtimes."),
    "serve": Command(
        "forwardonly.cli.serve", "Serve a run over HTTP, with a page that shows what every block predicts."
    ),
    "data": Command("forwardonly.cli.data", "List, fetch and verify data sets."),
}

WITH_MORE = ("train", "tune", "compare")
MORE = "These are the most common options; `forwardonly {} --help-all` shows all of them."

OK, MISTAKE, INTERRUPTED = 0, 2, 130
IMPORT = "FORWARDONLY_IMPORT"  # modules, separated by commas, that add their own rules or bodies to the tables


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 after a mistake (one line on stderr), 130 after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error: a letter that it lacks is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _warnings_as_lines():
            status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # tyro has printed help
        return _flushed(OK if stop.code is None else int(stop.code))
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        return _output_closed()
    except OSError as error:
        return _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", MISTAKE)
    except ValueError as error:
        return _say(str(error), MISTAKE)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """The library's own warnings as one line each, where Python would name a file of the library and its code."""
    usual, ours = warnings.showwarning, Path(__file__).parents[1]

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if Path(filename).is_relative_to(ours):
            _say(str(message), OK)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def _dispatch(argv: list[str]) -> int:
    if not argv:
        raise ValueError(f"name a command: {', '.join(COMMANDS)} (forwardonly --help explains them)")
    name, rest = argv[0], argv[1:]
    if name in ("-h", "--help"):
        print(_help())
        return OK
    if name == "--version":
        print("forwardonly", __version__)
        return OK
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}: {nearest(name, COMMANDS)}")
    wait_briefly()  # before anything imports PyTorch
    for module in filter(None, os.environ.get(IMPORT, "").split(",")):
        try:
            importlib.import_module(module)
        except ImportError as problem:
            raise ValueError(f"{IMPORT} names {module!r}, which cannot be imported: {problem}") from None
    command = importlib.import_module(COMMANDS[name].module)
    options = command.options(rest)
    words = ["--help" if word == HELP_ALL else word for word in rest]
    does = getattr(options, "does", COMMANDS[name].does) + (
        f" {MORE.format(name)}" if brief(rest) and name in WITH_MORE else ""
    )
    options = parse(options, words, prog=getattr(options, "prog", f"forwardonly {name}"), description=does)
    screen = Screen(quiet=not leads() or (options.json and not sys.stderr.isatty()))
    keep_freed_memory()
    if quota() is not None:  # which PyTorch does not see
        importlib.import_module("forwardonly.system.threads").heed_quota()
    result = command.run(options, screen)
    if not leads():
        return OK
    if options.json:
        print(json.dumps(result))
    else:
        command.show(result, screen)
    if "problem" in result:  # with some of many; the others are done and shown
        return _say(result["problem"], MISTAKE)
    return OK


def _help() -> str:
    rows = "\n".join(f"    {name:<12}{command.does}" for name, command in COMMANDS.items())
    return (
        "usage: forwardonly COMMAND [OPTIONS]\n\n"
        "Train deep networks without backpropagation: every block learns by its own rule.\n\n"
        f"commands:\n{rows}\n\n"
        "`forwardonly COMMAND --help` explains a command's options, `forwardonly --version` tells the version."
    )


def _say(message: str, status: int) -> int:
    """Prints a message to standard error as exactly one line."""
    who = "forwardonly" if leads() else f"forwardonly, rank {os.environ['RANK']}"  # as one of several names itself
    print(f"{who}:", " ".join(message.split()), file=sys.stderr)
    return status


def _flushed(status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _output_closed()
    return status


def _output_closed() -> int:
    """Handles standard output whose reader is gone, as after `| head`: not an error, and no message at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK
