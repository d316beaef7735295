"""Sessions: what a model is told, what is computed again, and that answers come as they are."""

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_regionlm
import test_regionvlm
import toy_dialogue as toy
from ml_collections import ConfigDict
from PIL import Image

from input_pipeline import tasks
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.tokens import Tokenizer, train
from input_pipeline.transforms import encode_row
from regionjax import decode
from regionjax.batch import Segment
from regionjax.config import ConfigError, build
from regionjax.decode import GenerationConfig
from regionjax.dialogue import DialogueConfig, Photograph, Session, Speaker, pieces
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.models import trajectory
from regionjax.models.instructblip import InstructBlip
from regionjax.models.t5 import shift_right
from regionjax.regions import WHOLE_IMAGE, Region
from regionjax.systems import system
from regionjax.systems.regionlm import RegionLM, RegionLMConfig, no_context
from regionjax.systems.regionvlm import RegionVLMConfig, is_whole

LEFT, RIGHT = Region(points=[[0.2, 0.5]]), Region(box=(0.6, 0.1, 0.9, 0.8))
SYSTEMS = {"regionlm": test_regionlm, "regionvlm": test_regionvlm}
VOCABULARY, LENGTH = 24, 5


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return toy.tokenizer(tmp_path_factory.mktemp("words"))


def said(reply):
    return "".join(reply)


# ---- sessions, by the toy -----------------------------------------------------------------------


def test_a_session_goes_on(words):
    session = Session(toy.speaker(words), toy.photograph())
    assert said(session.ask("what is it", LEFT)) == "one left dark"
    assert said(session.ask("what is it", RIGHT)) == "two right dark"
    assert said(session.ask("what is this", LEFT, alone=True)) == "one left dark"
    assert said(session.ask(region=LEFT)) == "four left dark"
    assert [(turn.prompt, turn.answer) for turn in session.turns] == [
        ("answer what is it", "one left dark"),
        ("answer what is it", "two right dark"),
        ("answer what is this", "one left dark"),
        ("describe", "four left dark"),
    ]
    session.clear()
    assert said(session.ask("what is it")) == "one right dark"
    assert session.turns[0].region is WHOLE_IMAGE
    brighter = Session(session._speaker, toy.photograph(200))
    assert said(brighter.ask(region=LEFT)) == "one left bright"


@pytest.mark.parametrize(
    ("earlier", "text"),
    [
        ("{prompt} {answer}", "answer what is it one left dark"),
        ("{prompt}", "answer what is it"),  # RegionVLM's own
    ],
)
def test_what_is_told_of_an_earlier_turn(words, earlier, text):
    speaker = toy.speaker(words, earlier=earlier)
    session = Session(speaker, toy.photograph())
    said(session.ask("what is it", LEFT))
    turn, _ = speaker.turn("what is this", RIGHT)
    batch, told = speaker.together(session.turns, turn, speaker.pixels(session.photograph))
    assert told == 1
    prompts = [words.decode(ids) for ids in batch["prompt"][0]]
    assert prompts == [text, "answer what is this", "", ""]
    boxes = [(0.2, 0.5, 0.2, 0.5), (0.6, 0.1, 0.9, 0.8), (0, 0, 0, 0), (0, 0, 0, 0)]
    np.testing.assert_allclose(batch["region_box"][0], boxes, rtol=1e-6)


def test_the_oldest_turns_make_room(words):
    session = Session(toy.speaker(words, turns=2), toy.photograph())
    notes, answers = [], []
    for _ in range(3):
        reply = session.ask("what is it", LEFT)
        notes.append(reply.notes)
        answers.append(said(reply))
    assert answers == ["one left dark", "two left dark", "two left dark"]
    assert notes == [(), (), ("of 2 earlier turns the model is told the last 1",)]
    # Nor is a turn told that became too long to be read, nor one before it.
    session = Session(
        toy.speaker(words, earlier="what what what {prompt} {answer}"), toy.photograph()
    )
    said(session.ask("what is it", LEFT))
    reply = session.ask(region=LEFT)
    assert reply.notes == ("of 1 earlier turns the model is told the last 0",)
    assert said(reply) == "one left dark"


