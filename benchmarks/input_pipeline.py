"""Images a second a core, from JPEG files to batches, beside a PyTorch DataLoader.

    python -m benchmarks.input_pipeline --photographs DIR --images_per_chip 40

DIR is a folder in COCO's layout with a train split; without it, noise and gradients of 640x480 are
written. Both sides make the same batches with two workers: an image of 224x224, eight slots with
mask, box, points and tokens. The DataLoader's side is what one would write with Pillow, NumPy and
`tokenizers`: all pixels decoded, outlines drawn in full and shrunk; a second one decodes JPEGs at a
reduced scale as well. Sides take turns: batches are taken, and the CPU seconds of all processes are
counted until the workers have replaced them, so that other work on the machine counts little.
"""

import argparse
import io
import json
import os
import pathlib
import tempfile
import time

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer as Engine

from input_pipeline import loader, prepare
from input_pipeline.data_config import DataConfig
from input_pipeline.images import decode_image
from input_pipeline.parts import open_records
from input_pipeline.records import Record
from input_pipeline.tokens import Tokenizer
from input_pipeline.transforms import EncodeExample
from regionjax.batch import BatchSpec
from regionjax.masks import decode_rle

SPEC = BatchSpec(
    image_size=224,
    mask_size=56,
    regions=8,
    points=10,
    prompt_length=16,
    target_length=32,
    text_length=40,
)
BINS = 1024
WORKERS = 2
IMAGES = 1000


class Photographs(torch.utils.data.Dataset):
    """The DataLoader's side: COCO's files to rows, with a mask, box and points of each text."""

    def __init__(self, root, split, tokenizer, length, draft):
        images = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
        captions = json.loads((root / f"annotations/captions_{split}2017.json").read_text())
        names = {category["id"]: category["name"] for category in images["categories"]}
        self.entries = [(root / f"{split}2017" / e["file_name"], e["id"]) for e in images["images"]]
        self.asked = {image_id: [] for _, image_id in self.entries}
        for one in images["annotations"]:
            if not one["iscrowd"]:
                self.asked[one["image_id"]].append(("describe", names[one["category_id"]], one))
        for found in self.asked.values():
            said = [text for _, text, _ in found]
            for _, text, one in [asked for asked in found if said.count(asked[1]) == 1]:
                found += [("refer", text, one), (f"locate {text}", "", one)]
        for one in captions["annotations"]:
            self.asked[one["image_id"]].append(("", one["caption"], None))
        self.engine = Engine.from_file(str(tokenizer.directory / "tokenizer.json"))
        self.eos, self.location = tokenizer.eos_id, tokenizer.location_base
        self.length, self.draft = length, draft

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        path, image_id = self.entries[index % len(self.entries)]
        rng = np.random.default_rng(index)
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            width, height = image.size
            if self.draft:
                image.draft("RGB", (SPEC.image_size, SPEC.image_size))
            image = image.convert("RGB").resize((SPEC.image_size,) * 2, Image.Resampling.BICUBIC)
        row = {name: np.zeros(shape, dtype) for name, (shape, dtype) in SPEC.fields().items()}
        row["image"][...] = np.asarray(image)
        asked = self.asked[image_id]
        for slot, place in enumerate(rng.permutation(len(asked))[: SPEC.regions]):
            self.fill(row, slot, *asked[place], width, height, rng)
        row["target_weight"][...] = row["target"] != 0
        return row

    def fill(self, row, slot, prompt, target, one, width, height, rng):
        box, mask, points = np.array([0, 0, 1, 1]), None, None
        if one is not None:
            x, y, w, h = one["bbox"]
            box = np.array([x / width, y / height, (x + w) / width, (y + h) / height])
        answer = self.engine.encode(target).ids
        if prompt.startswith("locate"):
            row["target_box"][slot] = box
            places = np.minimum(box[[1, 0, 3, 2]] * BINS, BINS - 1).astype(int)
            answer, box = (self.location + places).tolist(), np.array([0, 0, 1, 1])
        elif one is not None:
            way = rng.random()
            if way < 0.8:  # as a mask, or as points in it
                mask = drawn(one["segmentation"], width, height)
                x0, y0 = int(x), int(y)
                part = np.asarray(mask.crop((x0, y0, int(x + w) + 1, int(y + h) + 1)))
                rows, columns = np.nonzero(part)
                pick = rng.integers(len(rows), size=SPEC.points)
                points = np.stack([columns[pick] + x0, rows[pick] + y0], 1) + rng.random((10, 2))
                points = points / (width, height)
            if way < 0.2:
                box, mask = np.concatenate([points.min(0), points.max(0)]), stroke(points)
        prompt = self.engine.encode(prompt).ids
        answer = [*answer, self.eos][: SPEC.target_length]
        row["prompt"][slot, : len(prompt)] = prompt
        row["target"][slot, : len(answer)] = answer
        row["region_box"][slot] = box
        if points is None:
            points = box[:2] + rng.random((SPEC.points, 2)) * (box[2:] - box[:2])
        row["region_points"][slot] = points
        if mask is None:
            mask = Image.new("L", (SPEC.mask_size * 4,) * 2)
            ImageDraw.Draw(mask).rectangle(tuple(box * SPEC.mask_size * 4), fill=255)
        row["region_mask"][slot] = mask.resize((SPEC.mask_size,) * 2, Image.Resampling.BOX)


