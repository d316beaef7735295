"""A conversation about a photograph: what is kept of it, and how an answer comes word by word.

A `Speaker` is a trained model that is compiled once. A `Session` is one conversation: it keeps the
features of its photograph, so that the tower runs once however much is asked, and its turns. Every
turn has a region and a question. The model reads the latest turns in one input, each as what its
region says to the model and its text behind that; earlier ones with their answers. Shapes are those
of the most turns there can be, so nothing is compiled from one turn to the next, but for the first
answer and the first description where these are generated in ways of their own.

After RegionVLM (Lee et al., NAACL 2024), whose dialogue is one input of soft prompts and questions;
docs/decisions.md says where this one differs.
"""

import dataclasses
import functools
import io
import os
import pathlib
import string
from collections.abc import Iterator

import jax
import numpy as np
from PIL import Image, ImageOps

from input_pipeline import tasks
from input_pipeline.errors import DataError
from input_pipeline.images import decode_image, read_image, to_rgb
from input_pipeline.slots import encode_regions
from regionjax import decode, sharding
from regionjax.config import ConfigError
from regionjax.regions import WHOLE_IMAGE, Region

NEEDED = ("see", "converse", "advance")  # of a system's predict functions
_ORIENTATION = 0x0112  # EXIF
_HALF = "\ufffd"  # what a decoder says for a character of which bytes are still to come
_UNKNOWN = "<unk>"


@dataclasses.dataclass(frozen=True)
class DialogueConfig:
    """What a model is told of the conversation so far; `config.dialogue`.

    Attributes:
      turns: how many turns are read together, the one that is answered among them.
      earlier: an earlier turn as text. {prompt} is what was put to the model, {answer} what it
        said; RegionVLM's own dialogue leaves answers out.
    """

    turns: int = 4
    earlier: str = "{prompt} {answer}"

    def __post_init__(self):
        if self.turns < 1:
            raise ValueError(f"turns = {self.turns} must be at least 1")
        try:
            fields = [part[1:] for part in string.Formatter().parse(self.earlier)]
        except ValueError as error:
            raise ValueError(f"earlier = {self.earlier!r}: {error}") from error
        for name, *form in fields:
            if name is not None and (name not in ("prompt", "answer") or form != ["", None]):
                raise ValueError(
                    f"earlier = {self.earlier!r}: {{{name}}} is not a place; "
                    "{prompt} and {answer} are"
                )


