"""Results: the lines of results/, and that the README and the pages show the same figures."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "notes")]
BOTH = {"id", "commit", "date", "machine", "threads", "alone", "torch", "precision", "config"}
RUN = BOTH | {"seed", "test_accuracy", "validation_accuracy", "block_accuracy", "seconds"}
RUN |= {"peak_memory_bytes", "energy_joules", "chosen_by"}
TIMING = BOTH | {"kind", "command", "ratios", "arms"}
PUBLISHED = {"98.64", "99.36", "90.62", "65.42", "54.34", "99.74", "99.63", "98.63", "98.7", "80.75", "65.96"}
"""Figures of papers, which pages may have in words, beside those that the recipes hold."""
FIGURE = re.compile(r"(?<![\w.])\d+\.\d+(?=\s*(?:%|±|points?\b|times\b|of backprop))")
"""A percentage or a ratio with decimals: what nobody writes down but somebody who has measured it."""


def module(name):
    """A script of benchmarks/, which is no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(name, loaded)
        spec.loader.exec_module(loaded)
        return loaded
    finally:
        sys.path.remove(str(BENCHMARKS))


lines = module("lines")
RUNS, TIMINGS = lines.read(lines.RUNS), lines.read(lines.TIMINGS)


@pytest.mark.parametrize("line", RUNS, ids=lambda line: line["id"])
def test_a_run_has_every_field(line):
    assert set(line) >= RUN
    assert set(line["config"]) == {"data", "body", "rule", "training", "readout"}
    assert line["chosen_by"] in ("none", "validation", "test")
    measured = (
        [line["test_accuracy"]]
        if line["test_accuracy"] is not None
        else [probe["accuracy"] for probe in line["probes"]]
    )
    assert measured and all(0 < accuracy <= 1 for accuracy in measured)
    assert line["id"].endswith(f"/seed{line['seed']}")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", line["date"]) and re.match(r"[0-9a-f]{7}", line["commit"])
    assert line["config"]["training"]["precision"] == line["precision"]


@pytest.mark.parametrize("line", TIMINGS, ids=lambda line: line["id"])
def test_a_timing_has_every_field(line):
    assert set(line) >= TIMING
    assert line["ratios"] or line["arms"]
    assert all(isinstance(ratio, float | int) for ratio in line["ratios"].values())


def test_no_line_is_there_twice():
    ids = [line["id"] for line in RUNS + TIMINGS]
    assert len(set(ids)) == len(ids)
    runs = [json.dumps([line["config"], line["seed"], line["commit"]], sort_keys=True) for line in RUNS]
    assert len(set(runs)) == len(runs)


def test_the_seeds_of_a_group_are_one_config_but_for_arithmetic():
    groups = {}
    for line in RUNS:
        training = {**line["config"]["training"], "precision": None}
        groups.setdefault(lines.group_of(line), []).append({**line["config"], "training": training})
    for name, configs in groups.items():
        assert all(config == configs[0] for config in configs), name


def test_pages_show_what_the_lines_say():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "render.py", "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_every_group_is_on_a_page_or_in_a_picture():
    tables = module("tables_accuracy")
    asked = {group for pair in tables.PAIRS for group in (pair.local, pair.backprop)}
    asked |= {f"{name}/{rule}" for name, (_, own) in tables.FAST.items() for rule in (own, "backprop")}
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*PAGES, *(ROOT / "docs/pictures").glob("*.py")))
    for line in RUNS:
        group = lines.group_of(line)
        assert group in asked or "paper" in line or group in text, f"no page uses {group}"


def test_every_timing_is_in_a_table_or_on_a_page():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*PAGES, *BENCHMARKS.glob("tables_*.py")))
    for line in TIMINGS:
        assert line["id"] in text or line["kind"] == "whole-run", f"no page uses {line['id']}"


