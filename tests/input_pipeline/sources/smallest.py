"""The smallest folder of every source: one image of 60 x 40, in the published form, by hand."""

import dataclasses
import io
import json
import pathlib
import pickle

from tfds_folder import build

WIDTH, HEIGHT = 60, 40
SIZE = {"width": WIDTH, "height": HEIGHT}
COCO_FILE = "train2014/COCO_train2014_000000000009.jpg"


@dataclasses.dataclass
class Folder:
    """What was written.

    Attributes:
      annotations, images: as `prepare` is given them.
      image: name by which an error speaks of the image.
      broken: the annotation file that is broken to see its line named; a JSON file is on lines.
      place: how an error speaks of its line 2.
    """

    annotations: pathlib.Path
    images: pathlib.Path
    image: str
    broken: str
    place: str = ""

    def __post_init__(self):
        self.place = self.place or f"{self.broken}, line 2, column "


def write(root, content):
    """Writes {path: bytes, text, lines (a list) or JSON (a dict)}; None stands for no file."""
    for name, value in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(line) + "\n" for line in value))
        elif name.endswith(".json"):
            path.write_text(json.dumps(value, indent=1))
        elif value is not None:
            path.write_bytes(value.encode() if isinstance(value, str) else value)


def coco(root, image):
    instances = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", **SIZE}],
        "annotations": [instance(9)],
        "categories": [{"id": 1, "name": "dog"}],
    }
    file = "train2017/000000000009.jpg"
    write(root, {"instances_train2017.json": instances, file: image})
    return Folder(root, root, file, "instances_train2017.json")


def coco_captions(root, image):
    captions = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", **SIZE}],
        "annotations": [{"id": 10, "image_id": 9, "caption": "A dog."}],
    }
    file = "train2017/000000000009.jpg"
    write(root, {"captions_train2017.json": captions, file: image})
    return Folder(root, root, file, "captions_train2017.json")


def instance(image_id):
    return {
        "id": 10,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": [[10, 5, 30, 5, 30, 35, 10, 35]],
        "bbox": [10, 5, 20, 30],
        "area": 600,
        "iscrowd": 0,
    }


def coco_karpathy(root, image):
    entries = [{"caption": "A dog.", "image": COCO_FILE, "image_id": "coco_9"}]
    write(root, {"coco_karpathy_train.json": entries, COCO_FILE: image})
    return Folder(root, root, COCO_FILE, "coco_karpathy_train.json")


def flickr30k_entities(root, image):
    xml = (
        f"<annotation>\n<filename>9.jpg</filename><size><width>{WIDTH}</width><height>{HEIGHT}"
        "</height><depth>3</depth></size><object><name>1</name><bndbox><xmin>3</xmin>"
        "<ymin>5</ymin><xmax>70</xmax><ymax>25</ymax></bndbox></object></annotation>"
    )
    file = "flickr30k-images/9.jpg"
    sentences = "[/EN#1/people A man] waits .\n" + "No phrase\n" * 4
    lists = {"train.txt": "9\n", "Sentences/9.txt": sentences, "Annotations/9.xml": xml}
    write(root, lists | {file: image})
    return Folder(root, root, file, "Annotations/9.xml", "Annotations/9.xml.* line 2")


def localized_narratives(root, image):
    line = {
        "dataset_id": "mscoco_train2017",
        "image_id": "9",
        "annotator_id": 7,
        "caption": "A dog.",
        "timed_caption": [{"utterance": "A dog.", "start_time": 0.0, "end_time": 1.0}],
        "traces": [[{"x": 0.5, "y": 0.5, "t": 0.2}, {"x": 1.05, "y": -0.1, "t": 0.4}]],
        "voice_recording": "coco/0.ogg",
    }
    file, name = "train2017/000000000009.jpg", "coco_train_localized_narratives.jsonl"
    write(root, {name: [line], file: image})
    return Folder(root, root, file, name)


