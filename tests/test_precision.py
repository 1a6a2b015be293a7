"""`precision="auto"`: by the processor's flags, and where it does not say them by a measurement that is kept."""

# mypy: allow-untyped-defs

import json

import pooch
import pytest
import torch

from forwardonly.system import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [("flags : fpu avx2 avx512_bf16", "bf16"), ("Features : fp asimd bf16", "bf16"), ("flags : fpu avx2", "fp32")],
)
def test_flags_decide_where_there_are_any(monkeypatch, tmp_path, flags, chosen):
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(precision, "FLAGS", tmp_path / "cpuinfo")
    assert precision.choose_precision("auto", CPU) == chosen


@pytest.mark.parametrize("there", [None, "no json", "[1, 2]"])
def test_a_processor_without_flags_is_measured_once(monkeypatch, tmp_path, there):
    monkeypatch.setattr(precision, "FLAGS", tmp_path / "nowhere")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    if there is not None:
        (tmp_path / "forwardonly").mkdir()
        (tmp_path / "forwardonly" / "bf16.json").write_text(there)
    taken = {torch.float32: 2.0, torch.bfloat16: 1.0}
    measured = []
    monkeypatch.setattr(precision, "_seconds", lambda kind: measured.append(kind) or taken[kind])
    precision._measured_faster.cache_clear()
    assert precision.choose_precision("auto", CPU) == "bf16" and len(measured) == 2
    taken[torch.bfloat16] = 9.0  # busy now: what was chosen stays
    precision._measured_faster.cache_clear()  # as another process has it
    assert precision.choose_precision("auto", CPU) == "bf16" and len(measured) == 2
    assert list(json.loads((tmp_path / "forwardonly" / "bf16.json").read_text()).values()) == [True]
    precision._measured_faster.cache_clear()


def test_the_measurement_takes_a_product():
    assert 0 < precision._seconds(torch.float32) < 60
