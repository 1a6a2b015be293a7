"""A model larger than memory is tuned: its blocks wait in files, with their optimiser's state.

    python benchmarks/large_model.py --layers 16 --budget 2900MiB

Builds a random Llama-like model with a frozen embedding, cuts it behind each layer, and takes steps on random tokens.
Prints the seconds of each step and the peak memory of the process, which is the system's count.
"""

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path

import torch
from models import declare_torchvision_operators

import forwardonly as fo
from forwardonly.system import mapped
from forwardonly.system.memory import peak_memory_bytes

WORDS, WIDTH, INSIDE = 32_000, 2048, 8192


def main() -> None:
    """Builds, cuts, trains and prints."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--layers", type=int, default=16)
    options.add_argument("--budget", default="2900MiB")
    options.add_argument("--steps", type=int, default=2)
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--length", type=int, default=128)
    options.add_argument("--optimiser", default="adamw")
    options.add_argument("--folder", type=Path, default=Path.cwd(), help="for the files of the blocks")
    given = options.parse_args()
    library = declare_torchvision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=INSIDE,
        num_hidden_layers=given.layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    tokens = torch.randint(0, WORDS, (given.batch, given.length + 1), generator=torch.Generator().manual_seed(0))
    rule = fo.rules.Projection(classes=WORDS, targets="token")
    started = time.perf_counter()
    with mapped.Building(mapped.Arena(given.folder)):
        model = LlamaForCausalLM(config)
        model.get_input_embeddings().weight.requires_grad_(False)  # it is the head too
        walls = [*(f"model.layers.{index}" for index in range(given.layers - 1)), "model.norm"]
        net = fo.localize(model, rule, tokens[:2, :8], blocks=walls, heads="own", readout="last")
    print(f"built in {time.perf_counter() - started:.0f} s, peak {_peak():.2f} GiB", file=sys.stderr)
    times = [time.perf_counter()]
    fo.fit(
        net,
        tokens.repeat(given.steps, 1),
        batch_size=given.batch,
        epochs=1,
        steps=given.steps,
        optimiser=given.optimiser,
        memory_budget=given.budget,
        progress=lambda event: times.append(time.perf_counter()) if event.row is None else None,
    )
    line = {
        "kind": "large-model",
        "command": " ".join(["python", "benchmarks/large_model.py", *sys.argv[1:]]),
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__, "cores": os.cpu_count()},
        "options": {
            **{name: getattr(given, name) for name in ("layers", "budget", "batch", "length", "optimiser")},
            "weights": sum(weight.numel() for weight in model.parameters()),
            "blocks": len(net.row),
            "largest_block": max(sum(weight.numel() for weight in block.body.parameters()) for block in net.row),
        },
        "arms": {
            "local": {
                "seconds_of_steps": [after - before for before, after in itertools.pairwise(times[1:])],
                "seconds_to_first": times[1] - times[0],
                "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
            }
        },
    }
    print(json.dumps(line))
    del library


def _peak() -> float:
    return peak_memory_bytes(torch.device("cpu")) / 2**30


if __name__ == "__main__":
    main()
