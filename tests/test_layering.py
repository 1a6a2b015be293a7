"""Layering: a file imports from its own unit or from lower layers, and there are no import cycles.

`LAYERS` is the whole table. A unit is a file or a folder of src/forwardonly; a file belongs to the unit with the
longest matching name. Every import counts, also those inside functions and under TYPE_CHECKING; `ALLOWED` lists the
exceptions, each with its reason. That Python runs the `__init__.py` of every folder around an imported file does not
count here. To move a unit, edit `LAYERS`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest

import forwardonly

PACKAGE = Path(forwardonly.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (  # lowest first
    ("version", "names", "targets"),
    ("system", "ops"),
    ("labels",),
    ("rules", "bodies", "data"),
    ("network",),
    ("measure",),
    # training, unit by unit
    (
        "training.randomness",
        "training.interrupt",
        "training.progress",
        "training.compatibility",
        "training.runs.checkpoint",
    ),
    ("training.optim",),
    ("training.config",),
    ("training.update", "training.runs.folder", "training.runs.loggers"),
    ("training.batch", "training.schedule", "training.memory.offload"),
    ("training.memory.micro_batch", "training.distributed"),
    ("training.step", "training.feed"),
    ("training.session",),
    ("training.strategies", "training.memory", "training.runs"),
    ("training.trainer", "training.online"),
    ("training.fit",),
    ("training",),  # its __init__
    ("transfer", "hub", "bench", "export", "serve"),
    ("experiments",),
    ("",),  # forwardonly/__init__.py
    ("estimator",),
    ("cli",),
    ("__main__",),
)

ALLOWED: dict[tuple[str, str], str] = {  # (importing file, imported file) as dotted names: why it may
}

LAYER_OF = {unit: layer for layer, units in enumerate(LAYERS) for unit in units}


@dataclass(frozen=True)
class Import:
    """One file imports another, both by their dotted names below the package; '' is the package itself."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        path = path_of(self.source).relative_to(PACKAGE.parent.parent)
        units = f"{unit_of(self.source) or 'forwardonly'} -> {unit_of(self.target) or 'forwardonly'}"
        return f"{path}:{self.line}: {units} (imports {'.'.join(filter(None, ('forwardonly', self.target)))})"


def path_of(module: str) -> Path:
    base = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def modules() -> list[str]:
    found = (path.relative_to(PACKAGE).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py")))
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in found]


def unit_of(module: str) -> str | None:
    """The longest name in `LAYERS` that is the module or a folder around it; None if there is none."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in LAYER_OF), None)


def imports_of(module: str, known: set[str]) -> Iterator[Import]:
    """What a file imports of the package, wherever in it: names are followed to the file that they are in."""
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.Import):
            asked = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = f"forwardonly.{module}".split(".")
                package = package if path_of(module).name == "__init__.py" else package[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            asked = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in asked:
            parts = name.split(".")
            if parts[0] != "forwardonly":
                continue
            lengths = range(len(parts), 0, -1)
            target = next(found for length in lengths if (found := ".".join(parts[1:length])) in known)
            if target != module:
                yield Import(module, target, node.lineno)


def all_imports() -> list[Import]:
    known = set(modules())
    return sorted(
        {each for module in known for each in imports_of(module, known) if (each.source, each.target) not in ALLOWED},
        key=lambda each: (each.source, each.line, each.target),
    )


def cycles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, by Tarjan's algorithm."""
    after: dict[str, list[str]] = {}
    for source, target in sorted(edges):
        after.setdefault(source, []).append(target)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in after.get(node, []):
            if other not in number:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == number[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(set(chain.from_iterable(edges))):
        if node not in number:
            visit(node)
    return sorted(found)


LEVELS = {
    "files": lambda module: module,
    "units": lambda module: unit_of(module) or module,
    "folders": lambda module: module.split(".")[0],  # or files, right inside the package
}


def test_every_file_has_a_unit():
    assert [module for module in modules() if unit_of(module) is None] == []


def test_every_unit_exists_and_is_named_once():
    names = list(chain.from_iterable(LAYERS))
    assert len(names) == len(set(names))
    assert [name for name in names if not path_of(name).exists()] == [], "units of LAYERS without a file"


def test_imports_go_down():
    wrong = []
    for each in all_imports():
        source, target = unit_of(each.source), unit_of(each.target)
        if source is None or target is None or source == target:
            continue  # the first has a test of its own
        if LAYER_OF[target] > LAYER_OF[source]:
            wrong.append(f"{each}: goes up, from layer {LAYER_OF[source]} to {LAYER_OF[target]}")
        elif LAYER_OF[target] == LAYER_OF[source]:
            wrong.append(f"{each}: goes to another unit of layer {LAYER_OF[source]}")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("of", LEVELS)
def test_there_are_no_import_cycles(of):
    found = all_imports()
    level = LEVELS[of]
    edges = {(level(each.source), level(each.target)) for each in found}
    rings = cycles({(source, target) for source, target in edges if source != target})
    said = []
    for ring in rings:
        inside = [each for each in found if level(each.source) != level(each.target)]
        inside = [each for each in inside if {level(each.source), level(each.target)} <= set(ring)]
        said += [f"a cycle of {of}: {', '.join(name or 'forwardonly' for name in ring)}", *map(str, inside)]
    assert not rings, "\n" + "\n".join(said)


def test_every_exception_is_needed_and_has_a_reason():
    known = set(modules())
    there = {(each.source, each.target) for module in known for each in imports_of(module, known)}
    assert set(ALLOWED) - there == set(), "no longer imported: strike them from ALLOWED"
    assert all(len(reason.split()) >= 3 for reason in ALLOWED.values())


def test_cycles_are_found():
    chain_and_two_rings = {("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "d")}
    assert cycles(chain_and_two_rings) == [["b", "c"], ["d", "e", "f"]]
    assert cycles({("a", "b"), ("a", "c"), ("b", "c")}) == []


def test_imports_are_found_wherever_they_are(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    for name in ("__init__", "low", "inner/__init__", "inner/near"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "inner/file.py").write_text(
        "from typing import TYPE_CHECKING\nimport forwardonly as fo\nfrom forwardonly import low\n"
        "if TYPE_CHECKING:\n    from forwardonly.inner.near import Name\n"
        "def late():\n    from . import near\n    from ..low import that\n    import forwardonly.low\n"
    )
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    found = list(imports_of("inner.file", set(modules())))
    assert sorted((each.line, each.target) for each in found) == [
        (2, ""), (3, "low"), (5, "inner.near"), (7, "inner.near"), (8, "low"), (9, "low"),
    ]  # fmt: skip
