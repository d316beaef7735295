"""A small system, its input and its config: enough to train in a second.

As a program it trains, and kills itself with SIGKILL on request:
    python toy.py WORKDIR step 5      after starting step 5
    python toy.py WORKDIR save 6      while the checkpoint of step 6 is being written
"""

import dataclasses
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from regionjax import checkpoint
from regionjax.flops import Part, Work
from regionjax.systems.system import System
from regionjax.train import open_input as open_records
from regionjax.train import train

VOCABULARY, WIDTH = 16, 128
WORK = Work({"toy": 10}, (Part("words", ("params/words/",), ("params/tower/",), 500, 0),))
TOGETHER = {"train.steps": 100_000, "train.checkpoint_every": 100_000, "model.noise": 0.0}


def config(**changes):
    """The config; `changes` such as {"train.steps": 3} replace single values."""
    made = ConfigDict(
        {
            "seed": 7,
            "system": "toy",
            "model": {"noise": 0.1},
            "data": {"root": "none", "mixture": {"toy": 1.0}},
            "batch": {
                "image_size": 8,
                "mask_size": 4,
                "regions": 3,
                "points": 2,
                "prompt_length": 2,
                "target_length": 5,
                "text_length": 7,
            },
            "losses": {"caption": 1.0, "grounding": 0.5},
            "optim": {"learning_rate": 0.01, "weight_decay": (("kernel", 0.1), (".*", 0.0))},
            "train": {
                "steps": 9,
                "batch_size": 16,
                "log_every": 1,
                "checkpoint_every": 3,
                "evaluate_at_end": False,
            },
            "mesh": {"data": 2, "fsdp": 2, "tensor": 2},
        }
    )
    made.update_from_flattened_dict(changes)
    return made


def build_system(config, spec):
    """Region pixels → hidden → one token distribution a region, and a box."""

    def init(rng, batch):
        del rng, batch  # constants: JAX's generator would take seconds to compile
        normal = lambda *shape: jnp.asarray(values.normal(0, 0.2, shape), jnp.float32)  # noqa: E731
        values = np.random.default_rng(0)
        params = {
            "tower": {"kernel": normal(spec.mask_size**2 + 3, WIDTH), "bias": jnp.zeros(WIDTH)},
            "words": {"kernel": normal(WIDTH, VOCABULARY)},
            "box": {"kernel": normal(WIDTH, 4)},
        }
        return params, {"momentum": {"words": params["words"]}}

    def losses(params, state, batch, rng, train):
        image = batch["image"].astype(jnp.float32).mean((1, 2)) / 255
        mask = batch["region_mask"].astype(jnp.float32).reshape(*batch["region_mask"].shape[:2], -1)
        image = jnp.broadcast_to(image[:, None], (*mask.shape[:2], 3))
        seen = jnp.concatenate([image, mask / 255], axis=-1)
        hidden = jnp.tanh(seen @ params["tower"]["kernel"] + params["tower"]["bias"])
        if train and config.model.noise:
            hidden += config.model.noise * jax.random.normal(rng, hidden.shape)
        logits = jax.nn.log_softmax(hidden @ params["words"]["kernel"])
        nll = -jnp.take_along_axis(logits, batch["target"], axis=-1)
        weight = batch["target_weight"]
        boxed = batch["target_box"].any(-1)
        miss = ((hidden @ params["box"]["kernel"] - batch["target_box"]) ** 2).sum(-1)
        terms = {
            "caption": ((nll * weight).sum(), weight.sum()),
            "grounding": ((miss * boxed).sum(), boxed.sum().astype(jnp.float32)),
        }
        words = params["words"]["kernel"]
        slow = 0.9 * state["momentum"]["words"]["kernel"] + 0.1 * jax.lax.stop_gradient(words)
        return terms, {"momentum": {"words": {"kernel": slow}}}, {}

    return System(
        init=init,
        losses=losses,
        loss_names=("caption", "grounding"),
        predict={},
        sharding_rules=(
            ("tower/kernel", P(None, ("fsdp", "tensor"))),
            ("tower/bias", P()),
            ("words/kernel", P("fsdp", "tensor")),
            ("box/kernel", P("tensor", "fsdp")),
        ),
        vocabulary=1000,
        flops=lambda: WORK,
    )


