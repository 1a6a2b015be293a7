"""A network that goes on learning where there is only onnxruntime. Run: python examples/on_device.py"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

BATCH, EPOCHS, RATE = 32, 8, 3e-3


def ship(folder: Path) -> tuple[np.ndarray, ...]:
    """In the workshop: an untrained network, exported with its training step. Returns the data too."""
    import forwardonly as fo
    from forwardonly.export import export_training_step, training_step

    train, _, test = fo.data.load("digits")
    net = fo.mlp(train.shape, [100], rule=fo.rules.Hyperspherical(classes=10))
    net.prepare.fit(train.images)
    step = training_step(net, batch_size=BATCH, optimiser="adamw", learning_rate=RATE)
    export_training_step(net, step, folder, format="onnx")
    return tuple(tensor.numpy() for tensor in (train.images, train.labels, test.images, test.labels))


def learn(folder: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """On the device: numpy and onnxruntime alone. Returns the state after training."""
    session = onnxruntime.InferenceSession(str(folder / "training-step.onnx"))
    names = json.loads((folder / "interface.json").read_text())["state"]
    state, draw = load_file(folder / "state.safetensors"), np.random.default_rng(0)
    for epoch in range(EPOCHS):
        rate = np.array(RATE * (1 - epoch / EPOCHS), np.float32)
        order = draw.permutation(len(labels))
        for start in range(0, len(labels) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            given = {"images": images[chosen], "labels": labels[chosen], "learning_rate": rate}
            losses, *following = session.run(None, {**given, **state})
            state = dict(zip(names, following, strict=True))
        print(f"epoch {epoch + 1}: losses {losses}")
    return state


def main() -> float:
    """Accuracy on test images of a network that onnxruntime has trained from scratch."""
    with tempfile.TemporaryDirectory() as name:
        images, labels, test_images, test_labels = ship(Path(name))
        state = learn(Path(name), images, labels)
        predict = onnxruntime.InferenceSession(str(Path(name) / "prediction.onnx"))
        weights = {each.name: state[each.name] for each in predict.get_inputs() if each.name != "images"}
        scores = predict.run(["scores"], {"images": test_images, **weights})[0]
        return float((scores.argmax(1) == test_labels).mean())


if __name__ == "__main__":
    print(f"test accuracy {100 * main():.1f} %")
