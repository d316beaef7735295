"""Turns annotation files and images into records: the command, and what training calls.

    python -m input_pipeline.prepare SOURCE --annotations A --images I --out DIR --split train
    python -m input_pipeline.prepare world coco refer --root ROOT --out DIR

The first form reads one source from where its files are (`--describe SOURCE` says which), the
second any number of them from the usual layout below one folder; `world` is the built-in world,
which is written there first. DIR gets a part for every source and split (input_pipeline/parts.py),
beside those that it has. Preparing again does nothing; after a kill it goes on with the first
missing file; other inputs for a part that is there are an error.

A config reads what was prepared with `data.prepared = (DIR, …)` and `data.mixture = {NAME: …}`.
"""

import argparse
import collections
import contextlib
import dataclasses
import fcntl
import inspect
import itertools
import json
import os
import pathlib
import re
import sys

from input_pipeline import preview, scenes, sources
from input_pipeline.data_config import WorldConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.leakage import read_exclusion
from input_pipeline.parts import eval_parts, find_parts, train_parts
from input_pipeline.plan import Plan, make_record, options_of
from input_pipeline.shards import Workers, prepare_part
from input_pipeline.sources.proposals import ResultsFile, find_proposals, proposals_file
from input_pipeline.sources.source import told_apart
from input_pipeline.texts import check_lengths, ensure_texts
from regionjax.config import nearest
from regionjax.journal import log

_SPLITS = ("train", "val")
_EXAMPLES = 10  # of a dry run and of a preview
_COUNTED = 1000  # items that a dry run looks at
_SAID = ("records", "annotations", "left_out", "noticed", "skipped_images", "licence")  # of facts
_NAME = re.compile(r"[A-Za-z0-9_+]+")


def ensure(data, spec, directory, *, processes=None, progress=True):
    """Makes sure that everything that `data` describes is prepared.

    What the folders in `data.prepared` lack is made of `data.root`, in `directory`, where the
    tokenizer and the lengths of texts lie as well (texts.py). Of a name whose weight is 0 only the
    eval split is needed.

    Args:
      data: DataConfig.
      spec: BatchSpec, or None to leave the lengths of texts unchecked.
      directory: the run's own, on a disk that all hosts of a run see.
      processes: how many work; the default is one for each core.
      progress: draw progress bars.

    Returns:
      {"parts": {NAME-SPLIT: facts (parts.Part)}, "tokenizer", "lengths" (texts.ensure_texts)}.

    Raises:
      DataError: data that cannot be read (names file and place), an empty part, a folder of other
        inputs, or a text that does not fit `spec` (if data.on_long is "stop").
    """
    directory = pathlib.Path(directory)
    processes = processes or os.cpu_count()
    if data.world is not None:
        scenes.write_world(
            data.root, **dataclasses.asdict(data.world), processes=processes, progress=progress
        )
    plans = _plans_of(data)
    with _locked(directory), Workers(processes) as workers:
        for plan in plans:
            plan.source.files(plan.split)  # what is missing is said before hours of work
        for plan in plans:
            prepare_part(plan, directory, workers, progress)
        train, evaluated = train_parts(data, directory), eval_parts(data, directory)
        facts = ensure_texts(
            data, list(train.values()), list(evaluated.values()), directory, progress=progress
        )
    if spec is not None:
        check_lengths(facts["lengths"], spec, data.on_long)
    parts = {part.key: part.facts for part in (*train.values(), *evaluated.values())}
    return {"parts": parts, **facts}


def _plans_of(data):
    """What is to be made of data.root: all that no folder in data.prepared has."""
    ready = find_parts(data.prepared)
    plans = []
    for name, weight in data.mixture.items():
        if name in ready:
            continue
        if not data.root or name not in sources.SOURCES:
            known = {**ready, **(sources.SOURCES if data.root else {})}
            where = " and ".join(map(str, data.prepared)) or "data.prepared, which is empty"
            raise DataError(
                f"mixture: {name} is neither prepared in {where} nor a source below data.root "
                f"= {data.root!r}{nearest(name, known)}"
            )
        source = sources.source_below(data.root, name)
        proposals = _proposals_below(data.root, data.eval_split)
        splits = data.splits if weight else (data.eval_split,)
        for split in splits:
            shown = proposals if split == data.eval_split else None
            plans.append(Plan(name, split, source, proposals=shown, on_bad=data.on_bad))
    return plans


def _proposals_below(root, split):
    """The file of proposals in the usual layout, or None; they are for evaluation alone."""
    path = proposals_file(pathlib.Path(root) / "annotations", split)
    return ResultsFile(path) if path.is_file() else None


