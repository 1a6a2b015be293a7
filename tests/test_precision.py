"""`precision="auto"`: a processor whose flags name no bf16 takes fp32; any other is measured, and the answer kept."""

# mypy: allow-untyped-defs

import json

import pooch
import pytest
import torch

from forwardonly.system import precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    precision._measured_faster.cache_clear()
    yield
    precision._measured_faster.cache_clear()


def says(monkeypatch, tmp_path, text):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(precision, "FLAGS", tmp_path / "cpuinfo")


def measures(monkeypatch, wide, narrow):
    monkeypatch.setattr(precision, "_seconds", lambda: (wide, narrow))


def test_flags_without_bf16_need_no_measurement(monkeypatch, tmp_path):
    says(monkeypatch, tmp_path, "flags : fpu avx2")
    monkeypatch.setattr(precision, "_seconds", lambda: pytest.fail("nothing is to be measured"))
    assert precision.choose_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("flags", ["flags : fpu avx2 avx512_bf16", "Features : fp asimd bf16", "flags : amx_bf16"])
@pytest.mark.parametrize(("seconds", "chosen"), [((1.9, 1.0), "bf16"), ((1.0, 1.7), "fp32"), ((1.1, 1.0), "fp32")])
def test_bf16_is_taken_where_the_processor_has_it_and_is_faster_in_it(monkeypatch, tmp_path, flags, seconds, chosen):
    says(monkeypatch, tmp_path, flags)
    measures(monkeypatch, *seconds)
    assert precision.choose_precision("auto", CPU) == chosen


def test_the_answer_is_kept_for_a_processor_and_its_flags(monkeypatch, tmp_path):
    one, other = "model name : A\nflags : avx512_bf16", "model name : A\nflags : avx512_bf16 amx_bf16"
    for text, narrow, chosen in [(one, 9.0, "fp32"), (other, 0.1, "bf16"), (one, 0.1, "fp32")]:
        says(monkeypatch, tmp_path, text)
        measures(monkeypatch, 1.0, narrow)
        precision._measured_faster.cache_clear()  # as another process has it
        assert precision.choose_precision("auto", CPU) == chosen
    assert precision.processor_name() == "A"


@pytest.mark.parametrize("there", [None, "no json", "[1, 2]"])
def test_a_processor_without_flags_is_measured_once(monkeypatch, tmp_path, there):
    monkeypatch.setattr(precision, "FLAGS", tmp_path / "nowhere")
    if there is not None:
        (tmp_path / "forwardonly").mkdir()
        (tmp_path / "forwardonly" / "bf16.json").write_text(there)
    measures(monkeypatch, 2.0, 1.0)
    assert precision.choose_precision("auto", CPU) == "bf16"
    measures(monkeypatch, 2.0, 9.0)  # busy now: what was chosen stays
    precision._measured_faster.cache_clear()
    assert precision.choose_precision("auto", CPU) == "bf16"
    assert list(json.loads((tmp_path / "forwardonly" / "bf16.json").read_text()).values()) == [True]


def test_the_measurement_takes_a_product_in_each():
    wide, narrow = precision._seconds()
    assert 0 < wide < 60 and 0 < narrow < 60
