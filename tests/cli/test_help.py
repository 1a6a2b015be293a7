"""Help: it names every command and option, and shows what the chosen rule and body have."""

import ast
import importlib
import inspect
import itertools
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

import forwardonly as fo
from forwardonly import cli
from forwardonly.cli import COMMANDS, train

from .conftest import SMALL


def test_help_names_every_command(forwardonly):
    status, out, err = forwardonly("--help")
    assert (status, err) == (0, "")
    assert all(name in out and entry.does in out for name, entry in cli.COMMANDS.items())
    assert forwardonly("-h") == (0, out, "")


def test_version(forwardonly):
    assert forwardonly("--version") == (0, f"forwardonly {fo.__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command(forwardonly, name):
    status, out, err = forwardonly(name, "--help")
    assert (status, err) == (0, "")
    assert f"usage: forwardonly {name}" in out and "--json" in out


def test_help_breaks_no_sentence():
    """Options of a command are shown with the line breaks of their sentences, so these have none."""
    for module in COMMANDS.values():
        tree = ast.parse(inspect.getsource(importlib.import_module(module.module)))
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for above, below in itertools.pairwise(cls.body):
                if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr):
                    assert "\n" not in ast.literal_eval(below.value), (module.module, ast.unparse(above.target))


def test_help_says_nothing_of_defaults_that_are_none(forwardonly):
    pages = {name: " ".join(forwardonly(name, "--help-all")[1].split()) for name in ("train", "tune", "compare")}
    assert not any("default: None" in page or "default: '')" in page for page in pages.values())
    assert pages["tune"].index("--model") < pages["tune"].index("--json")
    assert "--no-check Leave out" in " ".join(forwardonly("export", "--help")[1].split())
    assert "all of a folder" not in forwardonly("probe", "--help")[1]


def test_help_shows_the_options_of_the_chosen_rule(forwardonly):
    for argv in (["--rule", "ff"], ["--rule=ff"]):
        _, out, _ = forwardonly("train", *argv, "--help")
        assert "--rule.threshold" in out and "--rule.scale" not in out
    assert "--rule.scale" in forwardonly("train", "--help")[1]


@pytest.mark.parametrize("rule", fo.rules.TABLE)
def test_defaults_in_the_help_are_those_of_the_rule(rule):
    chosen = train.options(["--rule", rule])
    shown = {name: value for group in train.GROUPS for name, value in asdict(getattr(chosen, group)).items()}
    assert shown == asdict(fo.training.TrainingConfig.resolve(fo.rules.make(rule, classes=2)))


def options_in(page):
    """The options that a help page lists."""
    return re.findall(r"^[ │]+(?:-h, )?(--[a-z][\w.-]+)", page, flags=re.MULTILINE)


@pytest.mark.parametrize("body", fo.bodies.TABLE)
@pytest.mark.parametrize("rule", fo.rules.TABLE)
def test_help_shows_what_most_need_and_help_all_the_rest(rule, body, forwardonly):
    words = ("train", "--rule", rule, "--body", body)
    brief, everything = (options_in(forwardonly(*words, flag)[1]) for flag in ("--help", "--help-all"))
    assert len(brief) < 35 < len(everything)
    assert set(brief) < set(everything)
    assert {"--epochs", "--batch-size", "--learning-rate", "--optimiser", "--device"} <= set(brief)
    assert {"--clip", "--momentum", "--data-dir"} <= set(everything) - set(brief)


def test_an_option_that_help_hides_is_taken_and_mistakes_in_it_are_named(forwardonly, refused):
    assert forwardonly("train", "--clip", "1.5", "--epochs", 1, *SMALL, "--out", "r")[0] == 0
    assert json.loads(Path("r/config.json").read_text())["training"]["clip"] == 1.5
    assert "--momentum takes a number or none, not 'fast'" in refused("train", "--momentum", "fast")
    assert "did you mean '--warmup'" in refused("train", "--warmupp", "0.1")


@pytest.mark.parametrize("rule", fo.rules.TABLE)
def test_every_option_is_explained(rule, forwardonly):
    _, out, _ = forwardonly("train", "--rule", rule, "--help-all")
    options = re.split(r"^[ │]+(?=--[a-z]|-h)", out, flags=re.MULTILINE)[1:]
    unexplained = [option.split()[0] for option in options if not re.search(r"[a-z]{2,} [a-z]{2,}", option)]
    assert unexplained == []
    assert "--rule.classes" not in out
