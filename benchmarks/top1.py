"""Top-1 of a base on a directory of images, at several resolutions, with the 95 % Wilson interval.

`--data DIR` holds CLASS/*.jpg; `--index FILE` is a tab-separated file that maps each folder's name to its ImageNet
index (for the ImageNet sample: its imagenet_index.tsv). The peer of every row is the first row, the usual resolution.
"""

from __future__ import annotations

import time
from pathlib import Path

from common import finish, parser, print_table
from patchd.models.bases import BASES, load_base
from patchd.models.evaluation import top1

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def index_of_classes(file: Path) -> dict[str, int]:
    """Class index by folder name, from lines that hold a name and, in any other column, the index."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        columns = line.split("\t")
        numbers = [int(column) for column in columns if column.isdigit()]
        if numbers:
            found.update({column: numbers[0] for column in columns if not column.isdigit()})
    return found


def items(data: Path, classes: dict[str, int], limit: int | None) -> list[tuple[Path, int]]:
    """(file, class index) of every image. Raises SystemExit when a folder's name is not in the index."""
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in SUFFIXES)
    for file in files:
        if file.parent.name not in classes:
            raise SystemExit(f"{file}: its folder's name is not in the index file.")
    return [(file, classes[file.parent.name]) for file in files][:limit]


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, help="directory of CLASS/*.jpg")
    made.add_argument("--index", type=Path, required=True, help="tab-separated: folder name, ImageNet index")
    made.add_argument("--base", default="lite0", choices=sorted(BASES), help="[default: lite0]")
    made.add_argument("--resolutions", default="224,192,160,128,96", help="pixels [default: 224,192,160,128,96]")
    made.add_argument("--limit", type=int, help="use at most so many images")
    arguments = made.parse_args()
    listed = items(arguments.data, index_of_classes(arguments.index), arguments.limit)
    base = load_base(arguments.base)
    rows: list[tuple[object, ...]] = []
    result = []
    for resolution in map(int, arguments.resolutions.split(",")):
        start = time.perf_counter()
        seen = top1(base, listed, resolution)
        took = time.perf_counter() - start
        result.append({"resolution": resolution, **seen.model_dump(), "seconds": took})
        interval = f"[{seen.low:.1%}, {seen.high:.1%}]"
        difference = 100 * (seen.accuracy - result[0]["accuracy"])
        rows.append((f"{resolution} px", 100 * seen.accuracy, interval, difference, seen.samples, took))
    print_table(("side", "top-1 %", "95 %", "points to the first", "images", "seconds"), rows)
    finish("top1", {"base": arguments.base, "data": str(arguments.data), "rows": result}, arguments.output)


if __name__ == "__main__":
    main()