@dataclasses.dataclass
class Input:
    """Endless batches; example i is a function of (seed, i)."""

    spec: object
    seed: int
    batch_size: int
    next_example: int = 0
    before: object = None  # called with the number of the first example of every batch

    def __next__(self):
        if self.before:
            self.before(self.next_example)
        first = self.next_example + jax.process_index() * (self.batch_size // jax.process_count())
        count = self.batch_size // jax.process_count()
        rows = [example(self.spec, self.seed, i) for i in range(first, first + count)]
        self.next_example += self.batch_size
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def get_state(self):
        return {"next": self.next_example}

    def set_state(self, state):
        self.next_example = state["next"]

    def close(self):
        pass


def example(spec, seed, index):
    """One row; its texts have 0 to T tokens, so that slots and images weigh differently."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    lengths = rng.integers(0, spec.target_length + 1, spec.regions)
    weight = np.arange(spec.target_length) < lengths[:, None]
    row = {name: np.zeros(shape, dtype) for name, (shape, dtype) in spec.fields().items()}
    row["image"] = rng.integers(0, 256, row["image"].shape, np.uint8)
    row["region_mask"] = rng.integers(0, 256, row["region_mask"].shape, np.uint8)
    row["target"] = rng.integers(0, VOCABULARY, row["target"].shape, np.int32)
    row["target_weight"] = weight.astype(np.float32)
    row["target_box"][lengths % 2 == 1] = (0.1, 0.2, 0.5, 0.9)
    row["example"] = np.int32(index)
    return row


def open_input(data, spec, directory, *, seed, batch_size, vocabulary, before=None):
    del data, directory
    return Input(spec, seed, batch_size, before=before)


def run(workdir, before=None, force_new=False, **changes):
    """Trains in this process."""
    train(
        config(**changes),
        workdir,
        build_system=build_system,
        open_input=lambda *a, **k: open_input(*a, **k, before=before),
        force_new=force_new,
    )


def run_on_records(workdir, root, before=None, **changes):
    """Trains in this process on a folder of tests/input_pipeline/data_folder.py, as a user would.

    The words of that folder need a VOCABULARY of 64.
    """

    class Watched:
        def __init__(self, batches):
            self.get_state, self.close = batches.get_state, batches.close
            self.batches, self.next_example = batches, 0

        def set_state(self, state):
            self.batches.set_state(state)
            self.next_example = state["examples"]

        def __next__(self):
            if before:
                before(self.next_example)
            self.next_example += made.train.batch_size
            return next(self.batches)

    made = config(**{name: changes[name] for name in changes if not name.startswith("data.")})
    made.data = ConfigDict(
        {
            "root": str(root),
            "mixture": {"coco": 1.0, "refer": 1.0, "localized_narratives": 1.0},
            "location_bins": 8,
            "on_long": "truncate",
            "threads": 0,
        }
    )
    for name in changes:
        if name.startswith("data."):
            made.data[name.removeprefix("data.")] = changes[name]
    train(
        made,
        workdir,
        build_system=build_system,
        open_input=lambda *a, **k: Watched(open_records(*a, **k)),
    )


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder, where, at):
    save = checkpoint.Checkpoints.save

    def save_and_die(self, step, *parts):
        save(self, step, *parts)
        if step == at:
            die()

    def step_and_die(first):
        if first == at * 16:
            while not list((folder / "checkpoints").glob(str(at // 3 * 3))):
                time.sleep(0.01)  # until the save before, in the background, is whole
            die()

    if where == "save":
        checkpoint.Checkpoints.save = save_and_die
    run(folder, before=step_and_die if where == "step" else None)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
