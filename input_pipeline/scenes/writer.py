"""Writes the built-in world: a folder that looks like COCO, REFER, Localized Narratives and more.

    ROOT/{train,val,test}2017/000100000000.jpg …
    ROOT/annotations/{instances,captions,proposals}_{split}2017.json
    ROOT/localized_narratives/coco_{split}_localized_narratives.jsonl
    ROOT/refer/world/{refs(unc).p,instances.json}
    ROOT/world.json                                    last: what was asked for, and a hash

and with questions, which leave all other files as they are,

    ROOT/vqav2/v2_{OpenEnded_mscoco_*_questions,mscoco_*_annotations}.json
    ROOT/{train2014,val2014,test2015}/COCO_*.jpg       the same images under VQAv2's names
    ROOT/vcr1annots/{train,val,test}.jsonl
    ROOT/vcr1images/world/*.{jpg,json}                 the same images, their objects' outlines

Each image depends on (seed, split, index) alone, so the world does not depend on the number of
processes, and a larger world of the same seed begins with the images of a smaller one.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import pickle

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline.scenes import formats
from input_pipeline.scenes.choices import choose
from input_pipeline.scenes.drawing import draw
from input_pipeline.scenes.expressions import Phrases, refer
from input_pipeline.scenes.narratives import narrate
from input_pipeline.scenes.proposals import propose
from input_pipeline.scenes.questions import ask
from input_pipeline.scenes.scene import make_scene
from input_pipeline.scenes.sentences import captions
from input_pipeline.scenes.vocabulary import categories

GENERATOR = 3  # raise it when the same arguments begin to give other files
CHUNK = 50  # images a task of a process
QUALITY = 95  # of the JPEG files
SMALLEST, LARGEST = 48, 384  # image sides; below, shapes cannot be told apart

FOLDERS = ("annotations", "localized_narratives", "refer/world")
PARTS = ("images", "instances", "captions", "proposals", "references", "narratives")
QUESTION_FOLDERS = (*formats.VQA_SPLITS.values(), "vqav2", "vcr1annots", "vcr1images/world")
QUESTION_PARTS = ("questions", "answers", "choices")

DONE = "world.json"
BEGUN = "world.json.begun"  # the same arguments, while the world is being written
LOCK = "world.json.lock"
PART = ".part"  # ending of a JSON file that is being written


class WorldError(ValueError):
    """The folder holds something else, or the world asked for cannot be."""


def write_world(
    root, *, seed, train, val, test, image_size=96, questions=False, processes=2, progress=True
):
    """Writes the world into `root`, or does nothing when it is there already.

    A run that was killed is begun again by the next one.

    Args:
      root: a folder that is empty, new, or holds this very world.
      seed: int >= 0.
      train, val, test: images in each split.
      image_size: pixels a side, 48 to 384.
      questions: whether to ask questions too, in the formats of VQAv2 and VCR.
      processes: how many draw; the files do not depend on it.
      progress: whether to show a bar.

    Returns:
      root as a pathlib.Path.

    Raises:
      WorldError: `root` holds other files or another world; nothing is touched.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(seed, *counts.values()) < 0 or not SMALLEST <= image_size <= LARGEST:
        raise WorldError(
            f"a world needs seed >= 0, counts >= 0 and an image_size of {SMALLEST} to {LARGEST}; "
            f"got seed={seed}, {counts}, image_size={image_size}"
        )
    root = pathlib.Path(root)
    wanted = {
        "generator": GENERATOR,
        "arguments": {"seed": seed, **counts, "image_size": image_size},
    }
    if questions:  # a world without is described as it was before there were any
        wanted["arguments"]["questions"] = True
    if not _is_done(root, wanted):
        root.mkdir(parents=True, exist_ok=True)
        with (root / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # others wait, then find it done
            if not _is_done(root, wanted):
                _write(root, wanted, processes, progress)
    return root


def _write(root, wanted, processes, progress):
    _write_json(root / BEGUN, wanted)
    asks = wanted["arguments"].get("questions", False)
    folders = (*FOLDERS, *QUESTION_FOLDERS) if asks else FOLDERS
    for folder in (*(f"{split}2017" for split in formats.SPLITS), *folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
    seed, size = wanted["arguments"]["seed"], wanted["arguments"]["image_size"]
    counts = {split: wanted["arguments"][split] for split in formats.SPLITS}
    world = {}  # {split: {part: list}}
    with (
        tqdm(total=sum(counts.values()), desc="world", unit="image", disable=not progress) as bar,
        _mapping(processes) as run,
    ):
        for split, count in counts.items():
            tasks = [
                (root, split, range(start, min(start + CHUNK, count)), seed, size, asks)
                for start in range(0, count, CHUNK)
            ]
            world[split] = {part: [] for part in (*PARTS, *QUESTION_PARTS)}
            for made in run(_make_images, tasks):
                for part in made:
                    world[split][part] += made[part]
                bar.update(len(made["images"]))
            _write_split(root, split, world[split])
            if asks:
                _write_questions(root, split, world[split])
    _write_refer(root / "refer" / "world", world.values())
    _write_json(root / DONE, {**wanted, "sha256": _content_hash(root)})
    (root / BEGUN).unlink()


def _is_done(root, wanted):
    """Whether `root` holds the wanted world; an error if it holds anything else."""
    for name in (DONE, BEGUN):
        if (root / name).is_file():
            found = json.loads((root / name).read_text())
            _compare(root / name, found, wanted)
            return name == DONE
    ours = {LOCK, BEGUN + PART}
    others = sorted({path.name for path in root.iterdir()} - ours) if root.is_dir() else []
    if others:
        raise WorldError(
            f"{root} holds {', '.join(others[:3])}{' …' if others[3:] else ''} but no {DONE}: "
            "it is not a built-in world; name an empty or new folder"
        )
    return False


def _compare(path, found, wanted):
    pairs = {"generator": (found["generator"], wanted["generator"])}
    for name in {**wanted["arguments"], **found["arguments"]}:
        pairs[name] = tuple(side["arguments"].get(name, False) for side in (found, wanted))
    different = [f"{name} {a} there, {b} wanted" for name, (a, b) in pairs.items() if a != b]
    if different:
        raise WorldError(
            f"{path} is of another world ({'; '.join(different)}); "
            f"name another folder, or delete {path.parent}"
        )


@contextlib.contextmanager
def _mapping(processes):
    """Yields map(function, tasks), in order, over this many processes."""
    if processes <= 1:
        yield map
        return
    # spawn: a fork of a process that runs JAX's threads may hang
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn")
    )
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _make_images(task):
    """Draws the images of one task and returns their annotations, {part: list}."""
    root, split, indices, seed, size, asks = task
    parts = {key: [] for key in (*PARTS, *QUESTION_PARTS)}
    for index in indices:
        image = formats.image_id(split, index)
        lots = np.random.SeedSequence([seed, formats.SPLITS[split], index]).spawn(5)
        # streams of their own: new words leave the pictures as they are
        for_scene, for_ground, for_texts, for_masks, for_questions = map(
            np.random.default_rng, lots
        )
        scene = make_scene(for_scene, size)
        picture = Image.fromarray(draw(scene, for_ground))
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=QUALITY, subsampling=0)
        path = root / f"{split}2017" / formats.file_name(image)
        path.write_bytes(file.getbuffer())
        phrases = Phrases(scene)
        masks, bounds, scores = propose(scene, for_masks)
        parts["images"].append(formats.image_entry(image, size))
        parts["instances"] += formats.instances(scene, image)
        parts["captions"] += formats.captions(captions(scene), image)
        parts["proposals"] += formats.proposals(masks, bounds, scores, image)
        parts["references"] += formats.references(scene, refer(phrases, for_texts), split, image)
        told = formats.narrative(narrate(scene, phrases, for_texts), split, image)
        parts["narratives"].append(json.dumps(told))  # text is cheaper to send than its points
        if asks:
            asked, chosen = (make(scene, phrases, for_questions) for make in (ask, choose))
            parts["questions"] += formats.vqa_questions(asked, image)
            parts["answers"] += formats.vqa_annotations(asked, image)
            parts["choices"] += formats.vcr_lines(scene, chosen, split, image)
            for name in (
                formats.vqa_file_name(image, split),
                f"vcr1images/{formats.vcr_file_name(image, 'jpg')}",
            ):
                (root / name).write_bytes(file.getbuffer())
            name = f"vcr1images/{formats.vcr_file_name(image, 'json')}"
            _write_json(root / name, formats.vcr_metadata(scene))
    return parts


