"""The HTML page of a report: one file without scripts, fonts or links to other hosts.

Pictures are drawn at random with a seed, and then, apart, some of the mistakes: a sample, not a
selection.
"""

import html
import json

import numpy as np

from regionjax import charts, page_questions, page_robustness, pictures
from regionjax.cards import card_of, document, drawn_on, gallery_of, key_of, mark_of
from regionjax.evaluators.grounding import ENOUGH
from regionjax.scoreboard import rows_of

TEXTS = {  # benchmark: what it is called in the table of n-grams
    "region_caption": "name of a region",
    "no_region": "… region input removed",
    "narration": "narration along a trace",
    "narration_no_region": "… region input removed",
    "image_caption": "caption of the image",
}
CURVES = ("learning_rate", "gradient_norm", "regions_per_second", "mfu")  # drawn beside the losses


def render(results, series, *, title, gallery, seed):
    """The page as HTML text.

    Args:
      results: report.Results.
      series: {name: (steps, values)} of the training.
      title, gallery, seed: as in report.write.
    """
    album = pictures.Album()
    rng = np.random.default_rng(seed)
    sections = [
        _headline(results),
        _curves(series),
        _naming(results.answers, album, rng, gallery),
        _segmenting(results.choices, album, rng, gallery),
        _locating(results.places, album, rng, gallery),
        _narrating(results.answers.get("narration", []), album, rng, gallery),
        _describing(results.answers.get("image_caption", []), album, rng, gallery),
        *page_questions.sections(results, album, rng, gallery),
        _ngrams(results.scores),
        page_robustness.section(results.scores),
        _everything(results),
    ]
    return document(title, [_header(results, title), *sections], album.definitions())


def _header(results, title):
    scores, about = results.scores, results.about
    seconds = scores.get("time/total_seconds")
    facts = {
        "training steps": _count(scores.get("train/steps")),
        "regions a second": _count(scores.get("train/regions_per_second")),
        "total time": None if seconds is None else _duration(seconds),
        "split": about.get("split"),
        "images": _count(about.get("images")),
    }
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )
    seen = "has not seen" if about.get("held_out") else "learned from, all or some of them"
    return (
        f"<header><h1>{html.escape(title)}</h1>"
        '<p class="lead">What the model says about regions that someone points at, on images that '
        f"it {seen}.</p>"
        f'<dl class="facts">{shown}</dl></header>'
    )


def _headline(results):
    rows = "".join(_headline_row(row, results.scores) for row in rows_of(results.scores))
    return (
        '<section><div class="panel"><table class="headline"><thead><tr><th>task</th><th>score'
        "</th><th>with its 95% interval; the red mark is the baseline</th><th>baseline</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
        '<details><summary>How this is measured</summary><p class="lead">'
        "Intervals are 2.5–97.5% of a bootstrap that draws whole images. Exact match compares "
        "lower-case words without punctuation. CIDEr-D is that of coco-caption (perfect: 10 for "
        "texts of four words or more), and so are BLEU and ROUGE-L. “Region input removed” puts "
        "the same questions while the region is the whole image; “without the image”, over an even "
        "grey. Segmentation chooses the proposal under which the expression is likeliest, a tie "
        "counts as the average of the tied; chance takes any proposal. Pointing is decided by the "
        "highest pixel of the heatmap, brought to the size of the image bicubically; the centre of "
        "the generated box is scored as a second way to point. Text that is not a box scores 0. "
        "Answers to questions are scored as VQA’s evaluation program does it, by exact match where "
        "there is one right answer.</p></details></section>"
    )


def _headline_row(row, scores):
    name = f'<td class="name">{row.name}<small>{row.note}</small></td>'
    value = scores.get(row.key)
    if value is None:
        return f'<tr>{name}<td class="missing">no such items</td><td></td><td></td></tr>'
    low, high = scores[f"{row.key}_low"], scores[f"{row.key}_high"]
    baseline = scores.get(row.baseline)
    against = ""
    if baseline is not None:
        against = f"<b>{row.text(baseline)}</b> {row.against}"
    interval = f"{row.text(low)} – {row.text(high)}"
    return (
        f'<tr>{name}<td class="score">{row.text(value)}<br><small>{interval}</small></td>'
        f'<td class="plot">{charts.bar(value, low, high, baseline, row.top)}</td>'
        f'<td class="against">{against}</td></tr>'
    )


