"""enwik8's customary parts as files that a recipe trains on: its first 90 MB, and of the next 5 the first to select by.

    python benchmarks/enwik8_split.py enwik8 runs/enwik8

The last 5 MB, on which results are reported, are read by `byte_compression.py --offset 95000000` from the file itself. Records
are of up to 64 KiB, whole lines as far as these go.
"""

import argparse
import json
from pathlib import Path

SIZE = 100_000_000
PARTS = {"train": (0, 90_000_000), "validation": (90_000_000, 91_000_000)}
RECORD = 2**16


def records_of(data, start, end):
    """Texts of a part of some bytes; a line longer than a record is cut, and what that breaks of a character becomes U+FFFD."""
    while start < end:
        stop = min(end, start + RECORD)
        if stop < end:
            stop = data.rfind(b"\n", start, stop) + 1 or stop
        yield data[start:stop].decode("utf-8", "replace")
        start = stop


def main():
    """Write the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="enwik8")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    data = arguments.file.read_bytes()
    if len(data) != SIZE:
        raise SystemExit(f"{arguments.file} has {len(data)} bytes, and enwik8 {SIZE}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, (start, end) in PARTS.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in records_of(data, start, end))
        (arguments.folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
