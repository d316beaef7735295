"""From a source and a split to the files of a part; can be killed at any moment and goes on.

Annotations are read by this process; images are read, checked and written by others. So that
memory does not grow with the number of records, items wait on disk until their turn comes, texts
stay in the JSON file beside each shard, and only counts are kept.
"""

import collections
import concurrent.futures
import concurrent.futures.process
import dataclasses
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import pickle
import platform
import re
import signal
import threading

import tqdm

import regionjax
from input_pipeline import mixture, tasks
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.leakage import photograph
from input_pipeline.parts import (
    add_part,
    differences,
    photographs_file,
    read_facts,
    write_json,
)
from input_pipeline.plan import make_record, with_defaults
from input_pipeline.records import write_shard
from input_pipeline.sources.source import told_apart

SHARD = 2048  # records in a file: a million records are 500 open files
FEW = 256  # images for which other processes are not worth their start
_NAMED = 20  # skipped images that dataset.json names
# In place of data.prompts, which are the run's: what is asked is kept as the source wrote it.
_ASKED = {task: "{text}" if "{text}" in told else "" for task, told in tasks.PROMPTS.items()}


# ---- a part -------------------------------------------------------------------------------------


def prepare_part(plan, directory, workers, progress=True):
    """Writes a part of a prepared folder, unless it is there.

    Shards that an earlier call with the same inputs left behind are kept.

    Args:
      plan: Plan.
      directory: the prepared folder, locked by the caller.
      workers: Workers.
      progress: draw a progress bar.

    Returns:
      The facts of the part, see parts.Part.

    Raises:
      DataError: annotations that cannot be read (names file and place), a part without records,
        one that is there from other inputs, or one with skipped images if on_bad is "stop".
    """
    inputs = plan.inputs()
    finished = (directory / "dataset.json").is_file()
    facts = read_facts(directory)["parts"].get(plan.key) if finished else None
    if facts is None:
        facts = _write_part(plan, directory, inputs, workers, progress)
    elif differ := differences(with_defaults(facts["inputs"], plan.source), inputs):
        raise DataError(
            f"{directory}: {plan.key} was prepared from other inputs ({differ}); delete the folder "
            "or prepare into another one"
        )
    skipped = facts["skipped_images"]
    if skipped["count"] and plan.on_bad == "stop":
        raise DataError(
            f"{directory} leaves out {skipped['count']} images of {plan.key}, such as "
            f"{skipped['first'][0]}; on_bad = 'skip' allows it"
        )
    return facts


def _write_part(plan, directory, inputs, workers, progress):
    begun = _begin(plan.key, directory, inputs)
    listing = photographs_file(directory, plan.key)
    part = listing.with_name(listing.name + ".part")
    tally, summary = collections.Counter(), _Summary()
    shards = workers.shards(plan, directory / "records", tally, progress)
    with part.open("w", encoding="utf-8") as photographs:
        for shard in shards:
            photographs.writelines(f"{name}\n" for name in shard["photographs"])
            summary.add(shard)
    summary.tally.update(tally)
    if not summary.records:
        what = json.dumps(summary.facts())
        raise DataError(f"{plan.key} is empty: no usable record in {plan.source.images}; {what}")
    part.replace(listing)
    facts = {
        "name": plan.name,
        "split": plan.split,
        "source": plan.source.name,
        **summary.facts(),
        "inputs": inputs,
        "licence": plan.source.licence,
        "versions": _versions(),
    }
    add_part(directory, facts)
    begun.unlink()
    return facts


def _begin(key, directory, inputs):
    """Clears away what does not belong to a part with these inputs; returns the mark of them."""
    records = directory / "records"
    records.mkdir(parents=True, exist_ok=True)
    begun = records / f"{key}.inputs.json"
    same = begun.is_file() and json.loads(begun.read_text(encoding="utf-8")) == inputs
    ours = re.compile(re.escape(key) + (r"-\d{5,}\..*\.part" if same else r"-\d{5,}\..*"))
    for path in sorted(records.iterdir(), reverse=True):  # a shard's JSON before its records
        if ours.fullmatch(path.name):
            path.unlink()
    if not same:
        write_json(begun, inputs)
    return begun


def _versions():
    return {
        "python": platform.python_version(),
        "regionjax": regionjax.__version__,
        **{name: importlib.metadata.version(name) for name in ("array_record", "pillow")},
    }


class _Summary:
    """Counts over the shards of a part."""

    def __init__(self):
        self.files, self.skipped, self.first = {}, 0, []
        self.annotations, self.candidates, self.tally, self.photographs = (
            collections.Counter() for _ in range(4)
        )

    @property
    def records(self):
        return sum(self.files.values())

    def add(self, shard):
        if shard["records"]:
            self.files[shard["file"]] = shard["records"]
        self.skipped += len(shard["skipped_images"])
        self.first += shard["skipped_images"][: _NAMED - len(self.first)]
        for name in ("annotations", "candidates", "tally"):
            getattr(self, name).update(shard[name])
        of_coco = sum(name.startswith("coco:") for name in shard["photographs"])
        self.photographs.update(coco=of_coco, other=len(shard["photographs"]) - of_coco)

    def facts(self):
        left_out, noticed = told_apart(self.tally)
        return {
            "records": self.records,
            "annotations": dict(self.annotations),
            "candidates": dict(sorted(self.candidates.items())),
            "left_out": left_out,
            "noticed": noticed,
            "skipped_images": {"count": self.skipped, "first": self.first},
            "photographs": {name: self.photographs[name] for name in ("coco", "other")},
            "files": self.files,
        }


