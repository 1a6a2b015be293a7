"""Makes docs/draw, the files of the page "Draw digits": a network with its training step, and onnxruntime-web.

Run: python docs/build_draw.py [FOLDER]. It needs npm and its registry once (33 MB); files of onnxruntime-web that are
in the folder already are kept.
"""

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import forwardonly as fo
from forwardonly.export import export_training_step, training_step

PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page loads of the package: its program, and the operators in WebAssembly (14 MB)."""


def write_network(folder: Path) -> None:
    """A small network that has learned scikit-learn's digits, with a step on one drawing by plain SGD."""
    train, _, _ = fo.data.load("digits")
    net = fo.mlp(train.shape, [100, 100, 100], rule=fo.rules.Hyperspherical(classes=10))
    fo.fit(net, train, epochs=10, precision="fp32")
    step = training_step(net, batch_size=1, optimiser="sgd", momentum=0.0, weight_decay=0.0)
    export_training_step(net, step, folder, format="onnx")


def fetch_runtime(folder: Path) -> None:
    """The files of onnxruntime-web, from npm's registry."""
    if all((folder / name).exists() for name in RUNTIME):
        return
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=place, check=True, stdout=subprocess.DEVNULL)
        (packed,) = Path(place).glob("*.tgz")
        if base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode() != SHA512:
            sys.exit(f"npm gave another {PACKAGE} than the one whose SHA-512 stands in {Path(__file__).name}.")
        with tarfile.open(packed) as files:
            for name in RUNTIME:
                found = files.extractfile(f"package/dist/{name}")
                assert found is not None
                (folder / name).write_bytes(found.read())


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "draw"
    folder.mkdir(parents=True, exist_ok=True)
    fetch_runtime(folder)
    write_network(folder)
