"""Tokenizers: trained ones, adopted ones, and what `transformers` says about both."""

import json
import pickle

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline import tokens
from input_pipeline.errors import DataError
from regionjax.regions import locations_to_text

TEXTS = [
    "describe",
    "locate the large red star",
    "There is a t-shirt, it's red; the 2nd one (left) isn't.",
    "small blue circle",
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    directory = tmp_path_factory.mktemp("words") / "tokenizer"
    tokens.train(TEXTS, 200, 16, directory)
    return tokens.Tokenizer(directory)


@pytest.fixture(scope="module")
def bytes_(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bytes") / "tokenizer"
    tokens.train([*TEXTS, *(f"word{n} other{n}" for n in range(300))], 400, 16, directory)
    return tokens.Tokenizer(directory)


def test_word_level_keeps_every_known_text(words):
    for text in TEXTS:
        assert words.decode(words.encode(text)) == text
    assert len(words.encode("locate the large red star")) == 5
    assert words.decode(words.encode("small red star, blue")) == "small red star, blue"
    unknown = words.encode("small purple star")
    assert len(unknown) == 3 and words.decode(unknown) == "small<unk> star"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])))
def test_bytes_keep_every_text(bytes_, text):
    if "<" not in text:  # special tokens in a text are read as such
        assert bytes_.decode(bytes_.encode(text)) == text


def test_level_is_chosen_by_what_fits(words, bytes_, tmp_path):
    assert words.size < 60 and bytes_.size == 400
    pieces = words.location_base  # everything before the location tokens
    tokens.train(TEXTS, pieces + 16, 16, tmp_path / "fits")
    assert tokens.Tokenizer(tmp_path / "fits").size == pieces + 16
    with pytest.raises(DataError, match=rf"vocabulary_size {pieces + 15} is too small"):
        tokens.train(TEXTS, pieces + 15, 16, tmp_path / "small")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("name", ["words", "bytes_"])
def test_location_tokens(request, name):
    tokenizer = request.getfixturevalue(name)
    assert (tokenizer.location_bins, tokenizer.pad_id) == (16, 0)
    text = locations_to_text([0, 15, 7, 3])
    assert tokenizer.encode(text) == [tokenizer.location_base + n for n in (0, 15, 7, 3)]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    one, other = tokenizer.encode("<loc0003>"), tokenizer.encode("star")
    assert tokenizer.encode("<loc0003>star") == one + other
    assert tokenizer.location_base + 16 not in tokenizer.encode("<loc0016>")
    assert tokenizer.size == tokenizer.location_base + 16


def test_decode_stops_at_eos(words):
    ids = [*words.encode("small blue circle"), words.eos_id, *words.encode("star"), 0, 0]
    assert words.decode(ids) == "small blue circle"
    assert words.decode([0, *words.encode("star"), 0]) == "star"
    assert words.encode("") == [] and words.decode([]) == ""


def test_training_is_deterministic(words, tmp_path):
    tokens.train(reversed(TEXTS), 200, 16, tmp_path / "again")
    again = (tmp_path / "again/tokenizer.json").read_bytes()
    assert again == (words.directory / "tokenizer.json").read_bytes()


def test_pickles_as_a_path(words):
    data = pickle.dumps(words)
    assert len(data) < 500
    assert pickle.loads(data).encode("red star") == words.encode("red star")


@pytest.mark.parametrize("name", ["words", "bytes_"])
def test_transformers_agrees_on_trained(request, name):
    transformers = pytest.importorskip("transformers")
    tokenizer = request.getfixturevalue(name)
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer.directory)
    for text in (*TEXTS, locations_to_text([3, 1, 4, 1]), "an unseen wörd"):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert (theirs.pad_token_id, theirs.eos_token_id) == (0, tokenizer.eos_id)
    assert len(theirs) == tokenizer.size


def test_adopted_t5(shared_data, tmp_path):
    source = shared_data / "tokenizers" / "t5"
    tokens.adopt(source, 100, tmp_path / "tokenizer")
    tokenizer = tokens.Tokenizer(tmp_path / "tokenizer")
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.location_base) == (0, 1, 32100)
    assert tokenizer.size == 32200
    transformers = pytest.importorskip("transformers")
    original = transformers.AutoTokenizer.from_pretrained(source)
    adopted = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in ("a red circle", "locate the second-largest dog, please"):
        ids = tokenizer.encode(text)
        assert ids == original.encode(text, add_special_tokens=False)
        assert ids == adopted.encode(text, add_special_tokens=False)
        assert tokenizer.decode([*ids, 1, 0]) == text
    text = locations_to_text([99, 0, 5, 50])
    assert tokenizer.encode(text) == [32199, 32100, 32105, 32150]
    assert adopted.encode(text, add_special_tokens=False) == tokenizer.encode(text)


def test_padding_changes_places_with_a_word_whose_id_is_0(tmp_path):
    """As in Qwen's: byte-level BPE, "!" is 0, special tokens behind the words."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(TEXTS, trainer)
    engine.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    pad = engine.token_to_id("<|endoftext|>")
    engine.save(str(tmp_path / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tokens.adopt(tmp_path, 16, tmp_path / "adopted")
    tokenizer = tokens.Tokenizer(tmp_path / "adopted")
    assert engine.id_to_token(0) == "!"
    assert (tokenizer.eos_id, tokenizer.location_base) == (pad + 2, pad + 3)
    for text in (*TEXTS, "no! not <|im_start|>that", "<|endoftext|>!"):
        ids = [{0: pad, pad: 0}.get(token, token) for token in engine.encode(text).ids]
        assert tokenizer.encode(text) == ids
    assert tokenizer.decode(tokenizer.encode("no! no!!")) == "no! no!!"


def test_adopting_twice_needs_the_same_bins(words, tmp_path):
    tokens.adopt(words.directory, 16, tmp_path / "same")
    assert tokens.Tokenizer(tmp_path / "same").size == words.size
    with pytest.raises(DataError, match="has 16 location tokens .* location_bins asks for 8"):
        tokens.adopt(words.directory, 8, tmp_path / "fewer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eos_token": None}, "names no eos_token"),
        ({"eos_token": "</s>"}, "names no eos_token"),
        ({"pad_token": "<eos>"}, "pads with its eos; name another"),
    ],
)
def test_tokenizers_that_cannot_be_adopted(words, tmp_path, change, message):
    source = tmp_path / "source"
    source.mkdir()
    settings = json.loads((words.directory / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(settings | change))
    (source / "tokenizer.json").write_bytes((words.directory / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match=message):
        tokens.adopt(source, 16, tmp_path / "tokenizer")


def test_no_tokenizer(tmp_path):
    with pytest.raises(DataError, match="has no tokenizer.json"):
        tokens.Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="tokenizer.json cannot be read"):
        tokens.Tokenizer(tmp_path)
