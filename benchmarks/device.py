"""Memory, code and instructions of training steps in C on an emulated Cortex-M4, beside backprop by the same generator.

    python benchmarks/device.py [--net NAME ...] [--new-class] [--out FILE.json]

Needs arm-none-eabi-gcc with newlib and qemu-system-arm (Debian: gcc-arm-none-eabi, libnewlib-arm-none-eabi,
qemu-system-arm). Static memory is what the linker lays out, stack is painted and searched, code is what the linker
keeps of the step and of the C library, without the board's start and this measurement; instructions are counted by qemu
(`-icount`). Weights are the initial ones; examples are random. With `--new-class`, a class is added from ten examples
to the same nets under `hyperspherical` without auxiliary convolution.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import forwardonly as fo
from forwardonly.export import Precision, export_c
from forwardonly.network.build import assemble

HERE = Path(__file__).parent / "device"
TOOLS = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi, libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
CORE = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
BUILD = ("-std=c99", "-Os", "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra", "-Werror")
LINK = ("-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs", "-Wl,--gc-sections")


@dataclass(frozen=True)
class Net:
    """A network to measure."""

    body: fo.bodies.Body | Callable[[], list[fo.bodies.Layer]]
    """A body, or what makes the layers."""
    shape: tuple[int, int, int]
    rule: str
    options: dict[str, Any] = field(default_factory=dict)
    classes: int = 10


def plain_cnn() -> list[fo.bodies.Layer]:
    """Four convolutions without norms."""
    torch.manual_seed(0)
    layers = []
    for fan_in, fan_out, pool in ((1, 8, True), (8, 16, True), (16, 24, False), (24, 24, True)):
        parts = [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
        layers.append(fo.bodies.Layer(nn.Sequential(*parts)))
    return layers


NETS = {
    "digits-mlp": Net(fo.bodies.MLP(hidden=(64, 64, 64, 64)), (1, 8, 8), "hyperspherical"),
    "mnist-cnn": Net(plain_cnn, (1, 28, 28), "projection", {"features": 100}),
    "keyword-1d": Net(
        fo.bodies.Separable(channels=(32, 48, 48, 48), pools=2), (40, 1, 49), "projection", {"features": 64}, 12
    ),
    "colour-depthwise": Net(
        fo.bodies.Separable(channels=(16, 32, 32, 64), pools=3), (3, 32, 32), "projection", {"features": 64}
    ),
}


ARMS: tuple[tuple[str, str | None, Precision], ...] = (
    ("float32", None, "float32"),
    ("int8", None, "int8"),
    ("backprop-float32", "backprop", "float32"),
)
"""Name, rule (None: the net's own) and precision of each arm; backprop keeps the activations of all layers."""

ACTIVATIONS = "activations_of_one_block"
SPARE = 2  # classes that are added: one is counted, one shows how much stack it takes


def missing_tools() -> str | None:
    """What has to be installed before anything can be measured."""
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    return f"not installed (Debian packages): {', '.join(lacking)}" if lacking else None


def measure(net: Net, rule: str, precision: Precision, spare: int = 0) -> dict[str, int]:
    """Figures of one net under one rule: bytes and instructions; with room for classes, also those of adding one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, *net.shape), dtype=torch.uint8, generator=generator)
    own = net.options if rule == net.rule else {"aux_channels": 0} if rule == "hyperspherical" else {}
    made = fo.rules.make(rule, classes=net.classes, **own)
    if isinstance(net.body, fo.bodies.Body):
        network = fo.build(net.body, net.shape, rule=made)
    else:
        network = assemble(net.body(), net.shape, made)
    network.prepare.fit(images)
    if spare:
        fo.summarise(network, (images, torch.arange(len(images)) % net.classes))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {"optimiser": "sgd", "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0, "clip": None}
        export_c(network, folder, precision=precision, spare_classes=spare, **given)
        header = (folder / "training_step.h").read_text(encoding="utf-8")
        table = re.findall(r"^ \* +([\d,]+)  (.+)$", header, flags=re.MULTILINE)
        found = {what.partition(";")[0].replace(" ", "_"): int(size.replace(",", "")) for size, what in table}
        constants = re.search(r"constants take ([\d,]+) bytes more", header)
        if constants:
            found["constants"] = int(constants[1].replace(",", ""))
        return {**found, **run(folder)}


def run(folder: Path) -> dict[str, int]:
    """Builds the step of a folder for the board, and measures it in the emulator."""
    image = built(folder, HERE / "measure.c")
    text, data, bss = map(int, command(["arm-none-eabi-size", image]).splitlines()[1].split()[:3])
    others = [linked(image.with_suffix(".map"), f"{name}.o") for name in ("measure", "startup")]
    said = emulated(image)
    figures = {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", said, flags=re.MULTILINE)}
    if not 3_000_000 <= figures.pop("known") < 3_001_000:
        raise ValueError("The emulator does not count instructions: three million were not seen as such.")
    if figures.pop("added", SPARE) != SPARE:
        raise ValueError("fo_add_class refused the examples.")
    sizes = {
        "code_bytes": text - sum(other[".text"] + other[".rodata"] for other in others),
        "static_bytes": data + bss - sum(other[".data"] + other[".bss"] for other in others),
    }
    if "add_class" in figures:  # fo_learn has refused labels of classes that were not there yet: its count says nothing
        return {
            **sizes,
            "stack_bytes": figures["stack_add_class"],
            "instructions_add_class": figures["add_class"],
        }
    return {
        **sizes,
        "stack_bytes": figures["stack_learn"],
        "instructions_learn": figures["learn"],
        "instructions_predict": figures["predict"],
    }


def built(folder: Path, program: Path) -> Path:
    """The image of a program and the training step of a folder for the board; the linker's map is beside it."""
    sources = [folder / "training_step.c", program, HERE / "startup.c"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    for source, made in zip(sources, objects, strict=True):
        command(["arm-none-eabi-gcc", *CORE, *BUILD, "-I", folder, "-c", source, "-o", made])
    image = folder / "board.elf"
    linker = ["-T", HERE / "board.ld", f"-Wl,-Map={image.with_suffix('.map')}"]
    command(["arm-none-eabi-gcc", *CORE, *LINK, *linker, *objects, "-lm", "-o", image])
    return image


def emulated(image: Path) -> str:
    """What an image prints on the emulated board, where an instruction takes a nanosecond."""
    board = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native"]
    return command([*board, "-icount", "shift=0", "-kernel", image], timeout=600)


def linked(path: Path, name: str) -> dict[str, int]:
    """Bytes that the linker took from one object, by kind of section."""
    sizes = dict.fromkeys((".text", ".rodata", ".data", ".bss"), 0)
    kept = path.read_text(encoding="utf-8").partition("Linker script and memory map")[2]
    for section, size in re.findall(rf"^ \.(\w+)[\w.]*\s+0x\w+\s+(0x\w+) \S*{re.escape(name)}$", kept, re.MULTILINE):
        section = "." + {"vectors": "text"}.get(section, section)
        if section in sizes:
            sizes[section] += int(size, 16)
    return sizes


def command(words: list[Any], timeout: float = 120) -> str:
    """What a command prints, on either stream.

    Raises:
        ValueError: it fails.
    """
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run([str(word) for word in words], text=True, timeout=timeout, **both)
    if done.returncode:
        raise ValueError(f"{words[0]} fails: {done.stdout.strip()}")
    return done.stdout


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--net", nargs="+", choices=NETS, default=list(NETS))
    options.add_argument("--new-class", action="store_true", help="measure fo_add_class, no training steps")
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    if lacking := missing_tools():
        sys.exit(lacking)
    measured = ARMS if not chosen.new_class else (("new-class", "hyperspherical", "float32"),)
    arms: dict[str, dict[str, int]] = {}
    for name in chosen.net:
        net = NETS[name]
        for arm, rule, precision in measured:
            arms[f"{name}/{arm}"] = measure(net, rule or net.rule, precision, SPARE if chosen.new_class else 0)
            print(f"{name} {arm}: {arms[f'{name}/{arm}']}", file=sys.stderr)
    ratios = {
        f"{name}/{what}": round(arms[f"{name}/float32"][key] / arms[f"{name}/backprop-float32"][key], 4)
        for name in (() if chosen.new_class else chosen.net)
        for what, key in (
            ("memory", "static_bytes"),
            ("activations", ACTIVATIONS),
            ("instructions", "instructions_learn"),
        )
    }
    core = {"emulator": "qemu mps2-an386 (Cortex-M4)", "compiler": " ".join((*CORE, *BUILD[:2]))}
    command = f"python benchmarks/device.py {'--new-class ' if chosen.new_class else ''}--out FILE"
    line = {"kind": "device", "command": command, "options": core}
    content = json.dumps({**line, "ratios": ratios, "arms": arms})
    if chosen.out:
        chosen.out.write_text(content + "\n", encoding="utf-8")
    else:
        print(content)


if __name__ == "__main__":
    main()
