"""Standard error where it is no terminal: a line at the start, one an epoch, and one every 30 seconds."""

import io
import time

import pytest
from rich.console import Console

import forwardonly as fo
from forwardonly.cli.screen import Screen, duration, sizes
from forwardonly.experiments.batch import Standing
from forwardonly.training import StepEvent, TrainingConfig


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def screen_of(clock, quiet=False):
    screen = Screen(clock=clock)
    screen.console = Console(file=io.StringIO(), quiet=quiet, force_terminal=False, width=80, highlight=False)
    return screen, lambda: screen.console.file.getvalue().splitlines()


def row(epoch):
    return {"epoch": epoch, "loss": [0.5], "seconds": 1.0}


def test_a_long_epoch_says_how_it_goes():
    clock = Clock()
    screen, lines = screen_of(clock)
    with screen.progress("ff on mnist", "60,000 images") as draw:
        assert lines() == [], "a mistake may still end the run in one sentence"
        for step in range(1, 101):
            clock.now += 7.0
            draw(StepEvent(step, 100))
    assert lines()[0] == "ff on mnist: 60,000 images"
    said = lines()[1:]
    assert said[0] == "step 5 of 100, about 11 min left"  # 35 s; 28 of them for 4 steps
    assert said[1] == "step 10 of 100, about 10 min left"
    assert [int(line.split()[1]) for line in said] == list(range(5, 101, 5))
    assert said[-1] == "step 100 of 100, about 0 s left"


def test_what_takes_long_before_the_first_step_is_not_silent(monkeypatch):
    monkeypatch.setattr("forwardonly.cli.screen.SECONDS_OF_SILENCE", 0.0)
    screen, lines = screen_of(Clock())
    with screen.progress("projection on notes", "96 rows") as draw:
        while not lines():
            time.sleep(0.001)
        draw(StepEvent(1, 2))
        draw(StepEvent(2, 2, row(0)))
    assert lines() == ["projection on notes: 96 rows", "epoch 1: loss 0.500, 1.0 s"]


def test_an_epochs_line_counts_as_one():
    clock = Clock()
    screen, lines = screen_of(clock)
    with screen.progress("title") as draw:
        for step in range(1, 9):
            clock.now += 10.0
            draw(StepEvent(step, 8, row(step // 2 - 1) if step % 2 == 0 else None))
    assert lines() == ["title", *(f"epoch {k}: loss 0.500, 1.0 s" for k in (1, 2, 3, 4))]


def test_a_resumed_run_is_not_taken_for_a_fast_one():
    clock = Clock()
    screen, lines = screen_of(clock)
    with screen.progress("title") as draw:
        for step in (901, 902):
            clock.now += 40.0
            draw(StepEvent(step, 1000))
    assert lines()[1:] == ["step 901 of 1,000", "step 902 of 1,000, about 65 min left"]


def test_a_quiet_screen_says_nothing():
    screen, lines = screen_of(Clock(), quiet=True)
    with screen.progress("title", "about") as draw:
        draw(StepEvent(1, 1, row(0)))
    assert lines() == []


def test_many_runs_say_how_they_go():
    clock = Clock()
    screen, lines = screen_of(clock)
    with screen.batch("rules") as draw:
        for runs, share in ((2, 0.2), (2, 0.25), (2, 0.3), (3, 0.31), (3, 0.32)):
            draw(Standing(runs=runs, runs_in_all=10, share=share))
            clock.now += 20.0
    assert lines() == [
        "rules: 10 runs, 2 of them done before",
        "rules: 2 of 10 runs done, about 5 min left",
        "rules: 3 of 10 runs done, about 6 min left",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_sizes_of_a_run(images):
    config = TrainingConfig.resolve(fo.rules.Projection(classes=4), images, {"epochs": 3})
    weights = fo.measure.weights(fo.mlp(images.shape, [1000], rule=fo.rules.Projection(classes=4)))
    assert sizes(images, config, weights) == (
        "80 images of 1 x 6 x 6 in 4 classes, 10 steps of 8 images an epoch, 3 epochs; 37,000 weights in bodies, "
        "4,004 in rules' heads"
    )
    config = TrainingConfig(batch_size=500)
    assert "1 steps of 80 images an epoch, 30 epochs" in sizes(images, config, weights)
    config = TrainingConfig(batch_size=8, steps=60, epochs=3)
    assert "20 steps of 8 images an epoch, 3 epochs" in sizes(images, config, weights)


def test_a_table_of_eighty_columns_breaks_no_word():
    columns = ["", "margin", "prior margin", "attenuation R", "starvation", "separation", "own accuracy"]
    rows = [[f"block {k}", *["-0.00123"] * 5, "100.00 %"] for k in (1, 12)]
    screen, lines = screen_of(Clock())
    assert screen.fits(columns, rows)
    screen.table("free-riding", columns, rows)
    words = [word for column in columns for word in column.split()]
    assert all(word in " ".join(lines()).split() for word in words) and max(map(len, lines())) <= 80
    screen.table("files", ["set", "file"], [["mnist", "/data/" + "x" * 90]], words=2)  # which no line could hold
    assert "".join("".join(lines()[-2:]).split()) == "mnist/data/" + "x" * 90
    names = ["", *(f"longclassname{k}" for k in range(9))]
    assert not screen.fits(names, [[name, *range(9)] for name in names[1:]])
