"""The page of `prepare --preview`: some records as pictures, with their regions and texts.

One HTML file without scripts, fonts or links to other hosts.
"""

import html
import pathlib

from regionjax import pictures

_LARGEST = 480  # pixels of the longer side of a picture
_COLOURS = ("#e6007e", "#2563eb", "#16a34a", "#ea7317", "#9333ea", "#0e7490", "#ca8a04", "#dc2626")
_REGIONS = 24  # of one picture that are drawn; beyond that nobody finds anything
_TEXTS = 40  # of one picture that are listed
_STYLE = """
.record { display: grid; grid-template-columns: minmax(0, 480px) minmax(0, 1fr); gap: 0 20px;
  margin: 0 0 18px; background: var(--paper); border: 1px solid var(--line);
  border-radius: 12px; overflow: hidden; align-items: start; }
.record .said { padding: 12px 18px 14px 0; font-size: 14px; line-height: 1.45; }
.record h2 { margin: 0 0 8px; font-size: 15px; word-break: break-all; }
.record ul { margin: 0; padding: 0; list-style: none; }
.record li { padding: 2px 0; }
.kind { color: var(--soft); font-size: 12px; margin-right: 6px; }
.swatch { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px;
  background: var(--colour, transparent); border: 1px solid var(--colour, var(--soft)); }
.more { color: var(--soft); font-size: 13px; }
@media (max-width: 720px) { .record { grid-template-columns: 1fr; }
  .record .said { padding: 10px 14px; } }
"""


def render(title, lead, records):
    """The page as HTML text.

    Args:
      title, lead: what is shown, as plain text.
      records: list of Record.
    """
    album = pictures.Album(_LARGEST)
    cards = "\n".join(_card(record, album) for record in records)
    colours = "".join(
        f".shape.region-{n} {{ stroke: {colour}; }} "
        f".dots.region-{n} {{ fill: {colour}; stroke: #fff; stroke-width: 0.4; }} "
        f".swatch.region-{n} {{ --colour: {colour}; }}\n"
        for n, colour in enumerate(_COLOURS)
    )
    style = pathlib.Path(pictures.__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>\n{style}{_STYLE}{colours}</style></head>\n"
        f"<body>{album.definitions()}<main>\n<header><h1>{html.escape(title)}</h1>"
        f'<p class="lead">{html.escape(lead)}</p></header>\n{cards}\n</main></body></html>\n'
    )


def _card(record, album):
    styles = {}  # id of a geometry → its class; annotations of one object share it
    layers = []
    for annotation in record.annotations:
        key = id(annotation.geometry)
        if annotation.geometry is not None and key not in styles:
            styles[key] = f"region-{len(styles) % len(_COLOURS)}"
            if len(styles) <= _REGIONS:
                layers.append(pictures.region_layer(annotation.region, styles[key]))
    name = f"{record.file_name} · {record.width}×{record.height}"
    photo = album.add(f"{record.source} {record.file_name}", record.image)
    kinds = {}  # class and id of the geometry, text → kinds of annotation
    for annotation in record.annotations:
        key = styles.get(id(annotation.geometry), ""), id(annotation.geometry), said(annotation)
        kinds.setdefault(key, []).append(annotation.kind)
    texts = "".join(
        f'<li><span class="swatch {style}"></span><span class="kind">{", ".join(of_text)}</span>'
        f"{html.escape(text)}</li>"
        for (style, _, text), of_text in list(kinds.items())[:_TEXTS]
    )
    notes = []
    if len(styles) > _REGIONS:
        notes.append(f"{len(styles) - _REGIONS} more regions are not drawn")
    if len(kinds) > _TEXTS:
        notes.append(f"{len(kinds) - _TEXTS} more texts are not listed")
    if record.proposals:
        notes.append(f"{len(record.proposals)} proposals")
    more = f'<p class="more">{"; ".join(notes)}</p>' if notes else ""
    return (
        f'<section class="record">{pictures.picture(photo, layers, name)}'
        f'<div class="said"><h2>{html.escape(name)}</h2><ul>{texts}</ul>{more}</div></section>'
    )


def said(annotation):
    """The text of an annotation with what belongs to it: answers and choices, on one line."""
    text, extra = annotation.text, annotation.extra
    if annotation.kind == "question" and "answer" in extra:
        return f"{text} → {extra['answer']}"
    for label, choices in (("answer", "choices"), ("rationale", "rationales")):
        for number, choice in enumerate(extra.get(choices, ())):
            right = extra.get(label) == number
            text += f" {'✓' if right else '·'} {choice}"
    return text
