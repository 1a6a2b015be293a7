"""`forwardonly tune` on text files, with a small language model and its tokenizer in a folder."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.network import models
from forwardonly.system import mapped

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # other libraries' own warnings
WORDS = "the block learns from its own loss and no gradient crosses a wall so memory is flat in depth"


@pytest.fixture(scope="module")
def folder(llama, tmp_path_factory):
    return llama(tmp_path_factory.mktemp("model"), WORDS, width=32)


@pytest.fixture
def notes(tmp_path):
    """A folder of notes: sentences that go round, one to a file, and what is no text."""
    path = tmp_path / "notes"
    (path / "older").mkdir(parents=True)
    words = WORDS.split()
    for index in range(12):
        turned = words[index:] + words[:index]
        (path / ("older" if index % 2 else ".") / f"{index}.md").write_text(" ".join(turned * 3))
    (path / "picture.png").write_bytes(b"\x89PNG\0\xff")
    (path / ".hidden.txt").write_text("nothing to learn")
    return path


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(" ".join(reversed(WORDS.split() * 8)))
    return path


def words_of(folder, notes, out, *more):
    words = ["tune", "--model", f"hf:{folder}", "--data", str(notes), "--length", "8", "--precision", "fp32"]
    return [*words, "--learning-rate", "0.01", "--body-rate", "0.5", "--out", str(out), *more]


def test_a_language_model_learns_notes_and_tells_what_it_forgets(folder, notes, prose, tmp_path, capsys):
    words = words_of(folder, notes, tmp_path / "run", "--validation", "10", "--other", str(prose), "--epochs", "6")
    assert cli.main([*words, "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    before, rows = result["before"], result["measured"]
    assert rows[-1]["validation_cross_entropy"] < before["validation_cross_entropy"] - 0.2
    assert [row["epoch"] for row in rows] == list(range(6))
    assert all(row["other_cross_entropy"] > 0 for row in [before, *rows])
    net = fo.load(tmp_path / "run")
    assert net.readout.kind == "last"
    assert all(block.rule.own_head is not None for block in net.row)


def test_the_untouched_model_is_measured_as_it_is(folder, notes, prose, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cli.main([*words_of(folder, notes, tmp_path / "run", "--other", str(prose), "--epochs", "1"), "--json"])
    before = json.loads(capsys.readouterr().out)["before"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = fo.data.texts(prose, tokenizer.encode, length=8, end=tokenizer.eos_token_id).train
    with torch.no_grad():
        logits = model(rows.images).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows.labels.flatten())
    assert before["other_cross_entropy"] == pytest.approx(float(expected), rel=1e-5)


def test_a_killed_tuning_goes_on_to_the_same_bits(folder, notes, prose, tmp_path):
    more = ["--other", str(prose), "--epochs", "3", "--lr-schedule", "constant", "--heads-first", "0"]
    assert cli.main(words_of(folder, notes, tmp_path / "whole", *more)) == 0
    assert cli.main([*words_of(folder, notes, tmp_path / "short", *more), "--epochs", "2"]) == 0
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "short"), "--epochs", "3"]) == 0
    whole, short = (fo.load(tmp_path / name).state_dict() for name in ("whole", "short"))
    assert all(torch.equal(whole[name], short[name]) for name in whole)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "short")]
    assert results[0]["before"] == results[1]["before"]


MOMENTS = ("in-an-epoch", "half-a-checkpoint", "final-evaluation")
TESTS = Path(__file__).parent
DYING = f"""
import runpy
library = runpy.run_path({str(TESTS.parent / "benchmarks" / "models.py")!r})["declare_torchvision_operators"]()
runpy.run_path({str(TESTS / "parallel" / "moments.py")!r}, run_name="__main__")
"""


def started(words, moments=(), start=0):
    """The command in a process of its own, which dies by SIGKILL at the moment of this start."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FORWARDONLY_START": str(start), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", DYING, ",".join(moments), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_tuning_whose_blocks_wait_in_files_is_killed_and_goes_on_to_the_same_bits(llama, notes, prose, tmp_path):
    model = llama(tmp_path / "model", WORDS, width=448)
    words = words_of(model, notes, tmp_path / "whole", "--blocks", "4", "--epochs", "2", "--checkpoint-every", "2")
    words += ["--other", str(prose), "--batch-size", "8", "--validation", "10"]
    refused = started([*words, "--memory-budget", "1MiB"]).stderr
    found = re.search(r"smallest memory budget that it fits in is (\d+)MiB", refused)
    assert found is not None, refused
    least = int(found[1])
    budget = ["--memory-budget", f"{least + 30}MiB"]  # all four blocks would take some 100 more
    done = started([*words, *budget, "--json"])
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert whole["plan"]["offload"] and whole["peak_memory_bytes"] < (least + 30) * 2**20
    words[words.index(str(tmp_path / "whole"))] = str(tmp_path / "killed")
    for start in range(len(MOMENTS) + 1):
        resume = ["--resume"] if (tmp_path / "killed" / "config.json").exists() else []
        done = started([*words, *budget, *resume, "--json"], MOMENTS, start)
        assert done.returncode == (-9 if start < len(MOMENTS) else 0), done.stderr
    killed = json.loads(done.stdout)
    assert killed["plan"]["offload"]
    assert killed["validation_cross_entropy"] == whole["validation_cross_entropy"]
    weights, expected = (fo.load(tmp_path / name).state_dict() for name in ("killed", "whole"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert killed["before"] == whole["before"] and killed["measured"] == whole["measured"]
    assert not list((tmp_path / "killed").rglob(".*"))


def test_what_was_tuned_is_tuned_again(folder, notes, tmp_path):
    assert cli.main(words_of(folder, notes, tmp_path / "first", "--epochs", "1")) == 0
    plain = fo.unlocalize(fo.load(tmp_path / "first"))
    plain.save_pretrained(tmp_path / "second")
    shutil.copy(folder / "tokenizer.json", tmp_path / "second")
    shutil.copy(folder / "tokenizer_config.json", tmp_path / "second")
    assert cli.main(words_of(tmp_path / "second", notes, tmp_path / "third", "--epochs", "1")) == 0


def test_bad_input_is_one_sentence(llama, folder, notes, tmp_path, capsys):
    few = llama(tmp_path / "few", "the block", width=32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, few)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*token*"))
    (tmp_path / "short.txt").write_text("the block")
    cases = [
        (words_of(bare, notes, tmp_path / "run"), f"{bare} has no tokenizer"),
        (words_of(few, notes, tmp_path / "run"), "and the model knows 4, from 0 on: it is that of another model"),
        (words_of(folder, tmp_path / "none", tmp_path / "run"), "There is no folder or file"),
        (words_of(folder, tmp_path / "short.txt", tmp_path / "run"), "too few for a row of 9"),
        (words_of(folder, notes, tmp_path / "run", "--rule", "hyperspherical"), "does not learn tokens"),
        (words_of(folder, notes, tmp_path / "run", "--memory-budget", "1MiB"), "the smallest memory budget"),
    ]
    for words, sentence in cases:
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert sentence in said and "Traceback" not in said, said


def test_the_model_of_a_run_is_tuned_further_by_its_name_alone(folder, notes, prose, tmp_path, capsys):
    assert cli.main(words_of(folder, notes, tmp_path / "first", "--epochs", "1")) == 0
    plain = {name: weight.clone() for name, weight in fo.unlocalize(fo.load(tmp_path / "first")).state_dict().items()}
    for before, after in (("first", "second"), ("second", "third")):  # the tokenizer is that of the first model
        words = words_of(folder, notes, tmp_path / after, "--epochs", "1", "--other", str(prose))
        words[2] = str(tmp_path / before)
        assert cli.main([*words, "--learning-rate", "1e-9", "--heads-first", "0"]) == 0
    tuned = fo.unlocalize(fo.load(tmp_path / "third")).state_dict()
    for name, weight in plain.items():
        torch.testing.assert_close(tuned[name], weight, rtol=0, atol=1e-6)
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "third"), "--epochs", "2"]) == 0
    fo.save(fo.load(tmp_path / "first"), tmp_path / "bare")
    words[2] = str(tmp_path / "bare")
    capsys.readouterr()
    assert cli.main(words) == 2
    assert "does not say by which tokenizer" in capsys.readouterr().err


