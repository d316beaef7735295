"""What preparing costs: images a second, memory, and how long a large index takes to open.

    python -m benchmarks.preparing --photographs DIR

DIR is a folder in COCO's layout, such as COCO's own, whose first photographs and annotations are
written again and again until there are enough, at a JPEG quality that gives the 60 to 100 KB of the
photographs in COCO. Seconds of CPU, of all processes, tell what a machine with nothing else to do
would need. Memory is the peak of each process (Linux), at so many images and at four times as many.
The index is one of small records in as many files as that many photographs would have.
"""

import argparse
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from PIL import Image

from input_pipeline import parts, shards
from input_pipeline.records import Annotation, Record, write_shard

_QUALITY = 80
_BASE = 80  # different photographs
_SEEKS = 500


def write_data(photographs, folder, images):
    """A folder in COCO's layout with `images` images; returns the mean size of a file in bytes."""
    source = json.loads((photographs / "annotations/instances_train2017.json").read_text())
    captions = json.loads((photographs / "annotations/captions_train2017.json").read_text())
    base = source["images"][:_BASE]
    of_image = {entry["id"]: ([], []) for entry in base}
    for kind, entries in enumerate((source["annotations"], captions["annotations"])):
        for entry in entries:
            if entry["image_id"] in of_image:
                of_image[entry["image_id"]][kind].append(entry)
    encoded, sizes = {}, []
    (folder / "base").mkdir(parents=True)
    for entry in base:
        encoded[entry["id"]] = folder / "base" / entry["file_name"]
        with Image.open(photographs / "train2017" / entry["file_name"]) as image:
            image.convert("RGB").save(encoded[entry["id"]], "JPEG", quality=_QUALITY)
        sizes.append(encoded[entry["id"]].stat().st_size)
    (folder / "train2017").mkdir()
    (folder / "annotations").mkdir()
    entries, made = [], ([], [])
    for number in range(images):
        entry = base[number % len(base)]
        file_name = f"{number:012d}.jpg"
        (folder / "train2017" / file_name).hardlink_to(encoded[entry["id"]])
        entries.append(entry | {"id": number, "file_name": file_name})
        for of_kind, found in zip(made, of_image[entry["id"]], strict=True):
            for one in found:
                of_kind.append(one | {"id": len(of_kind), "image_id": number})
    content = {"images": entries, "annotations": made[0], "categories": source["categories"]}
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(content))
    content = {"images": entries, "annotations": made[1]}
    (folder / "annotations/captions_train2017.json").write_text(json.dumps(content))
    return statistics.mean(sizes)


def run(folder, out, processes):
    """(seconds, of CPU, peak MiB of the command itself, peak MiB of its largest worker)."""
    command = [sys.executable, "-m", "input_pipeline.prepare", "coco", "--split", "train"]
    places = ["--annotations", folder / "annotations", "--images", folder, "--out", out]
    began, used = time.perf_counter(), _cpu()
    command = [*command, *map(str, places), "--processes", str(processes)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    peaks = {}
    while child.poll() is None:
        for process in (child.pid, *_children(child.pid)):
            peaks[process] = max(peaks.get(process, 0), _peak(process))
        time.sleep(0.1)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    seconds = time.perf_counter() - began
    workers = [peak for process, peak in peaks.items() if process != child.pid]
    return seconds, _cpu() - used, peaks[child.pid], max(workers, default=0)


def _cpu():
    """Seconds of CPU of all child processes that have ended, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _children(process):
    try:
        return pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:  # it has just ended
        return []


def _peak(process):
    """Peak resident memory in MiB; 0 of a process that has ended."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024 if lines else 0


def write_index(folder, records):
    """A prepared folder of so many small records."""
    (folder / "records").mkdir(parents=True)
    annotations = [Annotation("phrase", "dog", "1")]
    encoded = Record("coco", "a.jpg", "1", 640, 480, b"", annotations).encode()
    files = {}
    for start in range(0, records, shards.SHARD):
        path = folder / "records" / f"small-train-{start // shards.SHARD:05d}.array_record"
        count = min(shards.SHARD, records - start)
        files[path.name] = write_shard(path, [encoded] * count)
    parts.add_part(folder, {"name": "small", "split": "train", "files": files})


def measure_index(folder):
    """(seconds to open, milliseconds of each seek)."""
    began = time.perf_counter()
    records = parts.open_records(folder, "small", "train")
    opened = time.perf_counter() - began
    rng, seeks = random.Random(0), []
    for _ in range(_SEEKS):
        place = rng.randrange(len(records))
        began = time.perf_counter()
        records[place]
        seeks.append((time.perf_counter() - began) * 1e3)
    return opened, sorted(seeks)


def main():
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photographs", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--index", type=int, default=1_000_000, help="records")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, before = pathlib.Path(folder), (0, 0, 0)
        for images in (given.images, 4 * given.images):
            size = write_data(given.photographs, folder / f"data-{images}", images)
            seconds, cpu, own, workers = run(
                folder / f"data-{images}", folder / f"out-{images}", given.processes
            )
            more = images - before[0]
            rate, each = more / (seconds - before[1]), (cpu - before[2]) / more * 1e3
            print(
                f"{images} images of {size / 1e3:.0f} kB with {given.processes} processes: "
                f"{seconds:.1f} s, {images / seconds:.0f} images/s; {cpu:.1f} s of CPU. The last "
                f"{more}: {rate:.0f}/s, {each:.2f} ms of CPU each. "
                f"Peak memory {own:.0f} MiB, of a worker {workers:.0f} MiB"
            )
            before = images, seconds, cpu
        write_index(folder / "index", given.index)
        opened, seeks = measure_index(folder / "index")
        print(
            f"{given.index} records: opened in {opened:.3f} s; seek {statistics.median(seeks):.2f} "
            f"ms (99 of 100 below {seeks[int(0.99 * len(seeks))]:.2f}, longest {seeks[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
