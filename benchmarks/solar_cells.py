"""Lays out photographs of solar cells as a folder of images, for `tuning.py`: what ImageNet has nothing of.

    pip download --no-deps elpv-dataset && unzip elpv_dataset-*.whl
    python benchmarks/solar_cells.py elpv_dataset/data FOLDER

The cells are photographed by their own glow (Deitsch et al. 2019, arXiv 1807.02894; CC BY-NC-SA 4.0). Those that the
experts were sure of are taken, functional or defective; 30 % of each are test images. Pictures become 128 pixels wide.
"""

import random
import sys
from pathlib import Path

from PIL import Image


def main(source: Path, folder: Path) -> None:
    """Writes FOLDER/PART/CLASS/IMAGE."""
    rows = [line.split() for line in (source / "labels.csv").read_text().splitlines()]
    sure = [(name, float(defect)) for name, defect, _ in rows if float(defect) in (0.0, 1.0)]
    random.Random(0).shuffle(sure)
    for defect, kind in ((0.0, "functional"), (1.0, "defective")):
        names = [name for name, own in sure if own == defect]
        for index, name in enumerate(names):
            where = folder / ("test" if index < len(names) * 3 // 10 else "train") / kind
            where.mkdir(parents=True, exist_ok=True)
            picture = Image.open(source / name).convert("RGB")
            picture.resize((128, 128), Image.Resampling.BILINEAR, reducing_gap=2).save(where / Path(name).name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