def test_weights_of_bfloat16_are_taken_as_float32(folder, notes, tmp_path):
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    shutil.copytree(folder, half)
    AutoModelForCausalLM.from_pretrained(folder).bfloat16().save_pretrained(half)
    assert cli.main(words_of(half, notes, tmp_path / "run", "--epochs", "1")) == 0
    assert all(weight.dtype == torch.float32 for weight in fo.load(tmp_path / "run").parameters())


def test_another_architecture_that_predicts_words_is_known(folder, notes, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    other = tmp_path / "gpt2"
    shutil.copytree(folder, other)
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 32}
    words = len(set(WORDS.split())) + 2
    GPT2LMHeadModel(GPT2Config(vocab_size=words, **sizes)).save_pretrained(other)
    assert cli.main(words_of(other, notes, tmp_path / "run", "--epochs", "1")) == 0


def _damaged(folder, path, name, content):
    shutil.copytree(folder, path)
    (path / name).write_bytes(content)
    return path


def test_damaged_folders_and_wrong_names_are_one_sentence(folder, notes, tmp_path, capsys):
    from safetensors.torch import save

    config = json.loads((folder / "config.json").read_text())
    bare = json.dumps({name: value for name, value in config.items() if name != "vocab_size"}).encode()
    cut = (folder / "model.safetensors").read_bytes()[:1000]
    strange = save({"strange": torch.zeros(1)}, metadata={"format": "pt"})
    cases = [
        (_damaged(folder, tmp_path / "1", "config.json", b'{"model_type": '), "cannot be read"),
        (_damaged(folder, tmp_path / "2", "config.json", b"\xff\xfe"), "cannot be read"),
        (_damaged(folder, tmp_path / "3", "config.json", bare), "does not say the size"),
        (_damaged(folder, tmp_path / "4", "model.safetensors", cut), "cannot be built"),
        (_damaged(folder, tmp_path / "5", "model.safetensors", strange), "is missing, so it would be random"),
        (_damaged(folder, tmp_path / "6", "tokenizer.json", b"{"), "has no tokenizer"),
        (
            _damaged(folder, tmp_path / "7", "config.json", json.dumps({**config, "intermediate_size": 50}).encode()),
            "do not fit its config.json: 'model.layers.0.mlp.down_proj.weight' of 32 x 50 is of 32 x 64 there",
        ),
        (tmp_path / "none", "has no config.json of a Hugging Face model"),
        (notes, "has no config.json of a Hugging Face model"),
    ]
    for path, sentence in cases:
        assert cli.main(words_of(path, notes, tmp_path / "run")) == 2
        said = capsys.readouterr().err
        assert sentence in said and "Traceback" not in said, said
    words = words_of(folder, notes, tmp_path / "run")
    words[2] = "resnet18"
    assert cli.main(words) == 2
    assert "A model is a module, or a name" in capsys.readouterr().err
    assert cli.main(words_of(folder, notes, tmp_path / "run", "--weights", "some.safetensors")) == 2
    assert "--weights are those of a timm model" in capsys.readouterr().err


