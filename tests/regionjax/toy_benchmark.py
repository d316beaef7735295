"""Tiny images with known objects, and predictors that know them (or know nothing)."""

import dataclasses
import io

import numpy as np
from PIL import Image, ImageDraw

from regionjax.evaluators.items import Described, Referred
from regionjax.masks import mask_iou
from regionjax.regions import Region, box_to_locations, locations_to_text

BINS = 1024
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("square", "circle")


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What evaluators and the report use of a record."""

    image_id: str
    width: int
    height: int
    image: bytes
    objects: tuple  # ((name, mask), …)

    def name_of(self, region, prompt=""):
        """The name of the object that a region lies on best; None for the whole image."""
        if region.kind == "points":
            columns, rows = (np.clip(region.points, 0, 0.999) * (self.width, self.height)).T
            shares = [
                mask[rows.astype(int), columns.astype(int)].mean() for _, mask in self.objects
            ]
        elif region.kind == "mask":
            shares = [mask_iou(mask, region.mask) for _, mask in self.objects]
        else:
            boxes = [Region.from_mask(mask).bounding_box() for _, mask in self.objects]
            shares = [-np.abs(box - region.box).sum() for box in boxes]
            if np.array_equal(region.box, (0, 0, 1, 1)):
                return None
        return self.objects[int(np.argmax(shares))][0]


def record(index, objects=4, side=96):
    """A noisy image with objects of different colours, one a quarter."""
    rng = np.random.default_rng(index)
    noise = rng.normal(rng.integers(60, 200, 3), 14, (side, side, 3))
    image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    found = []
    colours = rng.permutation(len(COLOURS))
    for place in range(objects):
        half = rng.integers(side // 10, side // 5)
        x, y = (rng.uniform(0.22, 0.28, 2) + np.array([place % 2, place // 2]) / 2) * side
        shape = SHAPES[rng.integers(len(SHAPES))]
        mask = Image.new("1", (side, side))
        for canvas, fill in ((mask, 1), (image, COLOURS[colours[place]])):
            draw = ImageDraw.Draw(canvas)
            draw_shape = draw.ellipse if shape == "circle" else draw.rectangle
            draw_shape((x - half, y - half, x + half, y + half), fill=fill)
        found.append((f"{COLOURS[colours[place]]} {shape}", np.array(mask)))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=95)
    return Record(f"{index:012d}", side, side, encoded.getvalue(), tuple(found))


def described(records):
    """An item an object: its mask and its name."""
    return [
        Described(r, lambda mask=mask: Region.from_mask(mask), "describe", (name,))
        for r in records
        for name, mask in r.objects
    ]


def captions(records):
    """An item an image: what is in it, in two orders."""
    items = []
    for r in records:
        names = [f"a {name}" for name, _ in r.objects]
        texts = (" and ".join(names), " and ".join(reversed(names)))
        items.append(Described(r, lambda: Region.from_box((0, 0, 1, 1)), "", texts))
    return items


def referred(records):
    """An item an object; the proposals are all objects of the image."""
    return [
        Referred(
            record=r,
            region=lambda mask=mask: Region.from_mask(mask),
            expression=f"the {name}",
            refer_prompt="refer",
            locate_prompt=f"locate the {name}",
            box=Region.from_mask(mask).bounding_box(),
            proposals=lambda r=r: [Region.from_mask(mask) for _, mask in r.objects],
        )
        for r in records
        for name, mask in r.objects
    ]


def nll_table(queries, texts, nll):
    """f32 [N, texts] of nll(query, text), NaN where a query has fewer."""
    rows = [[nll(query, text) for text in query.texts] for query in queries]
    rows = [row + [np.nan] * (texts - len(row)) for row in rows]
    return np.array(rows, np.float32).reshape(-1, texts)


class Oracle:
    """Answers everything right, as far as it is shown the region; `wrong` of the time it errs."""

    def __init__(self, wrong=0.0, seed=0):
        self.wrong = wrong
        self.rng = np.random.default_rng(seed)

    def has(self, name):
        return hasattr(self, name)

    def _object(self, query, name):
        """(name, mask) of the object of that name, or of another one when it errs."""
        objects = dict(query.record.objects)
        if self.rng.random() < self.wrong:
            name = self.rng.choice([other for other in objects if other != name])
        return name, objects[name]

    def generate(self, queries, config):
        return [self._answer(query) for query in queries]

    def _answer(self, query):
        prompt = query.segment.prompt
        if prompt.startswith("locate"):
            _, mask = self._object(query, prompt.removeprefix("locate the "))
            box = Region.from_mask(mask).bounding_box()
            return locations_to_text(box_to_locations(box, BINS))
        if not prompt:
            return " and ".join(f"a {name}" for name, _ in query.record.objects)
        name = query.record.name_of(query.segment.region)
        return self._object(query, name)[0] if name else query.record.objects[0][0]

    def caption_nll(self, queries, texts, together=None, compared=False):
        return nll_table(queries, texts, self._nll)

    def _nll(self, query, text):
        name, _ = self._object(query, query.record.name_of(query.segment.region))
        return 0.1 if text == f"the {name}" else 5.0 + self.rng.random()

    def heatmap(self, queries):
        maps = []
        for query in queries:
            _, mask = self._object(query, query.segment.prompt.removeprefix("locate the "))
            side = 12
            x0, y0, x1, y1 = Region.from_mask(mask).bounding_box()
            cells = (np.arange(side) + 0.5) / side
            gap = np.hypot(cells[:, None] - (y0 + y1) / 2, cells - (x0 + x1) / 2)
            maps.append(np.exp(-((gap / 0.12) ** 2)).astype(np.float32))
        return np.stack(maps)
