"""Runs of many processes: the scenarios that the tests ask for.

This is a script, not a test: `python crew.py SCENARIO FOLDER` prints its observations as JSON, and the tests check
them. Its processes are those of `forks.py`.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import features
import torch
from forks import Crew, store
from safetensors.torch import load_file
from torch import Tensor, nn

import forwardonly as fo
from forwardonly.system import precision as system
from forwardonly.training.compatibility import FEATURES, REFUSED
from forwardonly.training.distributed import team as team_module
from forwardonly.training.runs import figures

KILLS = int(os.environ.get("FORWARDONLY_KILLS", 20))  # a soak has more
torch.set_num_threads(1)


def pictures() -> fo.data.Images:
    generator = torch.Generator().manual_seed(0)
    return fo.data.Images(
        images=torch.randint(0, 256, (96, 1, 6, 6), dtype=torch.uint8, generator=generator),
        labels=torch.arange(96) % 4,
        classes=("a", "b", "c", "d"),
        name="random",
    )


def built(
    rule: str = "hyperspherical",
    body: Any = None,
    dropout: float = 0.0,
    frozen: Sequence[int] = (),
    readout: Any = "sum",
    rule_options: dict[str, Any] | None = None,
    model: Callable[[], nn.Module] | None = None,
) -> fo.Network:
    """A network of a few hidden layers, some of them frozen; or a model cut into blocks."""
    body = body or fo.bodies.MLP(hidden=(13, 12, 11, 10), dropout=dropout)
    made = fo.rules.make(rule, classes=4, **(rule_options or {}))
    if model is not None:
        torch.manual_seed(3)
        return fo.localize(model(), made, pictures().images[:2])
    network = fo.build(body, pictures().shape, rule=made, seed=3, readout=readout)
    for index in frozen:
        network.row[index].requires_grad_(False)
    return network


class Skipping(nn.Module):
    """Convolutions with batch norm, around some of which a skip leads: its signals hold up to three tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Conv2d(n, 5, 3, 1, 1), nn.BatchNorm2d(5)) for n in (1, 5))
        self.third, self.fourth = nn.Conv2d(5, 5, 3, 1, 1), nn.Conv2d(5, 5, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        active = x > 0
        y = torch.relu(self.third(torch.relu(self.second(x))))
        out: Tensor = self.fourth((x + y) * active)
        return out


def train(team: fo.training.Team, folder: Path, options: dict[str, Any] | None = None, **of_network: Any) -> None:
    """A run on random pictures; with three ranks and more, no count of theirs divides the batch."""
    images, network = pictures(), built(**of_network)
    fixed = {"epochs": 2, "batch_size": 16, "precision": "fp32", "crop": 1, "flip": "random", "seed": 7}
    if team.rank > 0:
        with torch.no_grad():  # the leading process's weights hold for all
            next(network.parameters()).zero_()
    fo.fit(network, images, validation=images, test=images, out=folder, team=team, **{**fixed, **(options or {})})


def difference(folder: Path, other: Path) -> float:
    """Largest difference of two runs' weights, relative to the largest weight of its tensor; 0 is the same bits."""
    one, two = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == two.keys()
    return max(
        0.0 if torch.equal(one[k], two[k]) else float((one[k] - two[k]).abs().max() / one[k].abs().max()) for k in one
    )


def history(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def losses_differ(folder: Path, other: Path) -> float:
    pairs = zip(history(folder), history(other), strict=True)
    return max(abs((x or 0) - (y or 0)) for one, two in pairs for x, y in zip(one["loss"], two["loss"], strict=True))


def same(folder: Path) -> dict[str, Any]:
    """Every way of sharing a run, against one process alone."""
    results: dict[str, Any] = {}
    data: dict[str, Any] = {}
    layers, three, both = {"stages": 2}, {"stages": 3}, {"stages": 2}
    uniform = {"negatives": "uniform", "predict": "goodness"}
    row = fo.bodies.Conv(depth=4, channels=5)
    cases: dict[str, tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]] = {
        "mlp": ({}, [(2, layers), (3, three), (2, data), (3, data), (4, both)]),
        "peers": ({"rule": "cumulative"}, [(3, three), (3, data), (4, both)]),
        "dropout": ({"dropout": 0.3}, [(2, layers), (3, three)]),
        "conv": ({"rule": "projection", "body": row, "options": {"precision": "bf16"}}, [(2, layers), (3, three)]),
        "maps": ({"rule": "projection", "body": row}, [(2, data)]),  # weights lie channels last, sums do not
        "delay": ({"options": {"delay": 0.4}}, [(2, layers), (3, three), (2, data)]),
        "resnet17": ({"body": fo.bodies.ResNet17(width=0.1), "options": {"epochs": 1}}, [(2, layers)]),
        "model": ({"rule": "projection", "model": Skipping}, [(2, layers), (3, three)]),
        "uneven": ({"rule": "ff", "rule_options": uniform, "options": {"clip": 1.0}}, [(3, data)]),
    }
    with store() as shared:
        for case, (options, grids) in cases.items():
            alone = folder / case
            train(fo.training.Team(), alone, **options)
            for world, how in grids:
                name = f"{case}, {how.get('stages', 1)} stages of {world}"
                out = folder / name
                work = partial(train, folder=out, **options)
                crew = Crew(shared, folder, world, work, **how)
                status = crew.wait(100)
                if any(status):
                    results[name] = {"status": status, "said": crew.said()}
                else:
                    results[name] = {"weights": difference(alone, out), "losses": losses_differ(alone, out)}
    return results


def frozen(folder: Path) -> dict[str, Any]:
    """Runs in which some blocks are frozen: what became of each block, and the difference to one process alone."""
    results: dict[str, Any] = {}
    uniform = {"negatives": "uniform", "predict": "goodness"}
    cases: dict[str, dict[str, Any]] = {
        "first": {"frozen": [0], "rule": "projection"},
        "last": {"frozen": [3], "rule": "ff", "rule_options": uniform},
        "a stage": {"frozen": [0, 1], "rule": "cumulative"},
        "norms": {"frozen": [1, 3], "rule": "auxiliary", "body": fo.bodies.Conv(depth=4, channels=5)},
        "fixed": {"frozen": [2], "rule": "spatial", "body": fo.bodies.Conv(depth=4, channels=5)},
    }
    grids: list[tuple[int, dict[str, Any]]] = [(2, {"stages": 2}), (3, {}), (4, {"stages": 2})]
    with store() as shared:
        for case, options in cases.items():
            alone = folder / case
            train(fo.training.Team(), alone, **options)
            fo.save(built(**options), folder / f"{case}, before")
            for world, how in grids:
                name = f"{case}, {how.get('stages', 1)} stages of {world}"
                out = folder / name
                crew = Crew(shared, folder, world, partial(train, folder=out, **options), **how)
                status = crew.wait(100)
                before, after = (load_file(each / "model.safetensors") for each in (folder / f"{case}, before", out))
                moved = {key.split(".")[1] for key in after if not torch.equal(before[key], after[key])}
                results[name] = {
                    "status": status,
                    "said": crew.said(),
                    "frozen": options["frozen"],
                    "moved": sorted(int(index) for index in moved if index.isdigit()),
                    "weights": difference(alone, out),
                }
    return results


def fails(folder: Path, rank: int, **how: Any) -> dict[str, Any]:
    """A run of two processes in one of which nothing can be measured once it has begun to train."""

    def out_of_memory(*given: Any, **named: Any) -> None:
        raise MemoryError("no room for a thousand images")

    def work(team: fo.training.Team) -> None:
        if team.rank == rank:
            team_module.evaluate = out_of_memory  # type: ignore[assignment]
            figures.fit_readout = out_of_memory  # type: ignore[assignment]
        train(team, folder / "broken", readout="range")

    with store() as shared:
        train(fo.training.Team(), folder / "whole")
        status = Crew(shared, folder, 2, work, **how).wait(60)
    return {
        "status": status,
        "history": history(folder / "broken"),
        "result": json.loads((folder / "broken" / "result.json").read_text()),
        "weights": difference(folder / "whole", folder / "broken"),
        "readout": load_file(folder / "broken" / "model.safetensors")["readout.weights"].tolist(),
    }


def measure_otherwise(folder: Path) -> dict[str, Any]:
    """A run of two stages whose processes find another arithmetic faster, beside one process with the leader's."""

    def work(team: fo.training.Team) -> None:
        system.FLAGS = folder / "flags"  # as of a processor that has bf16
        system._measured_faster = lambda flags: team.leads  # type: ignore[assignment]
        train(team, folder / "two", {"precision": "auto"})

    (folder / "flags").write_text("bf16")
    with store() as shared:
        train(fo.training.Team(), folder / "one", {"precision": "bf16"})
        crew = Crew(shared, folder, 2, work, stages=2)
        status = crew.wait(60)
    return {"status": status, "said": crew.said(), "weights": difference(folder / "one", folder / "two")}


def regroup(folder: Path) -> dict[str, Any]:
    """Runs that are stopped in mid-epoch and resumed by another number of processes, each time; and one left alone."""
    alone, data, layers, both = (1, {}), (2, {}), (2, {"stages": 2}), (4, {"stages": 2})
    rows = {"stages": [alone, layers, alone, (3, {"stages": 3})], "all": [data, alone, both, layers, (3, {})]}
    found = {}

    def stop(at: int, event: fo.training.StepEvent) -> None:
        if event.step == at and event.row is None:
            os._exit(3)

    with store() as shared:
        for name, groups in rows.items():
            whole, out = folder / f"{name}-whole", folder / name
            train(fo.training.Team(), whole, {"epochs": 3}, rule="cumulative")
            for number, (world, how) in enumerate(groups):
                last = number + 1 == len(groups)
                options = {"epochs": 3, "checkpoint_every": 2, "resume": number > 0}
                options["progress"] = None if last else partial(stop, 4 * number + 3)
                crew = Crew(
                    shared, folder, world, partial(train, folder=out, options=options, rule="cumulative"), **how
                )
                status = crew.wait(60)
                # Who stops first takes along what it has not sent yet, so that another may find it gone.
                lost = ["died or hangs" in note or "lost touch" in note for note in crew.said()]
                ends = [2 if gone else 0 if last else 3 for gone in lost]
                assert status == ends and not (last and any(lost)) and not all(lost), (status, crew.said())
            found[name] = {"weights": difference(whole, out), "losses": losses_differ(whole, out)}
    return found


def kill(folder: Path, **how: Any) -> dict[str, Any]:
    """Runs that are killed at random moments, twenty in all, and go on each time from where their folder stands.

    One random process is killed, then the others, as torchrun does. A run that finishes between two kills is compared
    with one that was left alone, and another begins.
    """
    world = how.pop("world")
    own: dict[str, Any] = {"dropout": 0.2, "rule": "cumulative"}
    if how.get("stages", 1) == 1 and world > 1:
        own["dropout"] = 0.0
    chance = random.Random(0)
    kills, at, runs = 0, [], 0
    with store() as shared:

        def crew(out: Path) -> Crew:
            options = {"epochs": 6, "checkpoint_every": 4, "resume": (out / "config.json").exists()}
            return Crew(shared, folder, world, lambda team: train(team, out, options, **own), **how)

        started = time.monotonic()
        assert crew(folder / "whole").wait(60) == [0] * world
        life = time.monotonic() - started
        differences = []
        while kills < KILLS or runs == 0:
            out = folder / f"run{runs}"
            while not (out / "result.json").exists():
                going = crew(out)
                if kills < KILLS:
                    time.sleep(chance.uniform(0.05, 1.0) * life)
                    going.kill(chance.randrange(world))
                    for rank in range(world):
                        going.kill(rank)
                    status = going.wait(10)
                    kills += -signal.SIGKILL in status
                    at.append(len(history(out)) if (out / "metrics.jsonl").exists() else 0)
                else:
                    assert going.wait(60) == [0] * world, going.said()
            differences.append([difference(folder / "whole", out), history(folder / "whole") == history(out)])
            runs += 1
    return {"kills": kills, "epochs": at, "runs": differences}


def lose(folder: Path, **how: Any) -> dict[str, Any]:
    """What the others say of a process that dies, and of one that hangs."""
    said = {}
    with store() as shared:
        for name, number in (("dies", signal.SIGKILL), ("hangs", signal.SIGSTOP)):
            out = folder / name
            crew = Crew(shared, folder, 3, partial(train, folder=out, options={"epochs": 10_000}), timeout=6.0, **how)
            patience = time.monotonic() + 60
            while not (out / "checkpoint").exists():
                assert time.monotonic() < patience, crew.said()
                time.sleep(0.05)
            crew.kill(1, number)
            started = time.monotonic()
            status = crew.wait(60, [0, 2])
            seconds = time.monotonic() - started
            crew.kill(1)
            crew.wait(5)
            said[name] = {"status": status, "seconds": seconds, "said": crew.said()}
    return said


def pairs(folder: Path, feature: str, **how: Any) -> dict[str, str]:
    """What becomes of every other feature of `training.compatibility` in two processes."""
    names = [name for name in FEATURES if name not in ("gpu", "replicas", "stages")]
    allowed = [name for name in names if not {(name, feature), (feature, name)} & set(REFUSED)]

    def work(team: fo.training.Team) -> None:
        seen = {}
        for name in (*allowed, "indexed"):
            features.train([name], team)
            seen[name] = "works"
        if team.leads:
            (folder / "seen.json").write_text(json.dumps(seen))

    with store() as shared:
        crew = Crew(shared, folder, 2, work, **how)
        assert crew.wait(200) == [0, 0], crew.said()
    return json.loads((folder / "seen.json").read_text())


SCENARIOS: dict[str, Callable[[Path], Any]] = {
    "same": same,
    "kill-alone": lambda folder: kill(folder, world=1),
    "kill-data": lambda folder: kill(folder, world=2),
    "kill-layers": lambda folder: kill(folder, world=2, stages=2),
    "kill-both": lambda folder: kill(folder, world=4, stages=2),
    "frozen": frozen,
    "regroup": regroup,
    "measure-otherwise": measure_otherwise,
    "fails-data-0": lambda folder: fails(folder, 0),
    "fails-data-1": lambda folder: fails(folder, 1),
    "fails-layers-1": lambda folder: fails(folder, 1, stages=2),
    "lose-data": lose,
    "pairs-replicas": lambda folder: pairs(folder, "replicas"),
    "pairs-stages": lambda folder: pairs(folder, "stages", stages=2),
    "lose-layers": lambda folder: lose(folder, stages=3),
}

if __name__ == "__main__":
    place = Path(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    train(fo.training.Team(), place / "warm-up")  # so that no fork has to import what training needs
    print(json.dumps(SCENARIOS[sys.argv[1]](place)))
