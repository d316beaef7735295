"""The table of claims: JSON for programs, text for the terminal, a page with plots."""

import dataclasses
import html
import json

from regionjax import charts
from regionjax.cards import document
from regionjax.claims.verdicts import FAILS, HOLDS, MISSING, RULES, judged, measured

MARKS = {HOLDS: "right", FAILS: "wrong"}  # classes of page.css
INTERVALS = (
    "Scores are means over seeds with 95 % intervals: the doubt by the images evaluated on (a "
    "bootstrap, in each run) and the doubt by the seeds (Student’s t), added as squares."
)


def forms(claims, found, *, title):
    """{"json", "txt", "html": text}: the table.

    Args:
      claims: settings.ClaimsConfig.
      found: {variant: {seed: scores of report.json}}.
      title: of the page.
    """
    rows = judged(claims, found)
    return {
        "json": _json(claims, found, rows),
        "txt": _text(claims, found, rows),
        "html": _page(claims, found, rows, title),
    }


def _rules(claims):
    """{rule: text} of those that rows have."""
    used = {row.rule for part in claims.parts.values() for row in part.rows.values()}
    return {name: text.format(margin=claims.margin) for name, text in RULES.items() if name in used}


def _json(claims, found, rows):
    table = [
        {
            "part": row.part,
            "number": row.number,
            **dataclasses.asdict(row.row),
            "measured": row.score and row.score.plain(),
            "compared_with": row.than and row.than.plain(),
            "verdict": row.verdict,
        }
        for row in rows
    ]
    curves = {
        letter: {
            title: {
                line: [
                    {"x": x, **score.plain()}
                    for x, name in points
                    if (score := measured(name, found)) is not None
                ]
                for line, points in curve.lines.items()
            }
            for title, curve in part.curves.items()
        }
        for letter, part in claims.parts.items()
    }
    runs = {
        name: {"says": claims.variants[name].says, "seeds": sorted(seeds)}
        for name, seeds in found.items()
    }
    content = {"rules": _rules(claims), "rows": table, "curves": curves, "runs": runs}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


# ---- text ---------------------------------------------------------------------------------------


def _text(claims, found, rows):
    lines = [INTERVALS, *_rules(claims).values()]
    for letter, part in claims.parts.items():
        lines += ["", f"({letter}) {part.title}"]
        for row in rows:
            if row.part == letter:
                lines.append(f"  {row.verdict.upper():<14} {row.row.says}")
                for name, score in ((row.row.score, row.score), (row.row.than, row.than)):
                    lines.append(f"  {'':<14}   {name:<52} {_shown(name, score)}")
    lines += ["", f"runs: {_counted(claims, found)}"]
    return "\n".join(lines) + "\n"


def _shown(name, score):
    if score is None:
        return "-"
    seeds = len(score.each)
    value, low, high = _numbers(name, score)
    return f"{value} [{low} to {high}], {seeds} seed{'s' * (seeds > 1)}"


def _numbers(name, score):
    """The score and the ends of its interval, as text."""
    text = "{:.2f}" if score.counted or name.endswith("cider") else "{:.1%}"
    return [text.format(value) for value in (score.value, score.low, score.high)]


def _counted(claims, found):
    done = sum(len(seeds) for seeds in found.values())
    return f"{done} of {len(claims.variants) * len(claims.seeds)} finished"


# ---- page ---------------------------------------------------------------------------------------


def _page(claims, found, rows, title):
    counts = {
        verdict: sum(row.verdict == verdict for row in rows)
        for verdict in dict.fromkeys(row.verdict for row in rows)
    }
    facts = {**counts, "runs": _counted(claims, found), "seeds": str(len(claims.seeds))}
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    rules = "".join(f"<br>{html.escape(text)}" for text in _rules(claims).values())
    header = (
        f"<header><h1>{html.escape(title)}</h1><p class='lead'>What a paper claims, tried with the "
        f"runs of one config.</p><dl class='facts'>{shown}</dl>"
        f"<p class='lead'>{html.escape(INTERVALS)} The rules were written down before the runs."
        f"{rules}</p></header>"
    )
    sections = [_section(letter, claims.parts[letter], rows, found) for letter in claims.parts]
    return document(title, [header, *sections, _runs(claims, found)])


def _section(letter, part, rows, found):
    table = "".join(_row(row) for row in rows if row.part == letter)
    plots = ""
    for title, curve in part.curves.items():
        lines = {}
        for line, points in curve.lines.items():
            scores = [(x, measured(name, found)) for x, name in points]
            lines[line] = [(x, s.value, s.low, s.high) for x, s in scores if s is not None]
        plots += charts.measured(lines, title, curve.x)
    plots = f'<div class="charts" style="margin-top:14px">{plots}</div>' if plots else ""
    return (
        f"<section><h2>({html.escape(letter)}) {html.escape(part.title)}</h2>"
        '<div class="panel"><table><thead><tr><th>claim</th><th>verdict</th><th>scores</th>'
        f"<th>on one scale</th></tr></thead><tbody>{table}</tbody></table></div>{plots}</section>"
    )


def _row(row):
    lines = ""
    for name, score in ((row.row.score, row.score), (row.row.than, row.than)):
        value = '<span class="missing">nothing measured</span>'
        if score is not None:
            value, low, high = _numbers(name, score)
            value = f"<b>{value}</b> {low} – {high}"
        lines += f"{value}<br><small>{html.escape(name)}</small><br>"
    plot = ""
    if row.verdict != MISSING:
        scores = [(score.value, score.low, score.high) for score in (row.score, row.than)]
        plot = charts.pair(*scores, max(1e-9, *(high for _, _, high in scores)) * 1.05)
    rule, mark = row.row.rule.replace("_", " "), MARKS.get(row.verdict, "missing")
    return (
        f'<tr><td class="claim">{html.escape(row.row.says)}</td>'
        f'<td class="verdict"><span class="{mark}">{row.verdict}</span>'
        f'<small>rule: {rule}</small></td><td class="scores">{lines}</td>'
        f'<td class="plot">{plot}</td></tr>'
    )


def _runs(claims, found):
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(variant.says)}</td>"
        f"<td>{', '.join(map(str, sorted(found.get(name, ())))) or '–'}</td></tr>"
        for name, variant in claims.variants.items()
    )
    return (
        '<section><h2>Runs</h2><p class="lead">Each has a folder of its own, VARIANT-seedN, with a '
        'report and pictures.</p><div class="panel"><table><thead><tr><th>variant</th>'
        f"<th>what it is</th><th>seeds finished</th></tr></thead><tbody>{rows}</tbody></table>"
        "</div></section>"
    )
