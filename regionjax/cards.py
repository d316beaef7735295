"""Parts of the pages: the document, and galleries of cards, each with pictures and words."""

import html
import pathlib

from regionjax import pictures


def document(title, body, definitions=""):
    """A whole page: one file without scripts, fonts or links to other hosts.

    Args:
      title: plain text.
      body: list of HTML; empty ones are left out.
      definitions: HTML that stands before it, such as an Album's.
    """
    style = pathlib.Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>\n{style}</style></head>\n<body>"
        f"{definitions}<main>\n" + "\n".join(filter(None, body)) + "\n</main></body></html>\n"
    )


def gallery_of(title, lead, right, card, rng, count, *, mistakes=True, wide=False):
    """A section of `count` cards drawn at random, then some of the mistakes that were not drawn.

    Args:
      right: list of bool, one an answer.
      card: index of an answer → HTML.
    """
    if not right:
        return ""
    order = rng.permutation(len(right))
    drawn, rest = order[:count], order[count:]
    style = "gallery wide" if wide else "gallery"
    section = f'<h3>drawn at random</h3><div class="{style}">{"".join(map(card, drawn))}</div>'
    wrong = [index for index in rest if not right[index]][: max(1, count // 2)]
    if mistakes and wrong:
        section += f'<h3>some mistakes</h3><div class="{style}">{"".join(map(card, wrong))}</div>'
    return f'<section><h2>{title}</h2><p class="lead">{lead}</p>{section}</section>'


def card_of(drawn, words):
    """A card: pictures (list of one or two) and words, both HTML."""
    pair = drawn[0] if len(drawn) == 1 else f'<div class="pair">{"".join(drawn)}</div>'
    return f'<article class="card">{pair}<div class="words">{words}</div></article>'


def drawn_on(record, layers, album, label):
    """The picture of a record with layers over it, as HTML."""
    return pictures.picture(album.add(record.image_id, record.image), layers, label)


def mark_of(right):
    """The class of what is right or wrong."""
    return "right" if right else "wrong"


def key_of(style, name):
    """A legend in the middle of a sentence: the mark of a style and its name, as HTML."""
    return f'<span class="key-of">(<span class="mark {style}"></span>{name})</span>'
