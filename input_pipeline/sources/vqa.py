"""VQAv2, OK-VQA and GQA: questions about whole images.

VQAv2: ANNOTATIONS/v2_OpenEnded_mscoco_{split}_questions.json and
v2_mscoco_{split}_annotations.json; OK-VQA: the same names without v2_. `train` is train2014, `val`
val2014; of VQAv2 `test` is test2015 and `test-dev` test-dev2015; OK-VQA is tested on val2014, which
is its `test` too. Photographs are IMAGES/train2014/COCO_train2014_*.jpg and so on. A question and
its answers are joined by `question_id`; VQAv2 publishes no answers of its tests.

GQA: ANNOTATIONS/{split}_balanced_questions.json, an object of questions by their ids; splits train,
val, testdev and, without answers, test, challenge and submission. Photographs are
IMAGES/{imageId}.jpg. With Visual Genome's ANNOTATIONS/image_data.json beside it, it is known which
of them are COCO's.

All questions of an image make one record. A question is a `question` about the whole image; `extra`
has its `answer` (what the annotators agreed on), `answers` (of all ten, VQA alone) and
`answer_type` ("yes/no", "number", "other"; VQA alone), each where the split says so.
"""

import collections
import dataclasses
import pathlib
import re

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import ID, existing, field
from input_pipeline.sources.json_entries import Places, entries_of, list_entries, member_entries
from input_pipeline.sources.source import Item
from regionjax.config import nearest


@dataclasses.dataclass(frozen=True)
class QuestionsItem(Item):
    """The questions about one image.

    Attributes:
      questions: list of (id, question, extra of its annotation).
    """

    questions: list


class _Questions:
    """What the three have in common: a record of a QuestionsItem."""

    def record(self, item, tally):
        """The Record of a QuestionsItem; None if none of its questions has a text."""
        annotations = []
        for identifier, question, extra in item.questions:
            text = " ".join(question.split())
            if not text:
                tally["empty_questions"] += 1
                continue
            if not extra.get("answer", "x").strip():
                tally["questions_without_answer"] += 1
                extra = {key: value for key, value in extra.items() if key != "answer"}
            annotations.append(Annotation("question", text, identifier, extra=extra))
        if not annotations:
            tally["images_without_annotations"] += 1
            return None
        data, width, height = read_image(self.images, item.file_name)
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=width,
            height=height,
            image=data,
            annotations=annotations,
            coco_id=item.coco_id,
        )


# ---- VQAv2 and OK-VQA ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Vqav2(_Questions):
    """VQAv2: questions about COCO's photographs, ten answers each."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "vqav2"
    licence = "VQAv2: annotations CC BY 4.0, each photograph under its own Flickr licence"
    prefix = "v2_"
    subtypes = {  # split: the name of it in the files
        "train": "train2014",
        "val": "val2014",
        "test": "test2015",
        "test-dev": "test-dev2015",
    }

    def _subtype(self, split):
        found = self.subtypes.get(split, split)
        if found not in self.subtypes.values():
            raise DataError(f"{self.name} has no split {split}{nearest(split, self.subtypes)}")
        return found

    def files(self, split):
        """Annotation files of a split: the questions and, where they are public, the answers."""
        subtype = self._subtype(split)
        questions = self.annotations / f"{self.prefix}OpenEnded_mscoco_{subtype}_questions.json"
        answers = self.annotations / f"{self.prefix}mscoco_{subtype}_annotations.json"
        if subtype.startswith("test") and not answers.is_file():
            return [existing(questions)]
        return [existing(questions), existing(answers)]

    def items(self, split, tally):
        """Yields a QuestionsItem an image, in the order of their first questions."""
        paths = self.files(split)
        questions = _places(paths[0], "questions", ("image_id", "question", "question_id"))
        answered = Places(paths[-1])
        if len(paths) == 2:
            answered = _places(paths[1], "annotations", ("image_id", "answers", "question_id"))
            for image_id in answered:
                if image_id not in questions:
                    tally["answers_without_question"] += len(answered.read(image_id))
        folder = self._subtype(split).replace("test-dev", "test")
        for image_id in questions:
            file_name = f"{folder}/COCO_{folder}_{_number(image_id, paths[0]):012d}.jpg"
            asked = _by_question(questions, image_id)
            answers = _by_question(answered, image_id)
            tally["answers_without_question"] += len(answers.keys() - asked.keys())
            if len(paths) == 2:
                tally["questions_without_answer"] += len(asked.keys() - answers.keys())
            found = []
            for identifier, entry in asked.items():
                where = f"{paths[-1]}: question {identifier}"
                extra = _extra(answers[identifier], where) if identifier in answers else {}
                found.append((str(identifier), entry["question"], extra))
            yield QuestionsItem(str(image_id), file_name, image_id, found)


class Okvqa(Vqav2):
    """OK-VQA: questions about COCO's photographs that need outside knowledge, ten answers each."""

    name = "okvqa"
    licence = "OK-VQA: see its page; each photograph under its own Flickr licence"
    prefix = ""
    subtypes = {"train": "train2014", "val": "val2014", "test": "val2014"}


