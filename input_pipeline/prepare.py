"""Prepares data for training: the built-in world, records, tokenizer.

    python -m input_pipeline.prepare world coco refer --root DIR --out OUT --train 2000
    python -m input_pipeline.prepare coco --root DIR --out OUT --eval_split train

A prepared folder holds `records/` (ArrayRecord shards, each with a JSON file of what is in it),
`tokenizer/` and, written last, `dataset.json`. Preparing again does nothing; after a kill it goes
on with the first missing shard; a folder made from other files or settings is an error.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil

import tqdm

from input_pipeline import scenes, sources, tasks, tokens
from input_pipeline.data_config import DataConfig, WorldConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.records import COORDINATES, read_facts, write_shard
from input_pipeline.sources.annotation_files import existing
from input_pipeline.sources.proposals import proposal_regions, proposals_file, read_proposals
from input_pipeline.transforms import overflow

_FORMAT = 3  # of records and dataset.json; another number makes old folders an error
_SHARD = 512  # records in a file
_NAMED = 20  # skipped images that dataset.json names


def ensure(data, spec, directory, *, processes=None, progress=True):
    """Makes sure that `directory` holds the records and the tokenizer that `data` describes.

    Args:
      data: DataConfig.
      spec: BatchSpec, or None to leave the lengths of texts unchecked.
      directory: on a disk that all hosts of a run see.
      processes: how many work; the default is one for each core.
      progress: draw progress bars.

    Returns:
      dataset.json as a dict: coordinates, inputs, records, tokenizer, lengths.

    Raises:
      DataError: data that cannot be read (names file and place), an empty split, a folder of
        other inputs, or a text that does not fit `spec` (unless data.on_long is "skip").
    """
    directory = pathlib.Path(directory)
    processes = processes or os.cpu_count()
    if data.world is not None:
        scenes.write_world(
            data.root, **dataclasses.asdict(data.world), processes=processes, progress=progress
        )
    with _locked(directory):
        inputs = _inputs(data)
        finished = directory / "dataset.json"
        if finished.is_file():
            facts = read_facts(directory)
            _check_inputs(facts["inputs"], inputs, directory)
        else:
            _begin(directory, inputs)
            facts = _prepare(data, directory, inputs, processes, progress)
            _write_json(finished, facts)
            (directory / "inputs.json").unlink()
    _check_skipped(facts, data, directory)
    if spec is not None:
        check_lengths(facts["lengths"], spec, data.on_long)
    return facts


def check_lengths(lengths, spec, on_long):
    """Raises DataError if prepared texts do not fit into `spec` and on_long is "stop"."""
    long = [
        (entry, problem)
        for entry in lengths
        if (problem := overflow(entry["prompt"], entry["target"], spec))
    ]
    if long and on_long == "stop":
        entry, problem = max(long, key=lambda pair: pair[0]["prompt"] + pair[0]["target"])
        raise DataError(
            f"{sum(entry['count'] for entry, _ in long)} of "
            f"{sum(entry['count'] for entry in lengths)} texts do not fit into the batch, such as "
            f"{entry['task']} {entry['example']!r}: {problem}. Raise that length, or leave such "
            "texts out with data.on_long = 'skip'"
        )


def _prepare(data, directory, inputs, processes, progress):
    """Writes records and tokenizer; returns what goes into dataset.json."""
    parts = [(name, split) for name in data.mixture for split in data.splits]
    tallies = {part: collections.Counter() for part in parts}
    shards = {part: [] for part in parts}
    jobs = _shard_jobs(data, directory, tallies)
    with tqdm.tqdm(unit=" records", disable=not progress) as bar:
        for part, shard in _in_order(jobs, processes):
            shards[part].append(shard)
            bar.set_description("-".join(part), refresh=False)
            bar.update(shard["records"])
    records = {"-".join(part): _summary(shards[part], tallies[part]) for part in parts}
    for part, summary in records.items():
        if not summary["records"]:
            raise DataError(f"{part} of {data.root} is empty: no usable record; {summary}")
    texts = {
        split: _texts(shard for part in parts if part[1] == split for shard in shards[part])
        for split in data.splits
    }
    tokenizer = _tokenizer(texts[data.train_split], data, directory / "tokenizer")
    return {
        "coordinates": COORDINATES,
        "inputs": inputs,
        "records": records,
        "tokenizer": {"size": tokenizer.size, "location_base": tokenizer.location_base},
        "lengths": _lengths(texts.values(), tokenizer),
    }


# ---- records ------------------------------------------------------------------------------------


def _shard_jobs(data, directory, tallies):
    """Yields ((source name, split), arguments of _write_shard)."""
    for name, split in tallies:
        source = sources.source_below(data.root, name)
        items = _proposed(source, split, data, source.items(split, tallies[name, split]))
        for number in itertools.count():
            chunk = list(itertools.islice(items, _SHARD))
            if not chunk:
                break
            path = directory / "records" / f"{name}-{split}-{number:05d}.array_record"
            yield (name, split), (source, chunk, path, data.on_bad)


def _proposed(source, split, data, items):
    """Yields (item, its entries among the proposals); proposals are for evaluation alone."""
    path = proposals_file(pathlib.Path(data.root) / "annotations", split)
    wanted = split == data.eval_split and path.is_file()
    proposals = read_proposals(path) if wanted else {}
    for item in items:
        yield item, proposals.get(item.image_id, [])


def _in_order(jobs, processes):
    """Yields (part, shard) of (part, arguments of _write_shard), working a few ahead."""
    if processes == 1:
        for part, arguments in jobs:
            yield part, _write_shard(*arguments)
        return
    spawn = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    pool = concurrent.futures.ProcessPoolExecutor(processes, spawn)
    pending = collections.deque()
    try:
        for part, arguments in jobs:
            pending.append((part, pool.submit(_write_shard, *arguments)))
            if len(pending) > 2 * processes:
                part, future = pending.popleft()
                yield part, future.result()
        for part, future in pending:
            yield part, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(source, items, path, on_bad):
    """Writes one shard unless it is there; returns the JSON beside it: counts and texts."""
    contents = path.with_suffix(".json")
    if contents.is_file():
        return json.loads(contents.read_text())
    tally, kinds, skipped = collections.Counter(), collections.Counter(), []
    texts = {task: set() for task in tasks.ALL}  # of (prompt, answer)
    candidates = collections.Counter()  # {number of tasks that a record allows: records}
    encoded = []
    for item, proposals in items:
        try:
            record = source.record(item, tally)
        except BadImage as error:
            if on_bad == "stop":
                raise
            skipped.append(str(error))
            continue
        if record is None:
            continue
        if proposals:
            regions = proposal_regions(proposals, record.width, record.height, record.file_name)
            record = dataclasses.replace(record, proposals=regions)
        encoded.append(record.encode())
        candidates[sum(len(tasks.tasks_of(one)) for one in record.annotations)] += 1
        for annotation in record.annotations:
            kinds[annotation.kind] += 1
            for task in tasks.tasks_of(annotation):
                texts[task].add(tasks.texts(task, annotation))
    write_shard(path, encoded)
    shard = {
        "file": path.name,
        "records": len(encoded),
        "annotations": kinds,
        "candidates": {str(number): count for number, count in sorted(candidates.items())},
        "left_out": tally,
        "skipped_images": skipped,
        "texts": {task: sorted(found) for task, found in texts.items() if found},
    }
    _write_json(contents, shard)
    return shard


def _summary(shards, tally):
    """Counts of a source and split; `tally` is what was left out before there were records."""
    annotations, left_out, skipped = collections.Counter(), collections.Counter(tally), []
    candidates = collections.Counter()
    for shard in shards:
        annotations.update(shard["annotations"])
        candidates.update(shard["candidates"])
        left_out.update(shard["left_out"])
        skipped += shard["skipped_images"]
    return {
        "files": [shard["file"] for shard in shards if shard["records"]],
        "records": sum(shard["records"] for shard in shards),
        "annotations": annotations,
        "candidates": {key: candidates[key] for key in sorted(candidates, key=int)},
        "left_out": +left_out,
        "skipped_images": {"count": len(skipped), "first": skipped[:_NAMED]},
    }


# ---- texts --------------------------------------------------------------------------------------


def _texts(shards):
    """{task: set of (prompt, answer)} of some shards."""
    texts = {task: set() for task in tasks.ALL}
    for shard in shards:
        for task, found in shard["texts"].items():
            texts[task].update(map(tuple, found))
    return texts


def _tokenizer(texts, data, directory):
    """Makes the tokenizer from the train texts, unless it is there."""
    if not directory.is_dir():
        if data.tokenizer:
            tokens.adopt(data.tokenizer, data.location_bins, directory)
        else:
            spoken = {text for pairs in texts.values() for pair in pairs for text in pair}
            tokens.train(spoken | {tasks.PART}, data.vocabulary_size, data.location_bins, directory)
    return tokens.Tokenizer(directory)


def _lengths(texts_of_splits, tokenizer):
    """How long prompts and targets are: [{task, prompt, target (tokens), count, example}]."""
    lengths = {}
    for task in tasks.ALL:
        for prompt, answer in sorted(set().union(*(texts[task] for texts in texts_of_splits))):
            sizes = len(tokenizer.encode(prompt)), len(tokenizer.encode(answer)) + 1  # and eos
            if task == "locate":
                sizes = sizes[0], 4 + 1
            example = f"{prompt} → {answer}" if answer else prompt
            entry = dict(zip(("prompt", "target"), sizes, strict=True))
            entry = {"task": task, **entry, "count": 0, "example": example}
            lengths.setdefault((task, *sizes), entry)["count"] += 1
    return list(lengths.values())


# ---- the folder ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(directory):
    """One process at a time prepares a folder; the others wait."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _inputs(data):
    """Everything that decides what the folder holds, files by their content."""
    root = pathlib.Path(data.root)
    files = {}
    for name in data.mixture:
        source = sources.source_below(root, name)
        for path in itertools.chain(*(source.files(split) for split in data.splits)):
            files[str(path.relative_to(root))] = _digest(path)
    proposals = proposals_file(root / "annotations", data.eval_split)
    if proposals.is_file():
        files[str(proposals.relative_to(root))] = _digest(proposals)
    inputs = {
        "format": _FORMAT,
        "sources": sorted(data.mixture),
        "train_split": data.train_split,
        "eval_split": data.eval_split,
        "location_bins": data.location_bins,
        "files": files,
    }
    if data.tokenizer:
        return inputs | {"tokenizer": _digest(pathlib.Path(data.tokenizer) / "tokenizer.json")}
    return inputs | {"vocabulary_size": data.vocabulary_size}