def _curves(series):
    losses = {name: points for name, points in series.items() if name.split("/")[0] == "loss"}
    drawn = charts.curves(losses, "loss", logarithmic=True)
    for name in CURVES:
        if name in series:
            smooth = name != "learning_rate"  # it is exact
            drawn += charts.curves({name: series[name]}, name.replace("_", " "), smooth=smooth)
    if not drawn:
        return ""
    return (
        '<section><h2>Training</h2><p class="lead">Over steps; the faint line is measured, the '
        f'firm one its running mean.</p><div class="charts">{drawn}</div></section>'
    )


def _naming(answers, album, rng, gallery):
    named = answers.get("region_caption", [])
    if not named:
        return ""
    ways = {
        "as a box": answers.get("region_caption_box"),
        "as points": answers.get("region_caption_points"),
        "by a click": answers.get("region_caption_click"),
        "without the region": answers.get("no_region"),
    }

    def card(index):
        answer = named[index]
        words = _said(answer)
        for name, way in ways.items():
            if way and (not way[index].correct or name == "without the region"):
                said = _text(way[index])
                words += f'<p class="other {mark_of(way[index].correct)}">{name}: {said}</p>'
        return card_of([_shown(answer, album)], words)

    return gallery_of(
        "Naming what is pointed at",
        f"The model sees the image and the region {key_of('shown', 'outlined')}. The other lines "
        "give its answer without the region, and, where it is wrong, to the same region shown in "
        "another way.",
        [answer.correct for answer in named],
        card,
        rng,
        gallery,
    )


def _segmenting(choices, album, rng, gallery):
    def card(index):
        choice = choices[index]
        item = choice.item
        layers = [pictures.region_layer(item.region(), "truth")]
        if choice.chosen is not None:
            chosen = item.proposals()[choice.chosen]
            layers.append(pictures.region_layer(chosen, "answer"))
        drawn = drawn_on(item.record, layers, album, f"segmentation of {item.expression}")
        words = (
            f'<p class="said {mark_of(choice.iou >= ENOUGH)}">{html.escape(item.expression)}</p>'
            f'<p class="other">IoU {choice.iou:.2f}</p>'
        )
        return card_of([drawn], words)

    return gallery_of(
        "Segmenting what is described",
        f"The proposal the model finds likeliest {key_of('answer', 'chosen')} beside the right "
        f"mask {key_of('truth', 'truth')}; ✓ from IoU {ENOUGH}.",
        [choice.iou >= ENOUGH for choice in choices],
        card,
        rng,
        gallery,
    )


