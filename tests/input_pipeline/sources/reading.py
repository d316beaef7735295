"""Reading a source in a test, and the small files that it reads."""

import collections
import json

from PIL import Image


def read(source, split="train"):
    """(records, tally) of a source and split."""
    tally = collections.Counter()
    items = list(source.items(split, tally))
    return [record for item in items if (record := source.record(item, tally))], +tally


def edit(path, change):
    """Rewrites a JSON file as `change` leaves its content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def photograph(path, width=60, height=40):
    """Writes a grey photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 90, 90)).save(path)
