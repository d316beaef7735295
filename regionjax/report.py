"""What an evaluation leaves behind: report.json for programs, report.html for people."""

import dataclasses
import json
import os
import pathlib
import shutil

from regionjax import metrics, page
from regionjax.evaluators.vqa import predictions


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
      replies: {benchmark: list of vqa.Reply}; of each source also as `looking.called` says.
      picks: {benchmark: list of choices.Pick}, in the same way.
    """

    scores: dict
    about: dict
    answers: dict
    choices: list
    places: list
    replies: dict = dataclasses.field(default_factory=dict)
    picks: dict = dataclasses.field(default_factory=dict)


def write(workdir, results, *, title, gallery, seed):
    """Writes report.json and report.html into `workdir`; returns the path of the page.

    Answers to questions become predictions/BENCHMARK.json beside them, as the benchmarks' servers
    take them. What is there of another split is kept: report-SPLIT.json and so on.

    Args:
      results: Results.
      title: of the page.
      gallery: pictures a section.
      seed: of the draw of the pictures.
    """
    workdir = pathlib.Path(workdir)
    numbers = {**results.scores, "about": results.about}
    numbers = json.dumps(numbers, indent=2, allow_nan=False) + "\n"
    curves = series(metrics.read(workdir))
    text = page.render(results, curves, title=title, gallery=gallery, seed=seed)
    _keep_other_split(workdir, results.about.get("split"))
    replace_file(workdir / "report.json", numbers)
    for name, replies in results.replies.items():
        (workdir / "predictions").mkdir(exist_ok=True)
        said = json.dumps(predictions(name, replies), ensure_ascii=False) + "\n"
        replace_file(workdir / "predictions" / f"{name}.json", said)
    replace_file(workdir / "report.html", text)
    return workdir / "report.html"


def _keep_other_split(workdir, split):
    """Renames the report of another split, if that is what is there, by its split.

    What was kept of `split` is removed: its report is about to be written anew.
    """
    if not (workdir / "report.json").is_file():
        return
    before = json.loads((workdir / "report.json").read_text(encoding="utf-8"))["about"].get("split")
    if before == split:
        return
    for name, ending in (("predictions", ""), ("report", ".html"), ("report", ".json")):
        latest = workdir / f"{name}{ending}"
        for old in (workdir / f"{name}-{before}{ending}", workdir / f"{name}-{split}{ending}"):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        if latest.exists():
            latest.replace(workdir / f"{name}-{before}{ending}")


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


def replace_file(path, text):
    """Writes a file so that a reader sees the old one or the new one, whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
