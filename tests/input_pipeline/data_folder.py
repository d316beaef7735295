"""A small data folder in the official formats, written here by hand, not by the project's writer.

Each image holds a red rectangle and one or two blue ones on noise; every number that the tests
compare with is known when the file is written.
"""

import json
import pickle

import numpy as np
from PIL import Image

SIZE = 96


def write_folder(root, images, split="train", first_id=1):
    """COCO, REFER and Localized Narratives over `images` images; returns root."""
    rng = np.random.default_rng([len(split), first_id])
    (root / f"{split}2017").mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "localized_narratives").mkdir(exist_ok=True)
    (root / "refer" / "world").mkdir(parents=True, exist_ok=True)
    entries, annotations, captions, references, narratives = [], [], [], [], []
    for image_id in range(first_id, first_id + images):
        pixels = rng.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
        blue = 1 + image_id % 2
        for number in range(1 + blue):
            x, y = 4 + 30 * number, int(rng.integers(4, 60))
            w, h = (int(n) for n in rng.integers(8, 24, 2))
            pixels[y : y + h, x : x + w] = (255, 0, 0) if number == 0 else (0, 0, 255)
            annotations.append(
                {
                    "id": 10 * image_id + number,
                    "image_id": image_id,
                    "category_id": 1 if number == 0 else 2,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        file_name = f"{image_id:012d}.jpg"
        Image.fromarray(pixels).save(root / f"{split}2017" / file_name, quality=95)
        entries.append({"id": image_id, "file_name": file_name, "width": SIZE, "height": SIZE})
        captions.append({"id": image_id, "image_id": image_id, "caption": f"{blue} blue on noise"})
        references.append(
            {
                "ref_id": image_id,
                "ann_id": 10 * image_id,
                "category_id": 1,
                "image_id": image_id,
                "file_name": "ignored",
                "split": split,
                "sent_ids": [2 * image_id, 2 * image_id + 1],
                "sentences": [
                    {"sent_id": 2 * image_id, "raw": "The red one", "sent": "the red one"},
                    {"sent_id": 2 * image_id + 1, "raw": "red box", "sent": "red box"},
                ],
            }
        )
        narratives.append(narrative(image_id, split))
    categories = [{"id": 1, "name": "red box"}, {"id": 2, "name": "blue box"}]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    write_json(root / "annotations" / f"instances_{split}2017.json", content)
    write_json(root / "annotations" / f"captions_{split}2017.json", {"annotations": captions})
    refer = root / "refer" / "world"
    if (refer / "instances.json").exists():
        known = json.loads((refer / "instances.json").read_text())
        content = {key: known[key] + content[key] for key in ("images", "annotations")}
        references = pickle.loads((refer / "refs(unc).p").read_bytes()) + references
    write_json(refer / "instances.json", content)
    (refer / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    lines = "".join(json.dumps(entry) + "\n" for entry in narratives)
    (root / "localized_narratives" / f"coco_{split}_localized_narratives.jsonl").write_text(lines)
    return root


def narrative(image_id, split="train"):
    """Two sentences of two seconds; the pointer is at x = 0.2 in the first, 0.8 in the second."""
    words = ["There", "is", "red.", "Then", "comes", "blue."]
    points = [{"x": 0.2 if t < 30 else 0.8, "y": 0.01 * t, "t": t / 10} for t in range(60)]
    return {
        "dataset_id": f"mscoco_{split}2017",
        "image_id": str(image_id),
        "annotator_id": 7,
        "caption": " ".join(words),
        "timed_caption": [
            {"utterance": word, "start_time": float(i), "end_time": i + 0.95}
            for i, word in enumerate(words)
        ],
        "traces": [points[:25], points[25:]],
        "voice_recording": "coco/0.ogg",
    }


def write_json(path, content):
    path.write_text(json.dumps(content))