@pytest.mark.parametrize(
    ("short", "ways"),
    [(None, 1), (toy.GREEDY, 1), (GenerationConfig(max_new_tokens=3), 2)],
)
def test_nothing_is_compiled_from_turn_to_turn(words, short, ways):
    traced = []

    def counting(name, function):
        def call(*arguments):
            traced.append(name)
            return function(*arguments)

        return call

    predict = {name: counting(name, f) for name, f in toy.functions(words).items()}
    speaker = toy.speaker(words, predict, short_answers=short)
    for light in (0, 200):
        session = Session(speaker, toy.photograph(light, 30 + light))
        for region in (LEFT, RIGHT, WHOLE_IMAGE, Region(mask=np.eye(5, dtype=bool))):
            said(session.ask("what is it", region))
            said(session.ask(region=region, alone=True))
        session.clear()
        said(session.ask("what"))
    assert sorted(traced) == [*ways * ["advance"], *ways * ["converse"], "see"]


@pytest.mark.parametrize("method", ["sample", "beam"])
def test_other_ways_to_generate(words, method):
    """What decode.generate says of the same turn; both draw by the seed and the number of turns."""
    config = GenerationConfig(method, max_new_tokens=4, temperature=3.0, beams=2)
    predict = toy.functions(words)
    speaker = toy.speaker(words, predict, generation=config, seed=5)
    session, spoken = Session(speaker, toy.photograph()), []
    for number in range(3):
        spoken.append(said(session.ask("what is it", LEFT, alone=True)))
        batch, _ = speaker.together([], session.turns[-1], speaker.pixels(session.photograph))
        features = predict["see"](speaker.params, batch)
        ids = decode.generate(
            *predict["converse"](speaker.params, features, batch, 4),
            functools.partial(predict["advance"], speaker.params),
            jax.random.fold_in(jax.random.key(5), number),
            eos_id=words.eos_id,
            config=config,
        )
        assert spoken[-1] == words.decode(ids[0, 0])
    assert len(set(spoken)) == (3 if method == "sample" else 1)


def test_the_reader_may_stop_early(words):
    session = Session(toy.speaker(words), toy.photograph())
    reply = session.ask("what is it", LEFT)
    assert session.turns == []
    assert next(reply.pieces) == "one"
    reply.pieces.close()
    assert [turn.answer for turn in session.turns] == ["one"]
    assert said(session.ask("what is it", LEFT)) == "two left dark"


def test_what_a_question_is_told_of(words):
    speaker = toy.speaker(words)
    session = Session(speaker, toy.photograph())
    with pytest.raises(DataError, match="too long: with 'answer what is it what is' .* 6 .* 5"):
        session.ask("what is it what is", LEFT)
    assert session.turns == []
    trace = np.linspace(0, 1, 7)[:, None] * [1, 0.5]
    reply = session.ask("what is love", Region(points=trace))
    assert reply.notes == (
        "words that the model does not know: love",
        "of 7 points the model reads 3, evenly spread",
    )
    assert said(reply) == "one right dark"
    np.testing.assert_allclose(session.turns[0].points, trace[[0, 3, 6]], atol=1e-6)


def test_systems_that_cannot_converse_are_refused(words):
    predict = toy.functions(words)
    del predict["converse"]
    with pytest.raises(ConfigError, match="cannot converse: it has no converse"):
        toy.speaker(words, predict)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": 0}, "turns = 0 must be at least 1"),
        ({"earlier": "{question}"}, "{question} is not a place; {prompt} and {answer} are"),
        ({"earlier": "{prompt"}, "expected '}'"),
        ({"earlier": "{prompt!r}"}, "is not a place"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        DialogueConfig(**settings)


# ---- pieces of text -----------------------------------------------------------------------------


def test_bytes_wait_for_their_character():
    def decode(ids):
        return bytes(ids).decode("utf-8", "replace")

    assert list(pieces("né€!".encode(), decode)) == ["n", "é", "€", "!"]
    assert list(pieces("a€".encode()[:-1], decode)) == ["a", "\ufffd"]  # cut in the middle
    assert list(pieces([], decode)) == []


def test_pieces_of_words_join(tmp_path):
    """Byte-level pieces of a tokenizer that has seen other words."""
    many = [f"the cat{number} sat" for number in range(400)]  # more words than have a place
    train(many, 300, 2, tmp_path / "tokenizer")
    tokenizer = Tokenizer(tmp_path / "tokenizer")
    text = "then the smattering, naïvely sat: 猫 on it"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text.split())
    parts = list(pieces(ids, tokenizer.decode))
    assert "".join(parts) == text
    assert "ï" in "".join(parts) and all("\ufffd" not in part for part in parts)
    assert len(parts) > len(text.split())  # they come before their words are whole