@dataclasses.dataclass(frozen=True)
class Photograph:
    """An image file: its name, its bytes, and its pixels a side as a viewer shows them."""

    name: str
    data: bytes
    width: int
    height: int

    @classmethod
    def open(cls, path):
        """Reads and checks a file; one that is stored turned (EXIF orientation) is put upright.

        Raises:
          BadImage: names the file.
        """
        data, width, height = read_image(pathlib.Path(), os.path.expanduser(path))
        with Image.open(io.BytesIO(data)) as image:
            if image.getexif().get(_ORIENTATION, 1) == 1:
                return cls(str(path), data, width, height)
            upright = to_rgb(ImageOps.exif_transpose(image))
        file = io.BytesIO()
        upright.save(file, "PPM")
        return cls(str(path), file.getvalue(), *upright.size)


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """A question about a region, with what was answered.

    Attributes:
      question: as it was asked; "" asks for a description.
      region: Region.
      prompt: as it is put to the model.
      points, box, mask: what the model sees of the region: f32 [K, 2], f32 [4], uint8 [M, M].
      answer: "" as long as there is none.
    """

    question: str
    region: Region
    prompt: str
    points: np.ndarray
    box: np.ndarray
    mask: np.ndarray
    answer: str = ""


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer as it comes.

    Attributes:
      notes: what the user should know about how the question was read, a sentence each.
      pieces: iterator over parts of the answer, which joined are the answer.
    """

    notes: tuple[str, ...]
    pieces: Iterator[str]

    def __iter__(self):
        return self.pieces


class Speaker:
    """A model that answers; any number of sessions may share it, one answer at a time.

    Args:
      functions: `predict` of a System.
      params: the parameters, laid out on the mesh.
      spec: BatchSpec of the training; its `prompt_length` is the most that a question may have.
      tokenizer: Tokenizer.
      prompts: {task: template} of all tasks (`data.prompts`): a question is put as `answer`, no
        question as `describe`, and as `caption` where the region is the whole image.
      generation: GenerationConfig of descriptions. Beam search knows its text only at the end.
      short_answers: GenerationConfig of answers to questions; None: as descriptions.
      config: DialogueConfig.
      mesh: Mesh.
      normalize_text: ask as `data.normalize_text` trains it.
      seed: of sampled text, and of the points in boxes and masks.

    Raises:
      ConfigError: a system that cannot converse.
    """

    def __init__(
        self,
        functions,
        params,
        *,
        spec,
        tokenizer,
        prompts,
        generation,
        config,
        mesh,
        short_answers=None,
        normalize_text=False,
        seed=0,
    ):
        if missing := [name for name in NEEDED if name not in functions]:
            raise ConfigError(f"this system cannot converse: it has no {', '.join(missing)}")
        self.params = params
        self.tokenizer = tokenizer
        self.config = config
        self._room = spec.prompt_length
        self._generation, self._short_answers = generation, short_answers or generation
        most = max(self._generation.max_new_tokens, self._short_answers.max_new_tokens)
        length = spec.prompt_length + most  # a question and its answer
        self._spec = dataclasses.replace(
            spec, regions=config.turns, prompt_length=length, text_length=length
        )
        self._prompts, self._normalize = prompts, normalize_text
        self._mesh = mesh
        self._seed = seed
        self._see = jax.jit(functions["see"])
        begin, go_on = self._steps(functions["converse"], functions["advance"])
        self._begin = jax.jit(begin, static_argnames="generation")
        self._go_on = jax.jit(go_on, static_argnames="generation", donate_argnames="cache")

    def _steps(self, converse, advance):
        """The two functions that make an answer: its beginning, and one token more."""
        eos_id = self.tokenizer.eos_id

        def begin(params, features, batch, rng, *, generation):
            logits, cache = converse(params, features, batch, generation.max_new_tokens)
            if generation.method == "beam":
                more = functools.partial(advance, params)
                settings = {"eos_id": eos_id, "config": generation}
                return decode.generate(logits, cache, more, rng, **settings), None
            return decode.pick(logits, rng, 0, generation), cache

        def go_on(params, cache, token, rng, step, *, generation):
            logits, cache = advance(params, cache, token)
            return decode.pick(logits, rng, step, generation), cache

        return begin, go_on

    # ---- what a session asks of it -----------------------------------------------------------

    def pixels(self, photograph):
        """uint8 [S, S, 3], what the model sees of a Photograph."""
        return decode_image(photograph.data, self._spec.image_size, photograph.name)

    def see(self, pixels):
        """Features of an image, on the devices."""
        batch = self._spec.zeros(1)
        batch["image"][0] = pixels
        with jax.set_mesh(self._mesh):
            return self._see(self.params, self._placed(batch))

    def turn(self, question, region):
        """(Turn, notes) of a question.

        Raises:
          DataError: a question that is too long.
        """
        notes = []
        if question:
            prompt = tasks.prompt("answer", question, self._prompts, self._normalize)
        else:
            prompt = tasks.prompt(
                "caption" if region is WHOLE_IMAGE else "describe", "", self._prompts
            )
        if (length := len(self.tokenizer.encode(prompt))) > self._room:
            raise DataError(
                f"the question is too long: with {prompt!r} the model reads {length} tokens, and "
                f"{self._room} are the most"
            )
        strange = [word for word in question.split() if self._is_unknown(word)]
        if strange:
            notes.append(f"words that the model does not know: {', '.join(strange)}")
        most = self._spec.points
        if region.kind == "points" and len(region.points) > most:
            notes.append(f"of {len(region.points)} points the model reads {most}, evenly spread")
        rng = np.random.default_rng(self._seed)
        seen = encode_regions([region], self._spec.mask_size, most, rng)
        return Turn(question, region, prompt, *(array[0] for array in seen)), notes

    def _is_unknown(self, word):
        return _UNKNOWN in self.tokenizer.decode(self.tokenizer.encode(word))

    def together(self, earlier, turn, pixels):
        """(batch, how many of the earlier turns are in it): the latest ones that there is room for.

        Args:
          earlier: list of Turns with answers.
          turn: the Turn to be answered.
          pixels: uint8 [S, S, 3].
        """
        spec, slots = self._spec, [(turn, self.tokenizer.encode(turn.prompt))]
        for before in reversed(earlier):
            text = self.config.earlier.format(prompt=before.prompt, answer=before.answer)
            ids = self.tokenizer.encode(text.strip())
            if len(slots) == spec.regions or len(ids) > spec.prompt_length:
                break
            slots.insert(0, (before, ids))
        batch = spec.zeros(1)
        batch["image"][0] = pixels
        for slot, (shown, ids) in enumerate(slots):
            batch["region_points"][0, slot] = shown.points
            batch["region_box"][0, slot] = shown.box
            batch["region_mask"][0, slot] = shown.mask
            batch["prompt"][0, slot, : len(ids)] = ids
        return batch, len(slots) - 1

    def tokens(self, features, batch, number, *, short):
        """Yields the token ids of an answer as they come, eos and what follows left out.

        Args:
          features: from `see`.
          batch: from `together`.
          number: of the turn; sampled text is drawn by it and the seed.
          short: whether it is generated by `short_answers`.
        """
        generation = self._short_answers if short else self._generation
        begin = functools.partial(self._begin, generation=generation)
        go_on = functools.partial(self._go_on, generation=generation)
        rng = jax.random.fold_in(jax.random.key(self._seed), number)
        with jax.set_mesh(self._mesh):
            token, cache = begin(self.params, features, self._placed(batch), rng)
        if cache is None:
            yield from _until(np.asarray(token)[0, 0].tolist(), self.tokenizer.eos_id)
            return
        for step in range(1, generation.max_new_tokens + 1):
            word = int(np.asarray(token)[0, 0])
            if word == self.tokenizer.eos_id:
                return
            yield word
            if step < generation.max_new_tokens:
                with jax.set_mesh(self._mesh):
                    token, cache = go_on(self.params, cache, token, rng, np.int32(step))

    def _placed(self, batch):
        """One image is not shared out: every device has all of it."""
        return jax.device_put(batch, sharding.replicated(self._mesh))


class Session:
    """A conversation about one photograph.

    Args:
      speaker: Speaker.
      photograph: Photograph.

    Attributes:
      turns: list of Turns so far; `clear` forgets them.

    Raises:
      BadImage: the photograph cannot be decoded.
    """

    def __init__(self, speaker, photograph):
        self.photograph = photograph
        self.turns = []
        self._speaker = speaker
        self._pixels = speaker.pixels(photograph)
        self._features = speaker.see(self._pixels)

    def ask(self, question="", region=WHOLE_IMAGE, *, alone=False):
        """Asks the next question; it becomes a turn when something is answered.

        Args:
          question: text; "" asks for a description of the region.
          region: Region.
          alone: without telling the model of earlier turns.

        Returns:
          Reply. An answer whose reader stops early is kept as far as it came.

        Raises:
          DataError: a question that is too long.
        """
        turn, notes = self._speaker.turn(question, region)
        earlier = [] if alone else self.turns
        batch, told = self._speaker.together(earlier, turn, self._pixels)
        if told < len(earlier) and self._speaker.config.turns > 1:
            notes.append(f"of {len(earlier)} earlier turns the model is told the last {told}")
        return Reply(tuple(notes), self._answer(turn, batch))

    def _answer(self, turn, batch):
        said = ""
        number, short = len(self.turns), bool(turn.question)
        ids = self._speaker.tokens(self._features, batch, number, short=short)
        try:
            for piece in pieces(ids, self._speaker.tokenizer.decode):
                said += piece
                yield piece
        finally:  # also when whoever listens has heard enough
            if said:
                self.turns.append(dataclasses.replace(turn, answer=said))

    def clear(self):
        """Forgets all turns."""
        self.turns.clear()


def pieces(ids, decode):
    """Yields the text of token ids as they come, in parts that joined are the whole text.

    A part is what the text has grown by: spaces between words depend on both of them, and a
    character may be made of several tokens.

    Args:
      ids: iterable of ints.
      decode: list of ints → text.
    """
    seen, said, text = [], "", ""
    for token in ids:
        seen.append(token)
        text = decode(seen)
        whole = text.rstrip(_HALF)
        if whole != said and whole.startswith(said):
            yield whole[len(said) :]
            said = whole
    if rest := text[len(os.path.commonprefix([said, text])) :]:
        yield rest  # it ends in the middle of a character


def _until(ids, eos_id):
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
