"""One scene in the official formats: COCO, REFER and Localized Narratives entries.

Every id follows from the split and the index alone, so that no counting across processes is
needed: an image is split · 10^8 + index, what belongs to it appends a digit.
"""

from input_pipeline.scenes.vocabulary import CATEGORY_IDS
from regionjax.masks import encode_rles

SPLITS = {"train": 1, "val": 2, "test": 3}
PER_IMAGE = 10  # room for things and captions in an id


def image_id(split, index):
    """Id of an image: unique in all splits."""
    return SPLITS[split] * 10**8 + index


def file_name(image):
    """COCO's file name of an image id."""
    return f"{image:012d}.jpg"


def image_entry(image, size):
    """An item of COCO's `images`."""
    return {
        "id": image,
        "file_name": file_name(image),
        "width": size,
        "height": size,
        "license": 1,
        "flickr_url": "",
        "coco_url": "",
        "date_captured": "",
    }


def instances(scene, image):
    """COCO instance annotations: the visible pixels as compressed RLE, farthest thing first."""
    areas = scene.masks.sum(axis=(1, 2)).tolist()
    return [
        {
            "id": image * PER_IMAGE + index,
            "image_id": image,
            "category_id": CATEGORY_IDS[thing.name],
            "segmentation": rle,
            "area": area,
            "bbox": _xywh(bounds),
            "iscrowd": 0,
        }
        for index, (thing, rle, area, bounds) in enumerate(
            zip(scene.things, encode_rles(scene.masks), areas, scene.bounds.tolist(), strict=True)
        )
    ]


def captions(texts, image):
    """COCO caption annotations."""
    return [
        {"id": image * PER_IMAGE + place, "image_id": image, "caption": text}
        for place, text in enumerate(texts)
    ]


def proposals(masks, bounds, scores, image):
    """COCO results of a segmenter that knows no classes: each one is of category 1."""
    return [
        {
            "image_id": image,
            "category_id": 1,
            "segmentation": rle,
            "bbox": _xywh(box),
            "score": round(score, 4),
        }
        for rle, box, score in zip(encode_rles(masks), bounds, scores, strict=True)
    ]


def references(scene, told, split, image):
    """REFER refs, one for each thing that has an expression."""
    refs = []
    for index, texts in enumerate(told):
        if not texts:
            continue
        ref = image * PER_IMAGE + index
        sentences = [
            {"sent_id": ref * PER_IMAGE + place, "raw": text, "sent": text, "tokens": text.split()}
            for place, text in enumerate(texts)
        ]
        refs.append(
            {
                "ref_id": ref,
                "ann_id": ref,
                "category_id": CATEGORY_IDS[scene.things[index].name],
                "image_id": image,
                "file_name": file_name(image),
                "split": split,
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    return refs


def narrative(told, split, image):
    """A Localized Narratives record; like the official ones it names a recording."""
    annotator = told["annotator_id"]
    return {
        "dataset_id": f"mscoco_{split}2017",
        "image_id": str(image),
        **told,
        "voice_recording": f"coco_{split}/coco_{split}_{image}_{annotator}.ogg",
    }


def _xywh(bounds):
    x0, y0, x1, y1 = bounds
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