def _places(path, key, needed):
    """Places of the entries of a list by their `image_id`, checked to have what is needed."""
    places = Places(path)
    for number, (_, entry, place) in enumerate(entries_of(path, [key])):
        where = f"{path}: {key} {number}"
        for name in needed:
            kind = {"question": str, "answers": list}.get(name, ID)
            field(entry, name, where, kind)
        places.add(entry["image_id"], place)
    return places


def _by_question(places, image_id):
    """{question_id: entry} of an image."""
    entries = places.read(image_id)
    found = {entry["question_id"]: entry for entry in entries}
    if len(found) < len(entries):
        raise DataError(f"{places.path}: image {image_id} has a question_id twice")
    return found


def _number(image_id, path):
    if not isinstance(image_id, int):
        raise DataError(f"{path}: image_id {image_id!r} is not one of COCO's, a number")
    return image_id


def _extra(entry, where):
    """answer, answers and answer_type of an annotation entry."""
    answers = [field(answer, "answer", where, str) for answer in entry["answers"]]
    agreed = entry.get("multiple_choice_answer")  # OK-VQA has none
    if agreed is None:
        if not answers:
            raise DataError(f"{where} has neither `multiple_choice_answer` nor `answers`")
        agreed = collections.Counter(answers).most_common(1)[0][0]  # the first of equals
    elif not isinstance(agreed, str):
        raise DataError(f"{where}: `multiple_choice_answer` is a {type(agreed).__name__}")
    extra = {"answer": agreed, "answers": answers}
    if "answer_type" in entry:
        extra["answer_type"] = entry["answer_type"]
    return extra


# ---- GQA ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gqa(_Questions):
    """GQA: questions made from scene graphs of Visual Genome's photographs, balanced splits."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "gqa"
    licence = "GQA: CC BY 4.0; photographs as Visual Genome says"

    def files(self, split):
        """Annotation files of a split, and image_data.json where it is."""
        photographs = self.annotations / "image_data.json"
        questions = existing(self.annotations / f"{split}_balanced_questions.json")
        return [questions, photographs] if photographs.is_file() else [questions]

    def items(self, split, tally):
        """Yields a QuestionsItem an image, in the order of their first questions."""
        path, *photographs = self.files(split)
        places, identifiers = Places(path), collections.defaultdict(list)
        for identifier, entry, place in member_entries(path):
            where = f"{path}: question {identifier}"
            image_id = str(field(entry, "imageId", where, str | int))
            field(entry, "question", where, str)
            places.add(image_id, place)
            identifiers[image_id].append(identifier)
        coco_ids = _coco_ids(photographs[0]) if photographs else {}
        for image_id in places:
            if not re.fullmatch(r"\w+", image_id):
                raise DataError(f"{path}: imageId {image_id!r} cannot be the name of a file")
            found = []
            for identifier, entry in zip(identifiers[image_id], places.read(image_id), strict=True):
                where = f"{path}: question {identifier}"
                extra = {"answer": field(entry, "answer", where, str)} if "answer" in entry else {}
                tally["questions_without_answer"] += not extra
                found.append((identifier, entry["question"], extra))
            yield QuestionsItem(image_id, f"{image_id}.jpg", coco_ids.get(image_id), found)


def _coco_ids(path):
    """{Visual Genome's image id as text: COCO's} of image_data.json."""
    return {
        str(field(entry, "image_id", f"{path}: image {number}")): field(
            entry, "coco_id", f"{path}: image {number}", int
        )
        for number, (entry, _) in enumerate(list_entries(path))
        if isinstance(entry, dict) and entry.get("coco_id") is not None
    }
