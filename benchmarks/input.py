"""What an example costs: milliseconds of one core from record bytes to a row of the batch.

    python -m benchmarks.input --config configs/quickstart.py --prepared runs/quickstart/data

`--prepared` is the `data` folder of a run, or a new one, which is then prepared. Time is the CPU
time of the thread, in chunks of 20 examples; a busy machine makes it longer (cold caches), so the
best chunk is shown beside the median one.
"""

import argparse
import pathlib
import time

import numpy as np

from input_pipeline import prepare
from input_pipeline.images import decode_image
from input_pipeline.parts import open_records
from input_pipeline.records import Record
from input_pipeline.tokens import Tokenizer
from input_pipeline.transforms import EncodeExample
from regionjax import config as configs
from regionjax.settings import Settings

CHUNK = 20


def milliseconds(make, examples):
    """(best, median) over chunks of the time that make(index) takes."""
    spent = []
    for start in range(0, examples, CHUNK):
        began = time.thread_time()
        for index in range(start, start + CHUNK):
            make(index)
        spent.append((time.thread_time() - began) / CHUNK * 1e3)
    return min(spent), float(np.median(spent))


def main():
    """Prints a line for each source of the config's mixture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--prepared", type=pathlib.Path, required=True)
    parser.add_argument("--examples", type=int, default=400)
    given = parser.parse_args()
    settings = configs.build(Settings, configs.load(given.config), "config")
    data, spec = settings.data, settings.batch
    prepare.ensure(data, spec, given.prepared)
    encode = EncodeExample(spec, data, Tokenizer(given.prepared / "tokenizer"), settings.seed)
    for source in data.mixture:
        payloads = open_records(given.prepared, source, data.train_split).payloads
        read = [payloads[index % len(payloads)] for index in range(given.examples)]
        images = [Record.decode(payload).image for payload in read]
        rows = [encode.map_with_index(index, payload) for index, payload in enumerate(read)]
        whole = milliseconds(lambda i, read=read: encode.map_with_index(i, read[i]), len(read))
        image = milliseconds(
            lambda i, images=images: decode_image(images[i], spec.image_size, ""), len(images)
        )
        filled = np.mean([row["target_weight"].any(axis=1).sum() for row in rows])
        print(
            f"{source}: {whole[0]:.2f} ms (median {whole[1]:.2f}) an example with "
            f"{filled:.1f} of {spec.regions} slots filled; the image alone {image[0]:.2f} ms"
        )


if __name__ == "__main__":
    main()