def video_localized_narratives(root, image):
    word = {"referenced_word": "dog", "referenced_word_start_idx": 2, "referenced_word_end_idx": 5}
    actor = {
        "actor_name": "dog",
        "keyframe_selection_indices": [0],
        "recording_start_time_ms_since_epoch": 5000,
        "traces_start_time_ms_since_epoch": 5000,
        "caption": "A dog.",
        "noun_segments": [[2, 5]],
        "recording_filename": "0.webm",
        "time_alignment": [{"start_ms": 0, "end_ms": 900, **word}],
        "traces": [[point(0.5, 5100), point(1.05, 5200)]],
    }
    line = {
        "vidln_id": 1,
        "dataset_id": "OVIS_train",
        "video_id": "v",
        "annotator_id": 7,
        "keyframe_names": ["img_1"],
        "actor_narratives": [actor],
    }
    file = "OVIS_train/v/img_1.jpg"
    write(root, {"OVIS_train.jsonl": [line], file: image})
    return Folder(root, root, file, "OVIS_train.jsonl")


def point(x, time):
    return {"x": x, "y": 0.5, "time_ms_since_epoch": time, "kf_idx": 0}


def visual_genome(root, image):
    url = "https://cs.stanford.edu/people/rak248/VG_100K/9.jpg"
    box = {"x": 50, "y": 30, "w": 20, "h": 20}  # leaves the image
    thing = {"object_id": 1, "names": ["dog"], **box}
    region = {"region_id": 1, "phrase": "a dog", "x": -2, "y": 3, **SIZE}
    question = {"qa_id": 1, "question": "Why?", "answer": "So."}
    content = {
        "image_data.json": [{"image_id": 9, "url": url, "coco_id": None, **SIZE}],
        "region_descriptions.json": [{"id": 9, "regions": [region]}],
        "objects.json": [{"image_id": 9, "objects": [thing]}],
        "attributes.json": [{"image_id": 9, "attributes": [{**thing, "attributes": ["wet"]}]}],
        "question_answers.json": [{"id": 9, "qas": [question]}],
    }
    write(root, content | {"VG_100K/9.jpg": image})
    return Folder(root, root, "VG_100K/9.jpg", "objects.json")


def refer(split_by, file, name):
    """What writes a REFER folder."""

    def write_it(root, image):
        sentence = {"sent_id": 3, "raw": "A dog", "sent": "a dog", "tokens": ["a", "dog"]}
        reference = {
            "ref_id": 1,
            "ann_id": 10,
            "image_id": 9,
            "category_id": 1,
            "split": "train",
            "sent_ids": [3],
            "sentences": [sentence],
        }
        instances = {
            "images": [{"id": 9, "file_name": name, **SIZE}],
            "annotations": [instance(9)],
            "categories": [{"id": 1, "name": "dog"}],
        }
        pickled = pickle.dumps([reference], protocol=2)
        write(root, {f"refs({split_by}).p": pickled, "instances.json": instances, file: image})
        return Folder(root, root, file, "instances.json")

    return write_it


def on_coco(split_by):
    return refer(split_by, COCO_FILE, COCO_FILE.split("/")[1])


def referring_json(root, image):
    entry = {"image": COCO_FILE, "sentence": "a dog", "bbox": [50, 30, 70, 50]}
    write(root, {"refs_train.json": [entry], COCO_FILE: image})
    return Folder(root, root, COCO_FILE, "refs_train.json")


def vcr(root, image):
    line = {
        "movie": "m",
        "objects": ["person"],
        "img_fn": "m/9.jpg",
        "metadata_fn": "m/9.json",
        "question": ["Why", [0], "?"],
        "answer_choices": [["a"], ["b"], ["c"], ["d"]],
        "answer_label": 2,
        "rationale_choices": [["e"], ["f"], ["g"], ["h"]],
        "rationale_label": 1,
        "img_id": "train-0",
        "annot_id": "train-0",
    }
    metadata = {
        "boxes": [[10, 5, 70, 35, 0.9]],
        "segms": [[[[10, 5], [70, 5], [70, 35]]]],
        "names": ["person"],
        **SIZE,
    }
    (root / "images").mkdir()
    write(root / "images", {"m/9.json": metadata, "m/9.jpg": image})
    write(root, {"train.jsonl": [line]})
    return Folder(root, root / "images", "m/9.jpg", "train.jsonl")