def test_the_report_shows_the_losses_and_each_blocks_perplexity(folder, notes, prose, tmp_path, capsys):
    words = words_of(folder, notes, tmp_path / "run", "--validation", "10", "--epochs", "2", "--blocks", "2")
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    page = (tmp_path / "run" / "report.html").read_text()
    for name, row in zip(("untouched", "epoch 1", "epoch 2"), [result["before"], *result["measured"]], strict=True):
        cells = f"{100 * row['validation_accuracy']:.2f} %</td><td>{row['validation_cross_entropy']:.4f}"
        assert f"<td>{name}</td><td>{cells}</td>" in page
    assert f"<td>network</td><td>{result['validation_perplexity']:.4f}</td>" in page
    assert "--other DATA" in page and "--validation N" not in page


def test_within_a_budget_no_part_of_the_weights_file_stays_mapped(llama, tmp_path):
    """A norm's weights, too small for a file of their own, would keep the whole file of weights in memory."""
    model = llama(tmp_path, WORDS, width=448)
    with mapped.Building(mapped.Arena()):
        built = models.build(f"hf:{model}", {})
    gc.collect()
    assert sum(mapped.holds(weight) for weight in built.parameters()) > 20
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists a process's maps")
    assert str(model / "model.safetensors") not in maps.read_text()


def test_nothing_is_held_out_unless_asked_for(folder, notes, tmp_path):
    assert cli.main(words_of(folder, notes, tmp_path / "run", "--epochs", "1")) == 0
    assert "notes" not in json.loads((tmp_path / "run" / "result.json").read_text())


def test_a_run_of_images_is_tuned_again_with_its_own_statistics(walk, tmp_path):
    import numpy as np

    drawn = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "first.npz", x=drawn, y=np.arange(40) % 2)
    np.savez(tmp_path / "second.npz", x=drawn // 2, y=np.arange(40) % 2)
    words = ["tune", "--precision", "fp32", "--epochs", "1", "--batch-size", "8", "--blocks", "2"]
    first = [*words, "--model", "timm:resnet10t", "--weights", "random", "--data", str(tmp_path / "first.npz")]
    first += ["--out", str(tmp_path / "one")]
    assert cli.main(first) == 0
    second = [*words, "--model", str(tmp_path / "one"), "--data", str(tmp_path / "second.npz")]
    assert cli.main([*second, "--out", str(tmp_path / "two")]) == 0
    one, two = (fo.load(tmp_path / name).prepare for name in ("one", "two"))
    assert torch.equal(one.mean, two.mean) and torch.equal(one.std, two.std)
