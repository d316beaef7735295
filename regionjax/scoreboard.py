"""The headline scores, each with what it has to be compared with."""

import dataclasses
import re

from regionjax.evaluators.grounding import ENOUGH


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the headline table: a score, and what it has to be compared with."""

    key: str
    name: str
    note: str
    baseline: str  # key
    against: str  # what the baseline is
    top: float = 1.0  # the best there is; CIDEr has 10

    def text(self, value):
        return f"{value:.2f}" if self.top > 1 else f"{100 * value:.1f}%"


HEADLINE = (
    Row(
        "region_caption/exact_match",
        "Naming a region",
        "shown as in the data, exact match",
        "no_region/exact_match",
        "region input removed",
    ),
    Row(
        "region_caption_box/exact_match",
        "… shown as a box",
        "exact match",
        "no_region/exact_match",
        "region input removed",
    ),
    Row(
        "region_caption_points/exact_match",
        "… shown as points",
        "exact match",
        "no_region/exact_match",
        "region input removed",
    ),
    Row(
        "region_caption_click/exact_match",
        "… by a click in its middle",
        "exact match",
        "no_region/exact_match",
        "region input removed",
    ),
    Row(
        "region_caption/cider",
        "Naming a region",
        "CIDEr-D",
        "no_region/cider",
        "region input removed",
        10.0,
    ),
    Row(
        "ris/miou",
        "Segmenting an expression",
        "mean IoU of the likeliest proposal",
        "ris/chance_miou",
        "a random proposal",
    ),
    Row(
        "ris/oiou",
        "… overall IoU",
        "summed intersection over summed union",
        "ris/chance_oiou",
        "a random proposal",
    ),
    Row(
        "ris/pr50",
        "… at least half right",
        f"IoU of the likeliest proposal at least {ENOUGH}",
        "ris/chance_pr50",
        "a random proposal",
    ),
    Row(
        "rec/acc50",
        "… as a box",
        f"IoU of that proposal's box at least {ENOUGH}",
        "rec/chance_acc50",
        "a random proposal's box",
    ),
    Row(
        "rec/pointing",
        "… as a point",
        "the proposal's pixel nearest to its centre, inside the true mask",
        "rec/chance_pointing",
        "a random proposal's",
    ),
    Row(
        "pointing/accuracy",
        "Pointing at an expression",
        "peak of the heatmap inside the true mask",
        "pointing/chance",
        "a random pixel",
    ),
    Row(
        "pointing/box_centre_accuracy",
        "… by the generated box",
        "its centre inside the true mask",
        "pointing/chance",
        "a random pixel",
    ),
    Row(
        "grounding/acc50",
        "Boxing an expression",
        f"IoU of the generated box at least {ENOUGH}",
        "grounding/chance_acc50",
        "a random proposal's box",
    ),
    Row(
        "narration/cider",
        "Narrating along a trace",
        "CIDEr-D",
        "narration_no_region/cider",
        "region input removed",
        10.0,
    ),
    Row(
        "image_caption/cider",
        "Describing the whole image",
        "CIDEr-D",
        "image_caption/borrowed_cider",
        "another image's caption",
        10.0,
    ),
)


def _vqa_row(key, name, note, source="vqav2"):
    return Row(
        f"{source}/{key}", name, note, f"{source}_no_image/{key}", "the same, without the image"
    )


# Shown where there are such items.
MORE = (
    Row(
        "image_caption/bleu_4",
        "Describing the whole image",
        "BLEU-4",
        "image_caption/borrowed_bleu_4",
        "another image's caption",
    ),
    Row(
        "image_caption/rouge_l",
        "Describing the whole image",
        "ROUGE-L",
        "image_caption/borrowed_rouge_l",
        "another image's caption",
    ),
    _vqa_row("accuracy", "Answering questions", "VQAv2, VQA accuracy"),
    _vqa_row("yes_no", "… by yes or no", "VQA accuracy"),
    _vqa_row("number", "… by a number", "VQA accuracy"),
    _vqa_row("other", "… by other words", "VQA accuracy"),
    _vqa_row("accuracy", "Answering by outside knowledge", "OK-VQA, VQA accuracy", "okvqa"),
    _vqa_row("accuracy", "Answering by steps", "GQA, exact match", "gqa"),
    Row(
        "vcr/q_a",
        "Choosing an answer",
        "VCR Q→A, the likeliest of four",
        "vcr_no_region/q_a",
        "region input removed",
    ),
    Row(
        "vcr/qa_r",
        "… the reason for the right one",
        "VCR QA→R",
        "vcr_no_region/qa_r",
        "region input removed",
    ),
    Row("vcr/q_ar", "… both", "VCR Q→AR", "vcr_no_region/q_ar", "region input removed"),
    Row(
        "vcr_digit/q_a",
        "Choosing an answer by its number",
        "VCR Q→A, as published",
        "vcr_digit_no_region/q_a",
        "region input removed",
    ),
    Row(
        "vcr_digit/qa_r",
        "… the reason for the right one",
        "VCR QA→R",
        "vcr_digit_no_region/qa_r",
        "region input removed",
    ),
    Row("vcr_digit/q_ar", "… both", "VCR Q→AR", "vcr_digit_no_region/q_ar", "region input removed"),
    Row(
        "vcr_no_image/q_a",
        "… an answer, without the image",
        "VCR Q→A from the text alone",
        "vcr/chance_q_a",
        "a random answer",
    ),
)


SETS = ("ris", "rec", "pointing", "grounding")  # scored by themselves where there are several sets


def rows_of(scores):
    """The Rows to be shown: all of HEADLINE, and those of MORE that there are scores of.

    What is scored by set has a Row for each (see looking.of_set).
    """
    shown = []
    for row in HEADLINE:
        family, name = row.key.split("/")
        suffixes = [""]
        if family in SETS:
            found = (re.fullmatch(f"{family}(_.+)/{name}", key) for key in scores)
            suffixes = [match[1] for match in found if match] or suffixes
        shown += [_of_set(row, suffix) for suffix in suffixes]
    return (*shown, *(row for row in MORE if scores.get(row.key) is not None))


def _of_set(row, suffix):
    """A Row for one of several sets; of the only one, "", the Row itself."""
    if not suffix:
        return row
    key, baseline = (f"{suffix}/".join(key.split("/")) for key in (row.key, row.baseline))
    note = f"{suffix[1:]}: {row.note}"
    return dataclasses.replace(row, key=key, baseline=baseline, note=note)


def summary(scores):
    """The headline table as plain text, a line a score, with intervals and baselines."""
    lines = []
    for row in rows_of(scores):
        if scores.get(row.key) is None:
            lines.append(f"{row.key:<34} -  (no such items)")
            continue
        low, high = (row.text(scores[f"{row.key}_{end}"]) for end in ("low", "high"))
        baseline = scores.get(row.baseline)
        against = "" if baseline is None else f"   {row.against}: {row.text(baseline)}"
        value = f"{row.text(scores[row.key])} [{low}, {high}]"
        lines.append(f"{row.key:<34} {value:<24}{against}")
    return "\n".join(lines)