def vqa(prefix):
    """What writes a folder in the form of VQAv2."""

    def write_it(root, image):
        question = {"image_id": 9, "question": "Why?", "question_id": 90}
        answer = {
            "question_id": 90,
            "image_id": 9,
            "question_type": "why",
            "answer_type": "other",
            "answers": [{"answer": "so", "answer_confidence": "yes", "answer_id": 1}],
            "multiple_choice_answer": "so",
        }
        name = f"{prefix}OpenEnded_mscoco_train2014_questions.json"
        answers = f"{prefix}mscoco_train2014_annotations.json"
        content = {name: {"questions": [question]}, answers: {"annotations": [answer]}}
        write(root, content | {COCO_FILE: image})
        return Folder(root, root, COCO_FILE, name)

    return write_it


def gqa(root, image):
    name = "train_balanced_questions.json"
    write(root, {name: {"7": {"question": "Why?", "imageId": "9", "answer": "so"}}, "9.jpg": image})
    return Folder(root, root, "9.jpg", name)


def triplets(root, image):
    line = {"image": "9.jpg", "text": "a dog", "box": [50, 30, 70, 50], "provenance": {"by": "me"}}
    write(root, {"train.jsonl": [line], "9.jpg": image})
    return Folder(root, root, "9.jpg", "train.jsonl")


def own_regions(root, image):
    regions = [
        {"text": "dog", "box": [50, 30, 70, 50]},
        {"text": "dog", "points": [[70, 20], [1, 2]]},
        {"text": "dog", "mask": [[50, 30, 70, 30, 70, 50]]},
    ]
    write(root, {"train.jsonl": [{"image": "9.jpg", "regions": regions}], "9.jpg": image})
    return Folder(root, root, "9.jpg", "train.jsonl")


def tfds(root, image):
    import tensorflow_datasets as datasets

    features = {
        "image": datasets.features.Image(encoding_format="jpeg"),
        "objects": datasets.features.Sequence(
            {
                "bbox": datasets.features.BBoxFeature(),
                "label": datasets.features.ClassLabel(names=["dog"]),
            }
        ),
    }
    box = datasets.features.BBox(ymin=0.1, xmin=0.5, ymax=0.9, xmax=1.0)
    example = {"image": io.BytesIO(image or b""), "objects": [{"bbox": box, "label": 0}]}
    folder = build("dogs", root, features, [example])
    (shard,) = (path.name for path in folder.glob("*.array_record*"))
    return Folder(folder, folder, "train example 0", shard, "train example 0 cannot be read")


SMALLEST = {  # source: what writes its folder, from a root and the bytes of an image or None
    "coco": coco,
    "coco_instances": coco,
    "coco_captions": coco_captions,
    "coco_karpathy": coco_karpathy,
    "flickr30k_entities": flickr30k_entities,
    "localized_narratives": localized_narratives,
    "video_localized_narratives": video_localized_narratives,
    "visual_genome": visual_genome,
    "refer": refer("unc", "train2017/9.jpg", "9.jpg"),
    "refcoco_unc": on_coco("unc"),
    "refcoco_google": on_coco("google"),
    "refcoco+_unc": on_coco("unc"),
    "refcocog_umd": on_coco("umd"),
    "refcocog_google": on_coco("google"),
    "refclef_unc": refer("unc", "images/9.jpg", "images/9.jpg"),
    "refclef_berkeley": refer("berkeley", "images/9.jpg", "images/9.jpg"),
    "referring_json": referring_json,
    "vcr": vcr,
    "vqav2": vqa("v2_"),
    "okvqa": vqa(""),
    "gqa": gqa,
    "triplets": triplets,
    "own_regions": own_regions,
    "tfds": tfds,
}
