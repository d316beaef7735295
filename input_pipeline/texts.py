"""The texts of a run: the tokenizer, made once, and how long each text is in its tokens.

Both lie in the run's own folder, as `tokenizer/` and `texts.json`. Texts are read from the files
beside the records, one file at a time, so memory does not grow with their number.
"""

import json
import shutil

import tqdm

from input_pipeline import tasks, tokens
from input_pipeline.errors import DataError
from input_pipeline.parts import differences, write_json
from input_pipeline.sources.annotation_files import digest
from input_pipeline.transforms import overflow


def ensure_texts(data, train, evaluated, directory, *, progress=True):
    """Makes the tokenizer and measures the texts of some parts, as far as that is to be done.

    Parts that come later (a mixture that changes) are measured; the tokenizer stays what it is.

    Args:
      data: DataConfig.
      train: list of Part; a tokenizer is trained on their texts.
      evaluated: list of Part.
      directory: the run's prepared folder, locked by the caller.
      progress: draw progress bars.

    Returns:
      {"tokenizer": {"size", "location_base"}, "lengths": [{"task", "prompt", "target" (both in
      tokens), "count" (of annotations), "example"}]}.

    Raises:
      DataError: a tokenizer that cannot be made, or the folder belongs to other texts.
    """
    file = directory / "texts.json"
    settings = _settings(data)
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
    else:
        shutil.rmtree(directory / "tokenizer", ignore_errors=True)  # made with unknown settings
        known = {"settings": settings, "parts": {}}
    if differ := differences(known["settings"], settings):
        raise DataError(
            f"{directory} was prepared with other settings ({differ}); delete it or prepare into "
            "another folder"
        )
    parts = {part.key: part for part in (*train, *evaluated)}
    for key, before in known["parts"].items():
        if key in parts and (differ := differences(before["inputs"], parts[key].facts["inputs"])):
            raise DataError(
                f"{directory} belongs to a run on other records of {key} ({differ}); delete it or "
                "use another folder"
            )
    tokenizer = _tokenizer(data, train, directory / "tokenizer")
    for key, part in parts.items():
        if key not in known["parts"]:
            lengths = _lengths(part, tokenizer, data, progress)
            known["parts"][key] = {"inputs": part.facts["inputs"], "lengths": lengths}
    known["tokenizer"] = {"size": tokenizer.size, "location_base": tokenizer.location_base}
    write_json(file, known)
    lengths = [entry for key in parts for entry in known["parts"][key]["lengths"]]
    return {"tokenizer": known["tokenizer"], "lengths": _added(lengths)}


def check_lengths(lengths, spec, on_long):
    """Raises DataError if texts do not fit into `spec` and on_long is "stop"."""
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


def _settings(data):
    """What decides the tokenizer and the lengths, besides the texts."""
    settings = {"location_bins": data.location_bins, "prompts": data.prompts}
    settings |= {"normalize_text": True} if data.normalize_text else {}
    if data.tokenizer:
        return settings | {"tokenizer": digest(tokens.file_of(data.tokenizer))}
    return settings | {"vocabulary_size": data.vocabulary_size}


class _Spoken:
    """All texts of some parts, each once for every file it is in; can be gone through again."""

    def __init__(self, parts, data):
        self._parts, self._prompts, self._normalize = parts, data.prompts, data.normalize_text

    def __iter__(self):
        yield from (tasks.PART, tasks.MORE)
        for part in self._parts:
            for texts in part.texts():
                spoken = set()
                for task, found in texts.items():
                    for asked, answer, _ in found:
                        answer = tasks.worded(task, answer, self._normalize)
                        prompt = tasks.prompt(task, asked, self._prompts, self._normalize)
                        spoken |= {prompt, answer}
                yield from sorted(spoken)


def _tokenizer(data, train, directory):
    """Makes the tokenizer, unless it is there."""
    if not directory.is_dir():
        if data.tokenizer:
            tokens.adopt(data.tokenizer, data.location_bins, directory)
        else:
            spoken = _Spoken(train, data)
            tokens.train(spoken, data.vocabulary_size, data.location_bins, directory)
    return tokens.Tokenizer(directory)


def _lengths(part, tokenizer, data, progress):
    """How long the prompts and targets of a part are, see ensure_texts."""
    lengths = []
    files = tqdm.tqdm(
        part.texts(), f"{part.key} texts", len(part.facts["files"]), disable=not progress
    )
    for texts in files:
        for task, found in texts.items():
            for asked, answer, count in found:
                prompt = tasks.prompt(task, asked, data.prompts, data.normalize_text)
                answer = tasks.worded(task, answer, data.normalize_text)
                target = 4 if task == "locate" else len(tokenizer.encode(answer))
                entry = {
                    "task": task,
                    "prompt": len(tokenizer.encode(prompt)),
                    "target": target + 1,  # and eos
                    "count": count,
                    "example": f"{prompt} → {answer}" if answer else prompt,
                }
                lengths.append(entry)
        lengths = _added(lengths)
    return lengths


def _added(lengths):
    """Entries of the same task and lengths as one, with the first one's example."""
    found = {}
    for entry in lengths:
        key = entry["task"], entry["prompt"], entry["target"]
        if key in found:
            found[key]["count"] += entry["count"]
        else:
            found[key] = dict(entry)
    return [found[key] for key in sorted(found)]