@contextlib.contextmanager
def _locked(directory):
    """One process at a time prepares a folder; the others say so and wait."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process prepares %s; waiting until it is done", directory)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- command line -------------------------------------------------------------------------------


def main(arguments=None):
    """The command; see the top of the file."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.describe:
        return _end(parser, lambda: print(describe(given.describe)))
    names = [name for name in given.sources if name != "world"]
    world = "world" in given.sources
    if not given.sources:
        parser.error("name a source, or --describe one; --help lists them")
    if given.root and (given.annotations or given.images):
        parser.error("--root is for the usual layout; else give --annotations and --images")
    if not given.root and (world or len(names) != 1 or not (given.annotations and given.images)):
        parser.error("one source needs --annotations and --images; several, or `world`, --root")
    if given.name and len(names) != 1:
        parser.error("--name is the name of one source's parts")
    if given.root and given.proposals and not given.proposals.startswith("auto"):
        parser.error("--root has its proposals in annotations/; only `auto` goes with it")
    if names and not (given.out or given.dry_run):
        parser.error("--out is needed")
    return _end(parser, lambda: _run(given, names, world), given.out)


def _end(parser, work, out=None):
    try:
        work()
    except ValueError as error:  # a DataError, a WorldError or a setting that cannot be
        parser.exit(1, f"{error}\n")
    except OSError as error:  # a full disk, a folder that may not be written to
        anonymous = error.errno is not None and error.filename is None
        parser.exit(1, f"{out}: {error.strerror}\n" if anonymous else f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")


def _run(given, names, world):
    processes = given.processes or os.cpu_count()
    if world and given.dry_run:
        print(f"would write the built-in world to {given.root}")
        names = names if pathlib.Path(given.root).is_dir() else []
    elif world:
        settings = {field.name: getattr(given, field.name) for field in _WORLD}
        scenes.write_world(given.root, **settings, processes=processes)
    plans = _plans(given, names)
    if given.dry_run:
        for plan in plans:
            dry_run(plan, given.out)
    if given.preview and plans:
        _write_preview(plans[0], pathlib.Path(given.preview))
    if given.dry_run or not plans:
        return
    directory = pathlib.Path(given.out)
    for plan in plans:
        plan.source.files(plan.split)  # what is missing is said before hours of work
    with _locked(directory), Workers(processes) as workers:
        for plan in plans:
            facts = prepare_part(plan, directory, workers)
            said = {key: facts[key] for key in _SAID if key in facts}
            print(f"{plan.key}: {json.dumps(said, ensure_ascii=False)}")
            if plan.excluded and not facts["left_out"].get("excluded_images"):
                print(f"{plan.key}: none of the photographs to be excluded is in it")


def _plans(given, names):
    """The Plans of the command's arguments."""
    excluded = read_exclusion(given.exclude_images)
    plans = []
    for name in names:
        if given.root:
            source = sources.source_below(given.root, name)
        else:
            source = sources.open_source(name, given.annotations, given.images)
        source = _with_options(source, given.set)
        called = given.name or name
        if not _NAME.fullmatch(called):
            raise DataError(f"--name {called!r}: letters, digits, _ and + make a name")
        for split in given.split or _SPLITS:
            proposals = None
            if given.proposals:
                proposals = find_proposals(given.proposals, split)
            elif given.root and split != "train":
                proposals = _proposals_below(given.root, split)
            plans.append(Plan(called, split, source, proposals, excluded, given.on_bad))
    return plans


def _with_options(source, settings):
    """The source with what --set says; values get the type of the option's default."""
    options, changes = options_of(source), {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise DataError(f"--set {setting}: expected option=value")
        if key not in options:
            known = nearest(key, options) if options else "; it has none"
            raise DataError(f"--set {setting}: {source.name} has no option {key}{known}")
        try:
            changes[key] = type(options[key])(value)
        except ValueError as error:
            raise DataError(f"--set {setting}: {error}") from error
    return dataclasses.replace(source, **changes)


# ---- what would be done -------------------------------------------------------------------------


def dry_run(plan, out):
    """Prints what preparing a plan would read and write, with the first records."""
    print(f"{plan.key}: {first_line(plan.source)}")
    print(f"  licence: {plan.source.licence}")
    for name, paths in plan.files().items():
        size = sum(path.stat().st_size for path in paths)
        print(f"  reads {paths[0] if len(paths) == 1 else name} ({size:,} bytes)")
    if plan.proposals:
        print(f"  proposals: {plan.proposals}")
    print(f"  reads images below {plan.source.images}")
    for key, value in options_of(plan.source).items():
        print(f"  option {key} = {value!r}")
    if plan.excluded:
        print(f"  leaves out {len(plan.excluded.names)} photographs (names)")
    print(f"  writes {pathlib.Path(out or 'DIR') / 'records' / plan.key}-00000.array_record, …")
    tally = collections.Counter()
    items = list(itertools.islice(plan.items(tally), _COUNTED + 1))
    number = f"{len(items)}" if len(items) <= _COUNTED else f"more than {_COUNTED}"
    left_out, noticed = told_apart(tally)
    odd = f"; noticed: {noticed}" if noticed else ""
    print(f"  records: {number}; left out on the way: {left_out}{odd}")
    for item, proposals in items[:_EXAMPLES]:
        tally = collections.Counter()
        try:
            record = make_record(plan, item, proposals, tally)
        except BadImage as error:
            print(f"  {error}  ({plan.on_bad})")
            continue
        if record is None:
            print(f"  {item.file_name}: nothing is left: {dict(+tally)}")
            continue
        kinds = collections.Counter(annotation.kind for annotation in record.annotations)
        about = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"  {record.file_name}, {record.width}x{record.height}: {about}")
        for annotation in _one_of_each_kind(record.annotations):
            box = "whole image"
            if annotation.geometry is not None:
                box = f"{annotation.region.kind} in {annotation.region.bounding_box().round(3)}"
            print(f"    {annotation.kind}: {preview.said(annotation)!r} ({box})")


def _one_of_each_kind(annotations):
    return {annotation.kind: annotation for annotation in reversed(annotations)}.values()


def _write_preview(plan, path):
    """Writes the page of --preview: the first records of a plan."""
    tally, records, bad = collections.Counter(), [], []
    for item, proposals in plan.items(tally):
        try:
            record = make_record(plan, item, proposals, tally)
        except BadImage as error:
            if plan.on_bad == "stop":
                raise
            bad.append(str(error))
            continue
        if record is not None:
            records.append(record)
        if len(records) == _EXAMPLES:
            break
    left_out, noticed = told_apart(tally)
    lead = (
        f"The first {len(records)} records of {plan.source.name}, split {plan.split}. "
        f"{plan.source.licence}. {f'Left out so far: {left_out}. ' if left_out else ''}"
        f"{f'Noticed: {noticed}. ' if noticed else ''}"
        f"{f'Images that cannot be read: {bad}. ' if bad else ''}"
    )
    path.write_text(preview.render(plan.key, lead, records), encoding="utf-8")
    print(f"preview: {path}")


# ---- help ---------------------------------------------------------------------------------------

_WORLD = dataclasses.fields(WorldConfig)


def _source(name):
    """The source of that name, over files that nobody looks for."""
    if name not in sources.SOURCES:
        raise DataError(f"{name} is not a source{nearest(name, sources.SOURCES)}")
    return sources.SOURCES[name][0](pathlib.Path("ANNOTATIONS"), pathlib.Path("IMAGES"))


def first_line(source):
    """What a source is, on one line."""
    return inspect.getdoc(type(source)).split("\n")[0]


def describe(name):
    """The documentation of a source, its options and its licence."""
    source = _source(name)
    text = [inspect.getdoc(inspect.getmodule(type(source))), ""]
    text += [f"--set {key}={value}" for key, value in options_of(source).items()]
    _, annotations, images = sources.SOURCES[name]
    below = f"With --root ROOT: ANNOTATIONS is ROOT/{annotations}, IMAGES is ROOT/{images}"
    return "\n".join([*text, below, f"Licence: {source.licence}"])


def _parser():
    listed = "\n".join(f"  {name:<27} {first_line(_source(name))}" for name in sources.SOURCES)
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.prepare",
        description=__doc__,
        epilog=f"sources:\n{listed}\n\n--describe SOURCE tells the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="what to read; see the end of this page")
    add("--describe", metavar="SOURCE", help="which files a source needs, and its options")
    add("--annotations", type=pathlib.Path, help="where the annotation files are")
    add("--images", type=pathlib.Path, help="where the images are")
    add("--root", help="a folder in the usual layout, in place of the two")
    add("--out", metavar="DIR", help="the prepared folder")
    add("--split", action="append", help="may be repeated; default: train and val")
    add("--name", help="of the parts, for a mixture; default: the source's")
    add(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the source"
    )
    add(
        "--proposals",
        metavar="FILE|FOLDER|auto[:DIR]",
        help="masks to choose from when an expression is evaluated: a JSON file in COCO's results "
        "form, a folder with proposals_SPLIT2017.json, a folder with Segment Anything's "
        "NAME/*.png or NAME.json for each image, `auto` (segments of the pixels) or `auto:DIR` "
        "(masks of the SAM or SAM 2 checkpoint in DIR; needs PyTorch and torchvision)",
    )
    add("--processes", type=int, help="default: one for each core")
    add("--on_bad", choices=("stop", "skip"), default="stop", help="images that cannot be read")
    add(
        "--exclude_images",
        action="append",
        default=[],
        metavar="FILE|DIR:NAME-SPLIT",
        help="photographs to leave out: a text file with one image id, file name or COCO id "
        "(coco:ID) a line, or the photographs of a part; may be repeated",
    )
    add("--dry_run", action="store_true", help="only say what would be done, with ten examples")
    add("--preview", metavar="FILE.html", help="write a page with ten examples as pictures")
    world = parser.add_argument_group("the built-in world (with `world` among the sources)")
    for field in _WORLD:
        kind = {"action": "store_true"} if field.type is bool else {"type": int}
        world.add_argument(f"--{field.name}", default=field.default, **kind)
    return parser


if __name__ == "__main__":
    sys.exit(main())