def _head(images):
    return {
        "info": {"description": "regionjax built-in world", "version": str(GENERATOR)},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": images,
    }


def _write_split(root, split, parts):
    head = _head(parts["images"])
    folder = root / "annotations"
    _write_json(
        folder / f"instances_{split}2017.json",
        {**head, "annotations": parts["instances"], "categories": categories()},
    )
    _write_json(folder / f"captions_{split}2017.json", {**head, "annotations": parts["captions"]})
    _write_json(folder / f"proposals_{split}2017.json", parts["proposals"])
    path = root / "localized_narratives" / f"coco_{split}_localized_narratives.jsonl"
    path.write_text("".join(line + "\n" for line in parts["narratives"]))


def _write_questions(root, split, parts):
    subtype = formats.VQA_SPLITS[split]
    head = {
        "info": {"description": "regionjax built-in world", "version": str(GENERATOR)},
        "license": {"name": "Apache-2.0", "url": ""},
        "data_type": "mscoco",
        "data_subtype": subtype,
    }
    folder = root / "vqav2"
    _write_json(
        folder / f"v2_OpenEnded_mscoco_{subtype}_questions.json",
        {**head, "task_type": "Open-Ended", "questions": parts["questions"]},
    )
    _write_json(
        folder / f"v2_mscoco_{subtype}_annotations.json", {**head, "annotations": parts["answers"]}
    )
    lines = (json.dumps(line) + "\n" for line in parts["choices"])
    (root / "vcr1annots" / f"{split}.jsonl").write_text("".join(lines))


def _write_refer(folder, splits):
    """refs(unc).p and instances.json of all splits together."""
    together = {part: [item for parts in splits for item in parts[part]] for part in PARTS}
    instances = {"annotations": together["instances"], "categories": categories()}
    _write_json(folder / "instances.json", {**_head(together["images"]), **instances})
    # through JSON: a pickle depends on which equal strings are one object
    refs = json.loads(json.dumps(together["references"]))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def _write_json(path, content):
    """Whole or not at all: a killed run leaves no half of a file that others would read."""
    part = path.with_name(path.name + PART)
    part.write_text(json.dumps(content, separators=(",", ":")))
    os.replace(part, path)


def _content_hash(root):
    """sha256 of all files but world.json and its forerunner, by name and content."""
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.parent == root:
            continue
        name = path.relative_to(root).as_posix()
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