def drawn(segmentation, width, height):
    """An outline in COCO's form as a Pillow mask."""
    if isinstance(segmentation, dict):
        return Image.fromarray(decode_rle(segmentation).astype(np.uint8) * 255)
    mask = Image.new("L", (width, height))
    for polygon in segmentation:
        ImageDraw.Draw(mask).polygon(polygon, fill=255)
    return mask


def stroke(points):
    """A line through points as a Pillow mask."""
    side = SPEC.mask_size * 4
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).line([tuple(xy) for xy in points * side], fill=255, width=side // 16)
    return mask


def write_synthetic(root, images):
    """A folder in COCO's layout: noise on gradients, two boxes and a caption an image."""
    rng = np.random.default_rng(0)
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    y, x = np.indices((480, 640))
    entries, annotations, captions = [], [], []
    for number in range(images):
        waves = np.stack([np.sin(x / rng.uniform(9, 90) + y / rng.uniform(9, 90))] * 3, -1)
        pixels = 128 + 80 * waves + rng.normal(0, 14, (480, 640, 3))
        name = f"{number:012d}.jpg"
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        picture.save(root / "train2017" / name, quality=90)
        entries.append({"id": number, "file_name": name, "width": 640, "height": 480})
        captions.append({"id": number, "image_id": number, "caption": "waves of light and shadow"})
        for _ in range(6):
            left, top = rng.integers(0, (400, 300)).tolist()
            w, h = rng.integers(20, (200, 150)).tolist()
            turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            circle = np.stack([left + w / 2 * (1 + np.cos(turn)), top + h / 2 * (1 + np.sin(turn))])
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": int(rng.integers(3)),
                    "segmentation": [circle.T.ravel().tolist()],
                    "bbox": [left, top, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    content = {"images": entries, "annotations": annotations, "categories": []}
    content["categories"] = [
        {"id": n, "name": name} for n, name in enumerate(("sun", "sea", "sky"))
    ]
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
    (root / "annotations/captions_train2017.json").write_text(json.dumps({"annotations": captions}))


def write_repeated(source, root, images):
    """The photographs of a folder again and again: tiny folders shuffle slowly, and fit caches."""
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    numbers = {}
    for kind in ("instances", "captions"):
        content = json.loads((source / f"annotations/{kind}_train2017.json").read_text())
        if kind == "instances":
            numbers = {entry["id"]: n for n, entry in enumerate(content["images"])}
            names = [entry["file_name"] for entry in content["images"]]
            content["images"] = [
                content["images"][n % len(names)] | {"id": n, "file_name": f"{n:012d}.jpg"}
                for n in range(images)
            ]
        content["annotations"] = [
            one | {"image_id": n, "id": len(content["annotations"]) * n + place}
            for place, one in enumerate(content["annotations"])
            for n in range(numbers[one["image_id"]], images, len(numbers))
        ]
        (root / f"annotations/{kind}_train2017.json").write_text(json.dumps(content))
    for n in range(images):
        to = source.absolute() / "train2017" / names[n % len(names)]
        (root / "train2017" / f"{n:012d}.jpg").symlink_to(to)


# ---- timing -------------------------------------------------------------------------------------


def cpu_seconds():
    """Of this process and its children, those that live included (Linux)."""
    total, waiting = sum(os.times()[:4]), [os.getpid()]
    tick = os.sysconf("SC_CLK_TCK")
    while waiting:
        for task in pathlib.Path(f"/proc/{waiting.pop()}/task").iterdir():
            for child in (task / "children").read_text().split():
                fields = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / tick
                waiting.append(child)
    return total


def settled():
    """cpu_seconds when all workers have made what they may make ahead, and rest."""
    spent = [-1.0, -1.0, cpu_seconds()]
    while spent[-1] - spent[-3] > 0.05:
        time.sleep(1)
        spent.append(cpu_seconds())
    return spent[-1]


def speed(batches, count):
    """Images a CPU second: what it costs to replace `count` batches that were taken."""
    before = settled()
    images = sum(len(next(batches)["image"]) for _ in range(count))
    return images / (settled() - before)


def in_decoding(data, directory, tokenizer):
    """(milliseconds of an example, those of its image alone): best of chunks, of one thread."""
    encode = EncodeExample(SPEC, data, tokenizer, 0)
    payloads = open_records(directory, "coco", "train").payloads
    read = [payloads[index % len(payloads)] for index in range(200)]
    images = [Record.decode(payload).image for payload in read]
    makers = (
        lambda index: encode.map_with_index(index, read[index]),
        lambda index: decode_image(images[index], SPEC.image_size, ""),
    )
    spent = [[], []]
    for _ in range(3):
        for times, make in zip(spent, makers, strict=True):
            began = time.thread_time()
            for index in range(len(read)):
                make(index)
            times.append((time.thread_time() - began) / len(read) * 1e3)
    return [min(times) for times in spent]


def main():
    """Prints one line a side and round, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photographs", type=pathlib.Path, help="a folder in COCO's layout")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=16, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chips", type=int, default=256)
    parser.add_argument("--images_per_chip", type=float, default=40, help="a second, in training")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        source, root, directory = given.photographs, *(pathlib.Path(made) / n for n in "rd")
        if source is None:
            source = pathlib.Path(made) / "synthetic"
            write_synthetic(source, 64)
        write_repeated(source, root, IMAGES)
        data = DataConfig(
            str(root),
            {"coco": 1.0},
            eval_split="train",
            location_bins=BINS,
            on_long="truncate",
            workers=WORKERS,
            threads=0,
        )
        prepare.ensure(data, None, directory, progress=False)
        compare(data, root, directory, given)


def compare(data, root, directory, given):
    """Lets the sides take turns and prints what came of it."""
    tokenizer = Tokenizer(directory / "tokenizer")
    ours = loader.training_loader(data, SPEC, directory, seed=0, batch_size=given.batch)
    length = given.batch * ((given.rounds + 1) * given.batches + 4 * WORKERS)
    sides = {"regionjax": ours}
    for name, draft in (("DataLoader", False), ("DataLoader, reduced scale", True)):
        photographs = Photographs(root, "train", tokenizer, length, draft)
        sides[name] = iter(
            torch.utils.data.DataLoader(
                photographs, batch_size=given.batch, num_workers=WORKERS, shuffle=True
            )
        )
    results = {name: [] for name in sides}
    for round in range(given.rounds + 1):
        for name, batches in sides.items():
            result = speed(batches, given.batches)
            if round:  # the first one is for warming up
                results[name].append(result)
                print(f"{name}: {result:.0f} images a core second", flush=True)
    ours.close()
    for name, found in results.items():
        ratios = [mine / other for mine, other in zip(results["regionjax"], found, strict=True)]
        print(
            f"{name}: median {np.median(found):.0f} images a core second; regionjax makes "
            f"{np.median(ratios):.2f}x as many ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    whole, image = in_decoding(data, directory, tokenizer)
    print(f"an example takes {whole:.2f} ms, {image:.2f} of them ({image / whole:.0%}) its image")
    need = given.chips * given.images_per_chip / np.median(results["regionjax"])
    print(
        f"{given.chips} chips at {given.images_per_chip:g} images a second each need {need:.0f} "
        f"cores of all hosts together, {need / given.chips:.2f} a chip"
    )


if __name__ == "__main__":
    main()
