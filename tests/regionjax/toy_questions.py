"""Questions about the toy images, and a predictor that answers them by looking."""

import dataclasses
import io

import numpy as np
import toy_benchmark as toy
from PIL import Image

from regionjax.evaluators.choices import numbered_prompts
from regionjax.evaluators.items import Asked, MultipleChoice
from regionjax.regions import WHOLE_IMAGE, Region


def asked(records, types=("other",)):
    """An item an object: its colour, as ten annotators say it."""
    items = []
    for record in records:
        for place, (name, mask) in enumerate(record.objects):
            colour = name.split()[0]
            items.append(
                Asked(
                    record=record,
                    region=lambda mask=mask: Region.from_mask(mask),
                    prompt="Question: what colour is it? Short answer:",
                    question="what colour is it?",
                    question_id=f"{int(record.image_id)}{place}",
                    answer=colour,
                    answers=(colour,) * 8 + ("teal",) * 2,
                    answer_type=types[place % len(types)],
                )
            )
    return items


def about_all(records):
    """An item an image, with one answer: a question about the whole image."""
    return [
        Asked(
            record=record,
            region=lambda: WHOLE_IMAGE,
            prompt="how many?",
            question="how many?",
            question_id=record.image_id,
            answer="four",
        )
        for record in records
    ]


def chosen(records):
    """An item an object: its colour among four, and its whole name among four."""
    items = []
    for record in records:
        for place, (name, mask) in enumerate(record.objects):
            rng = np.random.default_rng((int(record.image_id), place))
            colour, shape = name.split()
            others = rng.permutation([c for c in toy.COLOURS if c != colour])[:3].tolist()
            answer, rationale = rng.integers(4, size=2).tolist()
            choices = (*others[:answer], colour, *others[answer:])
            reasons = [f"it is a {other} {shape}" for other in others]
            reasons.insert(rationale, f"it is a {name}")
            question = f"what colour is [{place}] ?"
            items.append(
                MultipleChoice(
                    record=record,
                    region=lambda mask=mask: Region.from_mask(mask),
                    question=question,
                    prompt=f"answer {question}",
                    choices=choices,
                    answer=answer,
                    why_prompt=f"why {question} {colour}",
                    rationales=tuple(reasons),
                    rationale=rationale,
                    numbered=numbered_prompts(question, choices, answer, tuple(reasons)),
                )
            )
    return items


def is_blank(record):
    """Whether a record's image is of one colour."""
    pixels = np.asarray(Image.open(io.BytesIO(record.image)).convert("RGB"))
    return len(np.unique(pixels.reshape(-1, 3), axis=0)) == 1


class Looking:
    """Knows the region's object; without a region the image's first, on a blank image nothing."""

    def __init__(self):
        self.queries = []

    def has(self, name):
        return name in ("generate", "caption_nll")

    def name_of(self, query):
        if is_blank(query.record):
            return None
        return query.record.name_of(query.segment.region) or query.record.objects[0][0]

    def generate(self, queries, config):
        self.queries, self.config = list(queries), config
        return [self._say(query) for query in self.queries]

    def _say(self, query):
        name, prompt = self.name_of(query), query.segment.prompt
        if prompt == "how many?":
            return "4." if name else "1"
        if name is None:
            return "red"
        colour = name.split()[0]
        if "1. " not in prompt:
            return f"The {colour}!"
        listed = prompt.partition("1. ")[2].replace(" Answer: ", "")
        texts = [text.strip(" .") for text in listed.replace(" 2.", "|").replace(" 3.", "|")
                 .replace(" 4.", "|").split("|")]  # fmt: skip
        said = name if texts[0].startswith("it is") else colour
        texts = [text.removeprefix("it is a ") for text in texts]
        return f"number {1 + texts.index(said)} , I think" if said in texts else "no idea"

    def caption_nll(self, queries, texts):
        self.queries = list(queries)
        return toy.nll_table(self.queries, texts, self._nll)

    def _nll(self, query, text):
        name = self.name_of(query)
        if name is None:
            return 2.0
        return 0.1 if text in (name.split()[0], f"it is a {name}") else 3.0


@dataclasses.dataclass
class Scripted:
    """Says what it was told to say, of one text after the other, and remembers the questions."""

    answers: list

    def has(self, name):
        return True

    def generate(self, queries, config=None):
        self.queries = list(queries)
        assert len(self.queries) == len(self.answers)
        return self.answers

    def caption_nll(self, queries, texts, together=None, compared=False):
        self.queries, said = list(queries), iter(self.answers)
        found = toy.nll_table(self.queries, texts, lambda query, text: next(said))
        assert not list(said)
        return found