def prose(text):
    """A page without code, tables and what the renderer wrote."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!-- begin:(\S+) -->.*?<!-- end:\1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    text = re.sub(r"^(?: {4}|\t)(?! *[-*\d]).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`", "", text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_figure_in_a_page_comes_from_a_line(path):
    published = {f"{row.paper:.{places}f}" for row in papers_rows() for places in (1, 2, 3)}
    text = re.sub(r"<!--f .+?-->.*?<!--/-->", "", prose(path.read_text(encoding="utf-8")))
    by_hand = [figure for figure in FIGURE.findall(text) if figure not in PUBLISHED | published]
    assert not by_hand, "give these by <!--f ...--> (results/README.md)"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_sentence_has_one_figure(path):
    text = re.sub(r"<!--f machine .+?-->.*?<!--/-->", "", prose(path.read_text(encoding="utf-8")))
    text = FIGURE.sub("FIGURE", re.sub(r"<!--f .+?-->.*?<!--/-->", "FIGURE", text))
    paragraphs = re.split(r"\n\s*\n|\n(?=[-*|#] )", text)
    sentences = [sentence for part in paragraphs for sentence in re.split(r"(?<=[.:;?!])\s+", part)]
    crowded = [one for one in sentences if one.count("FIGURE") > 1 and "|" not in one]
    assert not crowded


def papers_rows():
    from forwardonly.experiments.recipes import SCALES, TABLE

    return [row for name in TABLE for row in TABLE[name](SCALES[name][0]).rows if row.paper is not None]


def test_results_under_800_words():
    assert len((ROOT / "docs/results.md").read_text(encoding="utf-8").split()) < 800


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("mean a/b/c", "91.00"),
        ("accuracy a/b/c", "91.00 ± 1.41"),
        ("mean a/b/c/seed0 @1", "99.0"),
        ("seeds a/b/c", "2"),
        ("gap a/b/c a/b/d", "4.00"),
        ("block a/b/c 2", "91.0"),
        ("time a/b/c a/b/d", "0.50"),
        ("probe a/b/d 0.1", "81.00"),
        ("probe a/b/d 0.1 ridge untrained_accuracy @1", "70.0"),
        ("ratio t/x", "0.91"),
        ("percent t/x other", "50"),
        ("value t/x ours.ms", "3.0"),
        ('paper networkff-mnist "FF"', "92"),
    ],
)
def test_expressions(expression, text):
    runs = [
        {"id": f"a/b/c/seed{seed}", "seed": seed, "test_accuracy": accuracy, "chosen_by": by, "seconds": 10.0}
        | {"block_accuracy": [0.5, accuracy]}
        for seed, accuracy, by in ((0, 0.99, "test"), (1, 0.90, "none"), (2, 0.92, "none"))
    ]
    runs.append({"id": "a/b/d/seed0", "seed": 0, "test_accuracy": 0.95, "chosen_by": "validation", "seconds": 20.0})
    probes = [{"method": "ridge", "labels_share": share, "accuracy": share + 0.71} for share in (0.1, 0.2)]
    probes = [one | {"blocks": "all-but-first"} for one in probes]
    runs[-1]["probes"] = [one | {"untrained_accuracy": 0.7} for one in probes]
    timings = [{"id": "t/x", "ratios": {"other": 0.5, "backprop": 0.906}, "arms": {"ours": {"ms": 3}}}]
    assert lines.Results(runs, timings).figure(expression) == text


@pytest.mark.parametrize("expression", ["mean", "mode a/b", "mean no/such/group", "ratio no/such", "gap only-one"])
def test_an_expression_that_names_nothing_is_refused_in_a_sentence(expression):
    with pytest.raises(ValueError, match=r"\.$"):
        lines.Results([], []).figure(expression)


def run_folder(folder):
    """A finished run, as `forwardonly train` leaves it."""
    folder.mkdir()
    network = {"body": {"name": "mlp", "hidden": [32]}, "rule": {"name": "ff", "classes": 10}, "readout": "sum"}
    data = {"name": "digits", "data_dir": None, "image_size": None, "validation": 0, "classes": ["0", "1"]}
    config = {"network": network, "training": {"epochs": 1, "precision": "auto", "device": "auto"}, "data": data}
    result = {"test_accuracy": 0.9, "validation_accuracy": None, "block_accuracy": [0.9], "seconds": 1.0, "seed": 3}
    result |= {"precision": "bf16", "device": "cpu, 1 threads, x86_64", "torch": "2", "peak_memory_bytes": 1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def asked(**more):
    """The options of record.py."""
    plain = {"chosen_by": "none", "machine": "a machine", "alone": None, "paper": None, "note": None, "id": None}
    return SimpleNamespace(**{**plain, "precision": None, "history": False, "readout": None, **more})


def test_record_appends_a_run_once(tmp_path, capsys):
    record = module("record")
    line = record.run_line(run_folder(tmp_path / "run"), "abcdef0", asked())
    assert set(line) >= RUN
    assert line["id"] == "ff/digits/mlp/seed3"
    assert line["config"]["training"] == {"epochs": 1, "precision": "bf16", "device": "cpu"}
    file = tmp_path / "runs.jsonl"
    record.append(file, [line])
    with pytest.raises(ValueError, match="has this already"):
        record.append(file, [{**line, "id": "another/name/seed3"}])
    with pytest.raises(ValueError, match="another line"):
        record.append(file, [{**line, "commit": "1234567"}])
    assert lines.read(file) == [line]
    later = {**line, "id": "ff/digits/mlp/seed4", "seed": 4, "date": "2030-01-01", "machine": "another"}
    record.append(file, [later])  # which changes neither date nor machine of the first
    assert lines.read(file) == [line, later]


def test_record_measures_a_run_by_another_readout(trained_run):
    record = module("record")
    plain, last = (record.run_line(trained_run, "abcdef0", asked(readout=readout)) for readout in (None, "last"))
    assert (plain["config"]["readout"], last["config"]["readout"]) == ("sum", "last")
    assert last["test_accuracy"] == pytest.approx(plain["block_accuracy"][-1])
    assert {name for name in plain if plain[name] != last[name]} == {"config", "test_accuracy"}


def test_record_refuses_a_run_that_is_not_finished_or_chosen_by_nobody_knows_what(tmp_path):
    record = module("record")
    folder = run_folder(tmp_path / "run")
    with pytest.raises(ValueError, match="--chosen-by"):
        record.run_line(folder, "abcdef0", asked(chosen_by=None))
    (folder / "result.json").unlink()
    with pytest.raises(ValueError, match="not finished"):
        record.run_line(folder, "abcdef0", asked())


def test_record_takes_what_bench_and_whole_run_print():
    record = module("record")
    step = {"kind": "step", "step_ratio": 0.9, "checkpointed_ratio": 0.7, "arms": {"ours": {"ms": 1}}}
    step |= {
        "options": {"rule": "ff", "precision": "bf16"},
        "machine": {"threads": 2, "torch": "2"},
        "command": "bench",
    }
    line = record.timing_line(step, "abcdef0", asked(id="step/ff/mlp"))
    assert set(line) >= TIMING
    assert line["ratios"] == {"backprop": 0.9, "backprop-checkpointed": 0.7}
    assert (line["threads"], line["precision"]) == (2, "bf16")
    whole = {"command": "whole_run", "rule": "best", "seconds": {"best": [1.0], "backprop": [2.0]}, "ratio": 0.5}
    line = record.timing_line(whole, "abcdef0", asked(id="whole-run/best/six"))
    assert line["kind"] == "whole-run" and line["ratios"] == {"backprop": 0.5} and line["config"] == {"rule": "best"}
