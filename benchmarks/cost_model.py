"""How long training takes on many processes, from pieces that are measured on one or two.

    python benchmarks/cost_model.py RESULT.json --processes 2 4 8 --link 1.25e9 --latency 5e-5

RESULT.json is what `benchmarks/parallel.py` wrote; without one, the pieces in `results/timings.jsonl` are taken. The
table that is printed holds for as many machines of one core each as there are processes, with links of so many bytes a
second between neighbours; `docs/scaling.md` explains it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lines import Results

from forwardonly.training.strategies.pipeline import balance


@dataclass(frozen=True)
class Link:
    """A connection of two processes; `cpu_per_byte` is what each end's cores spend on a byte that they send or get."""

    bytes_per_second: float
    latency: float = 0.0
    cpu_per_byte: float = 0.0

    def seconds(self, size: float) -> float:
        return self.latency + size / self.bytes_per_second


@dataclass(frozen=True)
class Work:
    """A training step in pieces.

    Args:
        batch: images of a global batch.
        blocks: seconds of each block's step on one core, by the number of images in it.
        prepare: seconds in which the first process prepares a global batch.
        passed: bytes behind each block, of a global batch; the last block passes on nothing.
        gradient: bytes of each block's gradient.
    """

    batch: int
    blocks: Mapping[int, Sequence[float]]
    prepare: float
    passed: Sequence[float]
    gradient: Sequence[float]

    @classmethod
    def of(cls, pieces: Mapping[str, Any]) -> Self:
        """The work that `benchmarks/parallel.py` has measured."""
        blocks = {int(images): seconds for images, seconds in pieces["blocks"].items()}
        return cls(pieces["batch"], blocks, pieces["prepare"], pieces["passed"], pieces["gradient"])

    def at(self, images: float) -> list[float]:
        """Seconds of each block's step on so many images, in proportion from the nearest number that was measured."""
        nearest = min(self.blocks, key=lambda measured: abs(measured - images))
        return [seconds * images / nearest for seconds in self.blocks[nearest]]


def alone(work: Work, steps: int) -> float:
    """Seconds of so many steps in one process."""
    return steps * (work.prepare + sum(work.at(work.batch)))


def layers(work: Work, link: Link, processes: int, steps: int, cores: float = float("inf")) -> float:
    """Seconds of so many steps of the layer pipeline.

    The first batch passes through all stages, and each one after it comes out as much later as the slowest stage needs,
    or the slowest link, or all cores together.
    """
    blocks = work.at(work.batch)
    ways = balance(blocks, processes)
    sent = [work.passed[way.stop - 1] for way in ways[:-1]]
    stages = [sum(blocks[way]) for way in ways]
    stages[0] += work.prepare
    for k, size in enumerate(sent):
        stages[k] += size * link.cpu_per_byte
        stages[k + 1] += size * link.cpu_per_byte
    links = [link.seconds(size) for size in sent]
    slowest = max(*stages, *links, sum(stages) / cores) if processes > 1 else stages[0]
    return sum(stages) + sum(links) + (steps - 1) * slowest


def data(work: Work, link: Link, processes: int, steps: int, cores: float = float("inf")) -> float:
    """Seconds of so many steps where processes share each batch.

    A ring adds up gradients: each process sends 2 (P - 1) / P of their bytes, in 2 (P - 1) messages. That goes on while
    the next block computes, and what is longer than the block is waited for.
    """
    crowd = max(1.0, processes / cores)
    blocks = [seconds * crowd for seconds in work.at(work.batch / processes)]
    if processes == 1:
        return steps * (work.prepare + sum(blocks))
    share = 2 * (processes - 1) / processes
    adding = [2 * (processes - 1) * link.latency + share * size / link.bytes_per_second for size in work.gradient]
    waits = [max(0.0, add - cover) for add, cover in zip(adding, [*blocks[1:], 0.0], strict=True)]
    copying = crowd * share * sum(work.gradient) * 2 * link.cpu_per_byte  # each byte is sent and another is received
    return steps * (crowd * work.prepare / processes + sum(blocks) + sum(waits) + copying)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", help="what benchmarks/parallel.py wrote")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--link", type=float, default=1.25e9, help="bytes a second; the default is 10 Gbit/s")
    parser.add_argument("--latency", type=float, default=5e-5, help="seconds")
    parser.add_argument("--steps", type=int, default=390, help="steps of an epoch")
    arguments = parser.parse_args()
    if arguments.result is None:
        work = Work.of(Results().timing("parallel/two-processes")["arms"]["pieces"])
    else:
        work = Work.of(json.loads(arguments.result.read_text())["pieces"])
    link = Link(arguments.link, arguments.latency)
    one = alone(work, arguments.steps)
    print("processes  layers   data   times as fast as one")
    for processes in arguments.processes:
        fits = processes <= len(work.gradient)
        piped = f"{one / layers(work, link, processes, arguments.steps):6.2f}" if fits else "     -"
        print(f"{processes:9}  {piped} {one / data(work, link, processes, arguments.steps):6.2f}")


if __name__ == "__main__":
    main()
