"""The section of the report about scribbles made worse: a chart for every way."""

from regionjax import charts
from regionjax.evaluators.robustness import curves

TITLES = {
    "outside": "share of the points outside the region",
    "jitter": "jitter, by the square root of the region's area",
    "shuffled": "share of the points out of order",
    "points": "number of points",
}
DRAWN = ("exact_match", "rouge_l", "miou")  # from 0 to 1; CIDEr has charts of its own


def section(scores):
    """HTML; "" if nothing of the kind was evaluated.

    Args:
      scores: {key: number}, see evaluators/robustness.py.
    """
    charts_of = {}
    for (kind, name), line in curves(scores).items():
        score = name.split("/")[-1]
        if score == "cider" or score in DRAWN:
            title = TITLES[kind] + (" (CIDEr-D)" if score == "cider" else "")
            charts_of.setdefault(title, {})[name] = line
    if not charts_of:
        return ""
    drawn = "".join(charts.curves(lines, title, smooth=False) for title, lines in charts_of.items())
    return (
        '<section><h2>Careless scribbles</h2><p class="lead">Scores of regions that are shown as '
        f'points alone, against how the points are made worse.</p><div class="charts">{drawn}'
        "</div></section>"
    )