# ---- photographs --------------------------------------------------------------------------------


def test_a_photograph_that_is_stored_turned_is_put_upright(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :8] = 255  # white at the left as stored, on top when turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90°
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    photograph = Photograph.open(tmp_path / "turned.jpg")
    assert (photograph.width, photograph.height) == (16, 32)
    with Image.open(io.BytesIO(photograph.data)) as image:
        rows = np.asarray(image.convert("L")).mean(axis=1)
    assert rows[:7].min() > 200 and rows[9:].max() < 50


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\xff\xd8\xff\xe0 cut"], ids=repr)
def test_a_photograph_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(BadImage, match="photo.jpg"):
        Photograph.open(tmp_path / "photo.jpg")


# ---- real systems -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_words(tmp_path_factory):
    """A tokenizer with a word for every id of the tiny systems."""
    known = ["answer", "describe", "what", "is", "it", "this", *(f"w{n}" for n in range(13))]
    folder = tmp_path_factory.mktemp("all") / "tokenizer"
    train([" ".join(known)], VOCABULARY, 2, folder)
    return Tokenizer(folder)


def shallow(name):
    """The section `model` of a tiny system, a layer deep."""
    model = ConfigDict(SYSTEMS[name].MODEL)
    for part in ("vit", "decoder", "t5"):
        if part in model:
            model[part].depth = 1
    if name == "regionvlm":
        model.t5.decoder_depth = 1
        model.qformer.depth = 1
        model.qformer.cross_every = 1
    return model


@dataclasses.dataclass
class Built:
    """A tiny system with large random parameters."""

    name: str
    functions: dict
    params: dict
    spec: object
    words: Tokenizer

    def speaker(self):
        return Speaker(
            self.functions,
            self.params,
            spec=self.spec,
            tokenizer=self.words,
            prompts=tasks.PROMPTS,
            generation=GenerationConfig(max_new_tokens=LENGTH),
            config=DialogueConfig(turns=3),
            mesh=make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]),
            seed=3,
        )


@pytest.fixture(scope="module", params=SYSTEMS)
def built(request, all_words):
    spec = dataclasses.replace(SYSTEMS[request.param].SPEC, regions=1, prompt_length=4)
    config = ConfigDict({"system": request.param, "model": shallow(request.param)})
    made = system.build(config, spec)
    rng = np.random.default_rng(2)

    def value(path, x):
        """Of a size at which answers depend on everything."""
        normal, name = rng.normal(size=x.shape), path[-1].key
        if name == "scale":
            return np.float32(1 + 0.2 * normal)
        if name == "kernel":
            inputs = (
                x.shape[-2] if x.ndim == 3 else np.prod(x.shape[:-1]) if x.ndim < 3 else x.shape[1]
            )
            return np.float32(2 * normal / np.sqrt(inputs))
        return np.float32((0.3 if "embedding" in name else 0.2) * normal)

    shapes, _ = jax.eval_shape(made.init, jax.random.key(0), spec.zeros(1))
    params = jax.tree_util.tree_map_with_path(value, shapes)
    return Built(request.param, made.predict, params, spec, all_words)


@pytest.fixture(scope="module")
def greedy(built):
    return built.speaker()


REGIONS = (LEFT, RIGHT, WHOLE_IMAGE, Region(mask=np.tri(9, dtype=bool)))


def noise(seed=0):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return Photograph("noise.png", file.getvalue(), 30, 24)


def generated(built, speaker, prompts):
    """What `generate` says of each region on its own; `prompts` as they are put to the model."""
    config = GenerationConfig(max_new_tokens=LENGTH)
    generate = jax.jit(built.functions["generate"], static_argnames=("eos_id", "config"))
    pixels, texts = speaker.pixels(noise()), []
    for region, prompt in zip(REGIONS, prompts, strict=True):
        segments, rng = [Segment(region, prompt)], np.random.default_rng(3)
        row = encode_row(pixels, segments, built.spec, built.words, rng=rng, name="")
        batch = {name: value[None] for name, value in row.items()}
        ids = generate(built.params, batch, None, eos_id=built.words.eos_id, config=config)
        texts.append(built.words.decode(ids[0, 0]))
    return texts