def _digest(path):
    with existing(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _check_inputs(before, now, directory):
    """Raises DataError listing the differences between two results of `_inputs`."""
    before, now = (inputs | inputs["files"] for inputs in (before, now))
    differences = [
        f"{key}: {before.get(key)!r} → {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if key != "files" and before.get(key) != now.get(key)
    ]
    if differences:
        raise DataError(
            f"{directory} was prepared from other inputs ({'; '.join(differences)}); "
            "delete it or prepare into another folder"
        )


def _check_skipped(facts, data, directory):
    """Raises DataError if images were left out of the folder and are not to be."""
    for part, summary in facts["records"].items():
        if summary["skipped_images"]["count"] and data.on_bad == "stop":
            raise DataError(
                f"{directory} leaves out {summary['skipped_images']['count']} images of {part}, "
                f"such as {summary['skipped_images']['first'][0]}; data.on_bad = 'skip' allows it"
            )


def _begin(directory, inputs):
    """Keeps the shards of a preparation that was cut off, if it had the same inputs."""
    begun = directory / "inputs.json"
    if not begun.is_file() or json.loads(begun.read_text()) != inputs:
        shutil.rmtree(directory / "records", ignore_errors=True)
        shutil.rmtree(directory / "tokenizer", ignore_errors=True)
        _write_json(begun, inputs)
    (directory / "records").mkdir(exist_ok=True)


def _write_json(path, content):
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    part.replace(path)


# ---- command line -------------------------------------------------------------------------------

_OPTIONS = {field.name for field in dataclasses.fields(WorldConfig)} | {
    "train_split",
    "eval_split",
    "tokenizer",
    "vocabulary_size",
    "location_bins",
    "on_bad",
}


def main(arguments=None):
    """The command; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "what",
        nargs="+",
        help=f"`world` to write the built-in world, and sources: {tuple(sources.SOURCES)}",
    )
    parser.add_argument("--root", required=True, help="the data's folder")
    parser.add_argument("--out", help="the prepared folder (not needed for `world` alone)")
    parser.add_argument("--processes", type=int, help="default: one for each core")
    for field in (*dataclasses.fields(WorldConfig), *dataclasses.fields(DataConfig)):
        if field.name in _OPTIONS:
            parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    given = vars(parser.parse_args(arguments))
    what, root, out, processes = (given.pop(k) for k in ("what", "root", "out", "processes"))
    world = WorldConfig(
        **{field.name: given.pop(field.name) for field in dataclasses.fields(WorldConfig)}
    )
    names = [name for name in what if name != "world"]
    if names and not out:
        parser.error("--out is needed for sources")
    try:
        if not names:
            scenes.write_world(
                root, **dataclasses.asdict(world), processes=processes or os.cpu_count()
            )
            return
        mixture = dict.fromkeys(names, 1.0)
        data = DataConfig(root, mixture, world if "world" in what else None, **given)
        facts = ensure(data, None, out, processes=processes)
    except ValueError as error:  # a DataError, a WorldError or a setting that cannot be
        parser.exit(1, f"{error}\n")
    for part, summary in facts["records"].items():
        print(f"{part}: {json.dumps({k: v for k, v in summary.items() if k != 'files'})}")
    longest = {key: max(entry[key] for entry in facts["lengths"]) for key in ("prompt", "target")}
    print(f"tokenizer: {facts['tokenizer']}; longest texts in tokens: {longest}")


if __name__ == "__main__":
    main()
