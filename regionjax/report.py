"""What an evaluation leaves behind: report.json for programs, report.html for people."""

import dataclasses
import json
import os
import pathlib

from regionjax import metrics, page


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything an evaluation found.

    Attributes:
      scores: {key: number, or None where the data has no such items}; becomes report.json.
      about: how it was measured (split, prompts, counts …), JSON-able; "about" in report.json.
      answers: {benchmark: list of captioning.Answer}; those that start with "region_caption", and
        "no_region", are about the same items in the same order.
      choices: list of referring.Choice.
      places: list of grounding.Place.
    """

    scores: dict
    about: dict
    answers: dict
    choices: list
    places: list


def write(workdir, results, *, title, gallery, seed):
    """Writes report.json and report.html into `workdir`; returns the path of the page.

    Args:
      results: Results.
      title: of the page.
      gallery: pictures a section.
      seed: of the draw of the pictures.
    """
    workdir = pathlib.Path(workdir)
    numbers = {**results.scores, "about": results.about}
    _replace(workdir / "report.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    curves = series(metrics.read(workdir))
    text = page.render(results, curves, title=title, gallery=gallery, seed=seed)
    _replace(workdir / "report.html", text)
    return workdir / "report.html"


def series(entries):
    """Logged steps (metrics.read) as {name: (steps, values)}; what is null is left out."""
    found = {}
    for entry in entries:
        for name, value in entry.items():
            if name != "step" and value is not None:
                steps, values = found.setdefault(name, ([], []))
                steps.append(entry["step"])
                values.append(value)
    return found


def _replace(path, text):
    """Writes a file so that a reader sees the old one or the new one, whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
