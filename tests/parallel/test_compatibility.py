"""Compatibility: every pair of features works, or is refused by the table in one sentence."""

import os
import re
import runpy
from itertools import combinations
from pathlib import Path

import pytest
import torch

from forwardonly.data.taking import take
from forwardonly.training import Team, TrainingConfig, compatibility
from forwardonly.training.compatibility import FEATURES, REFUSED, Setting, refusal

CASES = runpy.run_path(str(Path(__file__).with_name("features.py")))
OF_PROCESSES = ("replicas", "stages")
PAIRS = list(combinations(FEATURES, 2))


def setting(features):
    """A setting with these features, a GPU or processes among them, which need not be here for it to be checked."""
    device = torch.device("cuda" if "gpu" in features else "cpu")
    team = Team()
    team.replicas, team.stages = 1 + ("replicas" in features), 1 + ("stages" in features)
    network = CASES["network"](features)
    data = take(CASES["data"](features), network.expected)
    return Setting(TrainingConfig(**CASES["options"](features)), network, device, team, data)


def test_the_table_names_pairs_in_the_order_of_its_features():
    assert set(REFUSED) <= set(PAIRS)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_is_seen_where_it_is_and_nowhere_else(feature):
    assert [name for name, each in FEATURES.items() if each.used(setting({feature}))] == [feature]


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair in REFUSED], ids=" and ".join)
def test_a_pair_of_the_table_is_refused_in_one_sentence(pair):
    sentence = refusal(*pair)
    assert sentence.endswith(".") and "\n" not in sentence and "do not go together: " in sentence
    with pytest.raises(ValueError, match=re.escape(sentence)):
        compatibility.check(setting(pair))  # a config with both says so as soon as it is made


@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if pair not in REFUSED and not {"gpu", *OF_PROCESSES} & set(pair)], ids=" and ".join
)
def test_every_other_pair_works(pair):
    CASES["train"](pair)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="crew.py forks its processes")
@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_every_other_pair_works_in_several_processes(kind, tmp_path, crew):
    """One launch of two processes trains with each feature in turn; together they are tried as replicas x stages."""
    seen = crew(f"pairs-{kind}", tmp_path)
    expected = [name for name in FEATURES if name not in ("gpu", *OF_PROCESSES) and not refused(name, kind)]
    assert seen == dict.fromkeys([*expected, "indexed"], "works")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("feature", [name for name in FEATURES if (name, "gpu") not in REFUSED and name != "gpu"])
def test_every_other_pair_works_on_a_gpu(feature):
    if feature not in OF_PROCESSES:
        CASES["train"]([feature], device="cuda")


def refused(one, other):
    """Whether the table refuses a pair, in either order."""
    return (one, other) in REFUSED or (other, one) in REFUSED
