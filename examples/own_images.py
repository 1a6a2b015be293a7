"""From a folder of image files to predictions. Run: python examples/own_images.py"""

import random
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

import forwardonly as fo


def draw_shapes(folder: Path, count: int = 80) -> None:
    """A directory each for discs and squares, in random colours and places."""
    draw = random.Random(0)
    for kind in ("disc", "square"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (40, 30), (draw.randrange(60), draw.randrange(60), draw.randrange(60)))
            left, top, side = draw.randrange(20), draw.randrange(12), draw.randrange(10, 16)
            pen = ImageDraw.Draw(image)
            shape = pen.ellipse if kind == "disc" else pen.rectangle
            shape((left, top, left + side, top + side), fill=(200, draw.randrange(256), 200))
            image.save(folder / kind / f"{number:03}.png")


def main() -> float:
    """Accuracy on the fifth of the images that was kept for testing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shapes"
        draw_shapes(folder)
        train, _, test = fo.data.load(folder, image_size=16)
        net = fo.build(fo.bodies.CNN(width=0.2), train.shape, rule=fo.rules.Projection(classes=2))
        fo.fit(net, train, epochs=12, batch_size=16, learning_rate=3e-3, flip="random")
        some = fo.data.list_images(folder / "disc")[:3]
        pixels, changes = fo.data.read_adapted(some, (3, 16, 16))
        for file, index, change in zip(some, net.predict(pixels).tolist(), changes, strict=True):
            print(f"{file.name}: {train.classes[index]} ({change})")
        return fo.evaluate(net, test).accuracy


if __name__ == "__main__":
    print(f"test accuracy {100 * main():.1f} %")
