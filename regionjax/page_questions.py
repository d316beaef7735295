"""Questions on the report's page: what was answered and what was chosen, beside less to look at."""

import html

from regionjax import pictures
from regionjax.cards import card_of, drawn_on, gallery_of, key_of, mark_of
from regionjax.regions import WHOLE_IMAGE

NAMES = {"vqav2": "VQAv2", "okvqa": "OK-VQA", "gqa": "GQA", "vcr": "VCR"}
LESS = {"no_region": "without the region", "no_image": "without the image"}
RIGHT = 0.5  # of a score that is marked right


def sections(results, album, rng, gallery):
    """List of HTML sections: of each source its questions and its choices, cards drawn at random.

    Args:
      results: report.Results.
      album, rng, gallery: as everywhere on the page.
    """
    found = []
    for name, replies in results.replies.items():
        if not name.endswith(tuple(LESS)):
            less = {way: results.replies.get(f"{name}_{way}") for way in LESS}
            found.append(_answering(name, replies, less, album, rng, gallery))
    for name, picks in results.picks.items():
        if not name.endswith(tuple(LESS)):
            less = {way: results.picks.get(f"{name}_{way}") for way in LESS}
            found.append(_choosing(name, picks, less, album, rng, gallery))
    return found


def _answering(name, replies, less, album, rng, gallery):
    def card(index):
        reply = replies[index]
        words = f'<p class="said">{html.escape(reply.item.question)}</p>'
        words += _answer(reply.text, reply.score)
        if reply.score is not None and reply.score < RIGHT:
            words += f'<p class="other">truth: {html.escape(reply.item.answer)}</p>'
        for way, others in less.items():
            if others:
                words += _answer(others[index].text, others[index].score, LESS[way])
        return card_of([_shown(reply.item, album)], words)

    return gallery_of(
        f"Answering questions: {_called(name)}",
        f"The question, the answer, and the answers with less to look at. A region that is asked "
        f"about is {key_of('shown', 'outlined')}.",
        [reply.score is None or reply.score >= RIGHT for reply in replies],
        card,
        rng,
        gallery,
    )


def _choosing(name, picks, less, album, rng, gallery):
    def card(index):
        pick = picks[index]
        item = pick.item
        words = f'<p class="said">{html.escape(item.question)}</p>'
        words += _choice(item.choices, pick.answer, item.answer)
        for way, others in less.items():
            if others and others[index].answer is not None:
                text = item.choices[others[index].answer]
                words += _answer(text, others[index].credits["q_a"], LESS[way])
        if item.rationale is not None:
            words += '<p class="other">because</p>'
            words += _choice(item.rationales, pick.rationale, item.rationale)
        return card_of([_shown(item, album)], words)

    return gallery_of(
        f"Choosing answers and reasons: {_called(name)}",
        f"The chosen text, and the right one where that is another; objects are numbers in "
        f"brackets. The region of all objects that are named is {key_of('shown', 'outlined')}.",
        [min(pick.credits.values()) >= RIGHT for pick in picks],
        card,
        rng,
        gallery,
    )


def _called(name):
    source, _, rest = name.partition("_")
    return f"{NAMES.get(source, source)} {rest.replace('_', ' ')}".strip()


def _shown(item, album):
    region = item.region()
    layers = [] if region is WHOLE_IMAGE else [pictures.region_layer(region, "shown")]
    return drawn_on(item.record, layers, album, item.question)


def _answer(text, score, way=""):
    """A line with an answer, marked where its score is known."""
    mark = "" if score is None else f" {mark_of(score >= RIGHT)}"
    said = html.escape(text) or "(nothing)"
    return f'<p class="other{mark}">{way}{": " if way else ""}{said}</p>'


def _choice(texts, chosen, right):
    said = "(none)" if chosen is None else texts[chosen]
    words = _answer(said, float(chosen == right))
    if chosen != right:
        words += f'<p class="other">truth: {html.escape(texts[right])}</p>'
    return words