def _locating(places, album, rng, gallery):
    def card(index):
        place = places[index]
        item = place.item
        heat = [pictures.heat_layer(place.heatmap), pictures.region_layer(item.region(), "truth")]
        if place.peak is not None:
            heat.append(pictures.cross_layer(place.peak, "answer"))
        boxes = [pictures.box_layer(item.box, "truth")]
        if place.box is not None:
            boxes.append(pictures.box_layer(place.box, "answer"))
        drawn = [
            drawn_on(item.record, heat, album, f"heatmap of {item.expression}"),
            drawn_on(item.record, boxes, album, f"box of {item.expression}"),
        ]
        box = f"box, IoU {place.iou:.2f}" if place.box is not None else "no box in the answer"
        words = (
            f'<p class="said">{html.escape(item.expression)}</p>'
            f'<p class="other"><span class="{mark_of(place.hit)}">peak</span> &nbsp; '
            f'<span class="{mark_of(place.iou >= ENOUGH)}">{box}</span></p>'
        )
        return card_of(drawn, words)

    return gallery_of(
        "Pointing and boxing",
        f"Left the heatmap for the text with its peak {key_of('answer', 'cross')} and the true "
        f"mask {key_of('truth', 'thick')}; right the generated box {key_of('answer', 'thin')} and "
        f"the true one {key_of('truth', 'thick')}.",
        [place.hit and place.iou >= ENOUGH for place in places],
        card,
        rng,
        max(1, gallery // 2),
        wide=True,
    )


def _narrating(answers, album, rng, gallery):
    return gallery_of(
        "Narrating along a trace",
        f"A sentence for the mouse trace {key_of('shown', 'drawn')}; its large dot is where it "
        "begins.",
        [answer.correct for answer in answers],
        lambda index: card_of([_shown(answers[index], album)], _told(answers[index])),
        rng,
        max(1, gallery // 2),
        mistakes=False,
    )


def _describing(answers, album, rng, gallery):
    def card(index):
        answer = answers[index]
        return card_of([drawn_on(answer.item.record, [], album, answer.text)], _told(answer))

    return gallery_of(
        "Describing the whole image",
        "The empty prompt on the whole image.",
        [answer.correct for answer in answers],
        card,
        rng,
        max(1, gallery // 2),
        mistakes=False,
    )


def _ngrams(scores):
    """A table of what n-grams say of each kind of text; nothing where there are no texts."""
    columns = {
        "BLEU-1": "bleu_1",
        "BLEU-2": "bleu_2",
        "BLEU-3": "bleu_3",
        "BLEU-4": "bleu_4",
        "ROUGE-L": "rouge_l",
        "CIDEr-D": "cider",
    }
    rows = ""
    for key, name in TEXTS.items():
        if scores.get(f"{key}/bleu_4") is None:
            continue
        cells = ""
        for column in columns.values():
            low, value, high = (scores[f"{key}/{column}{end}"] for end in ("_low", "", "_high"))
            cells += f'<td class="number" title="{low:.3f} – {high:.3f}">{value:.3f}</td>'
        rows += f"<tr><td>{name}</td>{cells}</tr>"
    if not rows:
        return ""
    head = "".join(f"<th>{column}</th>" for column in columns)
    return (
        '<section><h2>Texts by their words</h2><p class="lead">BLEU, ROUGE-L and CIDEr-D as '
        "coco-caption computes them; CIDEr-D goes to 10, the others to 1. Pointing at a number "
        'shows its interval.</p><div class="panel"><table><thead><tr><th>text</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _everything(results):
    keys = [key for key in results.scores if not key.endswith(("_low", "_high"))]
    rows = "".join(
        f"<tr><td><code>{html.escape(key)}</code></td>"
        + "".join(
            f'<td class="number">{_exact(results.scores.get(key + end))}</td>'
            for end in ("", "_low", "_high")
        )
        + "</tr>"
        for key in keys
    )
    about = html.escape(json.dumps(results.about, indent=2))
    return (
        "<section><h2>All numbers</h2><details><summary>Scores of report.json</summary>"
        '<div class="panel"><table><thead><tr><th>key</th><th>value</th><th>low</th><th>high</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div></details>"
        "<details><summary>What was measured</summary>"
        f'<div class="panel"><pre><code>{about}</code></pre></div></details></section>'
    )


# ---- parts of the page --------------------------------------------------------------------------


def _shown(answer, album):
    """The picture of an answer: its image and the region that the model was shown."""
    layers = [pictures.region_layer(answer.region, "shown")]
    return drawn_on(answer.item.record, layers, album, f"region answered with: {answer.text}")


def _said(answer):
    """A name, marked right or wrong; if wrong, the truth under it."""
    words = f'<p class="said {mark_of(answer.correct)}">{_text(answer)}</p>'
    if not answer.correct:
        words += f'<p class="other">truth: {html.escape(answer.item.references[0])}</p>'
    return words


def _told(answer):
    """A sentence with its score and a reference: there are many right ones."""
    return (
        f'<p class="said">{_text(answer)}</p>'
        f'<p class="other">reference: {html.escape(answer.item.references[0])}</p>'
        f'<p class="other">CIDEr-D {answer.cider:.1f}</p>'
    )


def _text(answer):
    return html.escape(answer.text) or "(nothing)"


def _count(value):
    return None if value is None else f"{value:,.0f}"


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _exact(value):
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