def test_the_first_answer_is_what_generate_says(built, greedy):
    prompts = ["answer what is this", "answer what", "", "describe"]
    session, answers = Session(greedy, noise()), []
    for region, question in zip(REGIONS, ["what is this", "what", "", ""], strict=True):
        session.clear()
        answers.append(list(session.ask(question, region)))
    assert len({"".join(parts) for parts in answers}) > 2  # they do depend on what is asked
    assert max(map(len, answers)) > 2  # and come in pieces
    assert ["".join(parts) for parts in answers] == generated(built, greedy, prompts)


def one(turn, pixels, spec):
    """A batch of one turn alone."""
    batch = spec.zeros(1)
    batch["image"][0], batch["region_points"][0, 0] = pixels, turn.points
    batch["region_box"][0, 0], batch["region_mask"][0, 0] = turn.box, turn.mask
    return batch


def by_hand(built, pixels, told, answer):
    """The likeliest next token at every place of an answer, without padding or cache.

    Args:
      told: list of (Turn, its text as token ids), the last to be answered.
      answer: token ids.
    """
    length, spec = len(answer), built.spec
    if built.name == "regionlm":
        network = RegionLM(build(RegionLMConfig, shallow("regionlm"), "model"))

        def run(model):
            parts = []
            for turn, ids in told:
                batch = one(turn, pixels, spec)
                features, slots, region, _ = model.encode(batch, no_context(batch))
                text = model.decoder.embed(jnp.array([[ids]])) + region[:, :, None]
                parts += [slots, text]
            parts.append(model.decoder.embed(jnp.array([[answer]])) + region[:, :, None])
            segment = jnp.concatenate(parts, axis=2)
            _, hidden, _ = model.decoder(model.connector(features), segment)
            return model.decoder.logits(hidden[0, 0, -length - 1 : -1])
    else:
        config = build(RegionVLMConfig, shallow("regionvlm"), "model")
        network = InstructBlip(config.network)

        def run(model):
            parts = []
            for place, (turn, ids) in enumerate(told):
                batch = one(turn, pixels, spec)
                points = trajectory.words(config.words, batch["region_points"], is_whole(batch))
                parts.append(model.see(batch["image"], points)[0])
                last = place == len(told) - 1
                parts.append(model.t5.embed(jnp.array([[*ids, *[config.eos_id] * last]])))
            inputs = jnp.concatenate(parts, axis=1)
            tokens = shift_right(jnp.array([answer]), config.t5.start_id)
            return model.logits(model.t5(inputs, tokens)[0][0])

    apply = jax.jit(lambda params: network.apply({"params": params}, method=run))
    return apply(built.params).argmax(-1).tolist()


def test_a_conversation_is_one_text(built, greedy):
    """Two turns with their regions, one after the other, as a text without gaps."""
    pixels = greedy.pixels(noise())
    features = greedy.see(pixels)
    first, _ = greedy.turn("what is it", REGIONS[3])
    first = dataclasses.replace(first, answer="w3 w1")
    second, _ = greedy.turn("what", LEFT)
    batch, told = greedy.together([first], second, pixels)
    assert told == 1
    ids = list(greedy.tokens(features, batch, 0, short=False))
    if len(ids) < LENGTH:
        ids.append(built.words.eos_id)
    encode = built.words.encode
    texts = [(first, encode("answer what is it w3 w1")), (second, encode("answer what"))]
    assert by_hand(built, pixels, texts, ids) == ids
    # The earlier turn counts.
    alone, _ = greedy.together([], second, pixels)
    assert list(greedy.tokens(features, alone, 0, short=False)) != ids


def test_the_tower_runs_once_a_photograph(built, greedy, monkeypatch):
    """After it has, its parameters may be anything; the answers are those of a fresh session."""
    fresh = [said(Session(greedy, noise()).ask("what", region)) for region in REGIONS]
    assert len(set(fresh)) > 1
    session, other = Session(greedy, noise()), Session(greedy, noise(1))
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), built.params["vit"])
    monkeypatch.setattr(greedy, "params", {**built.params, "vit": broken})
    assert [said(session.ask("what", region, alone=True)) for region in REGIONS] == fresh
    assert [said(other.ask("what", region, alone=True)) for region in REGIONS] != fresh
    assert np.isnan(greedy.see(greedy.pixels(noise()))).any()  # here the tower does run