# ---- shards -------------------------------------------------------------------------------------


class Workers:
    """The processes that write shards, started when there is something to write."""

    def __init__(self, processes):
        """Takes their number; a single one is this process itself."""
        self._processes, self._pool, self._done = processes, None, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def shards(self, plan, folder, tally, progress):
        """Writes the shards of a plan into `folder`; yields what is in them, in order.

        `tally` is complete when the last one has been given.
        """
        items = plan.items(tally)
        chunks = iter(lambda: list(itertools.islice(items, SHARD)), [])
        chunks = (
            (chunk, folder / f"{plan.key}-{number:05d}.array_record")
            for number, chunk in enumerate(chunks)
        )
        begin = list(itertools.islice(chunks, 1))
        few = bool(begin) and len(begin[0][0]) < min(FEW, SHARD)  # and so it is the only one
        chunks = itertools.chain(begin, chunks)
        with tqdm.tqdm(desc=plan.key, unit=" images", disable=not progress) as bar:
            if self._processes == 1 or few:
                bar.total = len(begin[0][0]) if few else None
                for chunk, path in chunks:
                    yield _shard(plan, chunk, path, bar.update)
            else:
                try:
                    yield from self._in_parallel(plan, chunks, bar)
                except concurrent.futures.process.BrokenProcessPool as error:
                    raise DataError(
                        "a process that writes records was ended from outside, perhaps for want "
                        "of memory (--processes sets their number); what is written is kept"
                    ) from error

    def _in_parallel(self, plan, chunks, bar):
        self._start()
        before, total = self._done.value, 0
        plan = dataclasses.replace(plan, excluded=None)  # may be large, and is done with
        jobs = collections.deque()

        def finished():
            bar.update(self._done.value - before - bar.n)
            for job in jobs:
                if job.done():
                    job.result()  # an error ends it now, not when its turn comes
            while jobs and jobs[0].done():
                yield jobs.popleft().result()

        for chunk, path in chunks:
            total += len(chunk)
            waiting = path.with_name(path.name + ".items.part")
            waiting.write_bytes(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
            jobs.append(self._pool.submit(_waiting_shard, plan, waiting, path))
            yield from finished()
        bar.total = total  # from here on it is known
        while jobs:
            concurrent.futures.wait([jobs[0]], timeout=0.5)
            yield from finished()

    def _start(self):
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
            self._done = spawn.Value("Q")  # images
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._processes, spawn, initializer=_begin_worker, initargs=(self._done,)
            )


def _begin_worker(done):
    """In a worker: where images that are done are counted; it ends when the command ends.

    However that ends: a worker that outlives a killed command would write into files that the next
    command writes.
    """
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all; one says so
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _add_done(count):
    with _done.get_lock():
        _done.value += count


def _waiting_shard(plan, waiting, path):
    """In a worker: _shard of the items in a file, which then goes."""
    shard = _shard(plan, pickle.loads(waiting.read_bytes()), path, _add_done)
    waiting.unlink()
    return shard


def _shard(plan, items, path, done):
    """Writes one shard unless it is there; returns the JSON beside it, without the texts.

    done(n) is told of images as they are dealt with.
    """
    contents = path.with_suffix(".json")
    if contents.is_file():
        shard = json.loads(contents.read_text(encoding="utf-8"))
        done(len(items))
    else:
        shard = _write_shard(plan, items, path, done)
        write_json(contents, shard)
    del shard["texts"]
    return shard


def _write_shard(plan, items, path, done):
    counts = {name: collections.Counter() for name in ("annotations", "candidates", "tally")}
    texts = collections.defaultdict(collections.Counter)  # task → (prompt, answer)
    photographs, skipped = set(), []

    def records():
        for item, proposals in items:
            done(1)
            try:
                record = make_record(plan, item, proposals, counts["tally"])
            except BadImage as error:
                if plan.on_bad == "stop":
                    raise
                skipped.append(str(error))
                continue
            if record is None:
                continue
            photographs.add(photograph(record.file_name, record.coco_id))
            candidates = collections.Counter()
            for annotation in record.annotations:
                counts["annotations"][annotation.kind] += 1
                for task in tasks.tasks_of(annotation):
                    candidates[task] += 1
                    texts[task][tasks.texts(task, annotation, _ASKED)] += 1
            counts["candidates"][mixture.told(candidates)] += 1
            yield record.encode()

    return {
        "file": path.name,
        "records": write_shard(path, records()),
        **counts,
        "skipped_images": skipped,
        "photographs": sorted(photographs),
        "texts": {
            task: [[*pair, count] for pair, count in sorted(found.items())]
            for task, found in sorted(texts.items())
        },
    }
