"""Write the sample that ships with wnlib: the first images of each class, as lossless PNG sheets.

    python tools/make_sample.py

needs the full CIFAR-10 once. It prints the md5 sums that wnlib/data.py checks the sample against.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wnlib.data import load_cifar10

COLUMNS = 40


def main() -> None:
    data = load_cifar10(full=True)
    folder = Path(__file__).parent.parent / "wnlib" / "sample"
    folder.mkdir(exist_ok=True)
    for part, count in (("train", 200), ("test", 100)):
        images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        index = torch.cat([(labels == c).nonzero()[:count, 0] for c in range(10)]).sort().values
        tiles, labels = images[index].numpy(), labels[index].numpy().astype(np.uint8)
        table = np.concatenate([labels[:, None], tiles.reshape(len(tiles), -1)], axis=1)
        rows = len(tiles) // COLUMNS
        sheet = tiles.reshape(rows, COLUMNS, 3, 32, 32).transpose(0, 3, 1, 4, 2)
        image = Image.fromarray(sheet.reshape(rows * 32, COLUMNS * 32, 3))
        image.save(folder / f"{part}.png", optimize=True)
        (folder / f"{part}.txt").write_text("".join(map(str, labels)) + "\n")
        print(f'    "{part}": "{hashlib.md5(table.tobytes()).hexdigest()}",')


if __name__ == "__main__":
    main()
