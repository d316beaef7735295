"""One scene in the official formats: COCO, REFER, Localized Narratives, VQAv2 and VCR entries.

Every id follows from the split and the index alone, so that no counting across processes is
needed: an image is split · 10^8 + index, what belongs to it appends a digit.
"""

from input_pipeline.scenes.outlines import outlines
from input_pipeline.scenes.vocabulary import CATEGORY_IDS
from regionjax.masks import encode_rles

SPLITS = {"train": 1, "val": 2, "test": 3}
VQA_SPLITS = {"train": "train2014", "val": "val2014", "test": "test2015"}  # names in VQAv2's files
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


# ---- questions ----------------------------------------------------------------------------------


def vqa_file_name(image, split):
    """COCO's file name of an image in the years that VQAv2 asks about, below the world's folder."""
    folder = VQA_SPLITS[split]
    return f"{folder}/COCO_{folder}_{image:012d}.jpg"


def vqa_questions(asked, image):
    """Items of VQAv2's `questions`."""
    return [
        {
            "image_id": image,
            "question": question.text,
            "question_id": image * PER_IMAGE + place,
        }
        for place, question in enumerate(asked)
    ]


def vqa_annotations(asked, image):
    """Items of VQAv2's `annotations`: ten answers each."""
    return [
        {
            "question_type": question.kind,
            "multiple_choice_answer": question.answer,
            "answers": [
                {
                    "answer": answer,
                    "answer_confidence": "yes" if answer == question.answer else "maybe",
                    "answer_id": number,
                }
                for number, answer in enumerate(question.answers, 1)
            ],
            "image_id": image,
            "answer_type": question.answer_type,
            "question_id": image * PER_IMAGE + place,
        }
        for place, question in enumerate(asked)
    ]


def vcr_file_name(image, ending):
    """VCR's file name of an image ("jpg") or of its metadata ("json")."""
    return f"world/{image:012d}@0.{ending}"


def vcr_lines(scene, chosen, split, image):
    """Lines of VCR's annotations, as dictionaries; objects have the names of COCO's categories."""
    lines = []
    for place, choice in enumerate(chosen):
        number = image * PER_IMAGE + place
        line = {
            "movie": "world",
            "objects": [thing.name for thing in scene.things],
            "interesting_scores": [0],
            "answer_likelihood": "likely",
            "img_fn": vcr_file_name(image, "jpg"),
            "metadata_fn": vcr_file_name(image, "json"),
            "question_orig": _spoken(choice.question),
            "question": choice.question,
        }
        for name, texts, right in (
            ("answer", choice.answers, choice.answer),
            ("rationale", choice.rationales, choice.rationale),
        ):
            line |= {
                f"{name}_orig": _spoken(texts[right]),
                f"{name}_choices": texts,
                f"{name}_label": right,
            }
        line |= {"img_id": f"{split}-{image}", "question_number": place}
        lines.append(line | {"annot_id": f"{split}-{number}", "match_fold": f"{split}-0"})
    return lines


def _spoken(tokens):
    """Tokens as their author typed them: objects are counted from 1."""
    words = [token if isinstance(token, list) else [token] for token in tokens]
    return " ".join(
        str(part + 1) if isinstance(part, int) else part for found in words for part in found
    )


def vcr_metadata(scene):
    """VCR's metadata of an image: boxes with a confidence, and outlines."""
    return {
        "boxes": [[*map(float, bounds), 1.0] for bounds in scene.bounds.tolist()],
        "segms": [outlines(mask) for mask in scene.masks],
        "names": [thing.name for thing in scene.things],
        "width": scene.size,
        "height": scene.size,
    }


def _xywh(bounds):
    x0, y0, x1, y1 = bounds
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
