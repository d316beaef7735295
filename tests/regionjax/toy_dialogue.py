"""A speaker whose answers can be worked out: how much it was told, where, and of what picture.

It says "two left dark" after reading two turns, the last about something in the left half, of a
dark photograph.
"""

import io

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from input_pipeline import tasks
from input_pipeline.tokens import Tokenizer, train
from regionjax.batch import BatchSpec
from regionjax.decode import GenerationConfig
from regionjax.dialogue import DialogueConfig, Photograph, Speaker
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.systems.system import turns

SPEC = BatchSpec(
    image_size=8,
    mask_size=8,
    regions=2,
    points=3,
    prompt_length=5,
    target_length=4,
    text_length=9,
)
COUNTS = ["one", "two", "three", "four", "five"]
WORDS = [
    *COUNTS,
    "left",
    "right",
    "dark",
    "bright",
    "what",
    "is",
    "it",
    "this",
    "answer",
    "describe",
]
VOCABULARY = 3 + len(WORDS) + 2  # specials, words, location tokens
GREEDY = GenerationConfig(max_new_tokens=4)


@flax.struct.dataclass
class Queue:
    """The tokens that are still to be said, i32 [B, n]."""

    tokens: jax.Array

    def take(self, index):
        return self  # all continuations of a segment are to say the same


def tokenizer(folder):
    """Word level, eos 1, with every id below VOCABULARY in use."""
    train([" ".join(WORDS)], VOCABULARY, 2, folder / "tokenizer")
    return Tokenizer(folder / "tokenizer")


def functions(words):
    """The system's predict functions."""
    ids = {word: words.encode(word)[0] for word in WORDS}

    def logits(token):
        return 9 * jax.nn.one_hot(token, VOCABULARY)[:, None]

    def see(params, batch):
        return batch["image"].astype(jnp.float32).mean((1, 2, 3)) * params["tower"]

    def converse(params, features, batch, room):
        del params, room
        told = turns(batch).sum(-1)
        box = jnp.take_along_axis(batch["region_box"], told[:, None, None] - 1, axis=1)[:, 0]
        count = jnp.array([ids[word] for word in COUNTS])[told - 1]
        side = jnp.where(box[:, 0] + box[:, 2] < 1, ids["left"], ids["right"])
        light = jnp.where(features < 128, ids["dark"], ids["bright"])
        rest = jnp.stack([side, light, jnp.full_like(side, words.eos_id)], axis=-1)
        return logits(count), Queue(rest)

    def advance(params, cache, tokens):
        del params
        said = jnp.repeat(logits(cache.tokens[:, 0]), tokens.shape[1], axis=1)
        return said, Queue(jnp.roll(cache.tokens, -1, axis=1))

    return {"see": see, "converse": converse, "advance": advance}


def speaker(words, predict=None, generation=GREEDY, short_answers=None, seed=0, **settings):
    """A Speaker on one device; `settings` are those of the dialogue."""
    return Speaker(
        predict or functions(words),
        {"tower": jnp.float32(1)},
        spec=SPEC,
        tokenizer=words,
        prompts=tasks.PROMPTS,
        generation=generation,
        short_answers=short_answers,
        config=DialogueConfig(**settings),
        mesh=make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]),
        seed=seed,
    )


def photograph(light=0, width=40, height=20):
    """A Photograph of one grey."""
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), light, np.uint8)).save(file, "PNG")
    return Photograph(f"{light}.png", file.getvalue(), width, height)
