"""Text to token ids and back.

A tokenizer is a directory that `transformers.AutoTokenizer` loads as well. It is trained on the
data's own texts, or an existing directory to which the location tokens are added. Id 0 is padding.

A trained one is at word level if all its words (split at spaces and punctuation) fit into the
vocabulary, and byte-level BPE otherwise; `<unk>` stands for words that word level has not seen.
"""

import functools
import json
import pathlib
import re

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from input_pipeline.errors import DataError

_PAD, _EOS, _UNKNOWN = "<pad>", "<eos>", "<unk>"
_LOCATIONS = re.compile(r"(<loc\d{4}>)+")
_CACHED_TEXTS = 1 << 16


def file_of(directory):
    """The file that holds all that a Hugging Face tokenizer does."""
    return pathlib.Path(directory) / "tokenizer.json"


class Tokenizer:
    """A tokenizer directory in use; pickles as its path.

    Attributes:
      pad_id (0), eos_id: token ids.
      size: number of token ids, V.
      location_base: id of `<loc0000>`; the other `location_bins` follow it.
    """

    def __init__(self, directory):
        """Reads a directory that `train` or `adopt` wrote.

        Raises:
          DataError: it is not one.
        """
        self.directory = pathlib.Path(directory)
        self._engine, settings = _read(self.directory)
        self.pad_id = 0
        self.eos_id = _special_id(self._engine, settings, "eos_token", self.directory)
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values()) + 1
        if "<loc0000>" not in vocabulary:
            raise DataError(f"{self.directory} has no location tokens; tokens.adopt adds them")
        self.location_base = vocabulary["<loc0000>"]
        self.location_bins = _location_count(self._engine)

    def __reduce__(self):
        return Tokenizer, (self.directory,)

    def encode(self, text):
        """list of token ids, without eos; not to be changed: texts seen lately are remembered."""
        if text.startswith("<loc") and _LOCATIONS.fullmatch(text):  # rarely seen twice
            numbers = [int(number) for number in text[4:-1].split("><loc")]
            if max(numbers) < self.location_bins:
                return [self.location_base + number for number in numbers]
        return self._encode(text)

    @functools.cached_property
    def _encode(self):
        @functools.lru_cache(maxsize=_CACHED_TEXTS)
        def encode(text):
            return self._engine.encode(text, add_special_tokens=False).ids

        return encode

    def decode(self, ids):
        """The text of token ids up to the first eos; padding is left out."""
        ids = np.asarray(ids).tolist()
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        ids = [token for token in ids if token != self.pad_id]
        return self._engine.decode(ids, skip_special_tokens=False)


def check_size(directory, vocabulary):
    """Raises DataError unless every token id of the tokenizer there is below `vocabulary`."""
    size = Tokenizer(directory).size
    if size > vocabulary:
        raise DataError(
            f"{directory} has {size} tokens, the model's vocabulary is {vocabulary}; make it "
            f"larger, or the tokenizer smaller (data.vocabulary_size)"
        )


def train(texts, vocabulary_size, location_bins, directory):
    """Trains a tokenizer and saves it.

    Args:
      texts: iterable of str that can be gone through twice; held in memory is a text at a time.
      vocabulary_size: upper limit of its size, location tokens included.
      location_bins: number of location tokens.
      directory: where to; it appears only when complete.

    Raises:
      DataError: the limit leaves no room for bytes.
    """
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    special = [_PAD, _EOS, _UNKNOWN]
    room = vocabulary_size - location_bins
    words = set()
    for text in texts:
        words.update(word for word, _ in split.pre_tokenize_str(text))
        if len(special) + len(words) > room:
            break
    if len(special) + len(words) <= room:
        vocabulary = {token: place for place, token in enumerate([*special, *sorted(words)])}
        engine = Engine(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
        engine.pre_tokenizer = split
        engine.decoder = decoders.Metaspace(prepend_scheme="always")
        engine.add_special_tokens(special)
    else:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if room < len(special) + len(alphabet):
            raise DataError(
                f"vocabulary_size {vocabulary_size} is too small for all words, and "
                f"bytes need {len(special) + len(alphabet) + location_bins}"
            )
        engine = Engine(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=room,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        engine.train_from_iterator(texts, trainer)
    names = {"pad_token": _PAD, "eos_token": _EOS, "unk_token": _UNKNOWN}
    _save(engine, names, location_bins, pathlib.Path(directory))


def adopt(source, location_bins, directory):
    """Saves a Hugging Face tokenizer directory with location tokens added where they are absent.

    Batches are padded with id 0: where that is a word, as in Qwen's, it changes places with the
    padding, and `swap` of config.init_from does the same to the table of embeddings.

    Raises:
      DataError: not a tokenizer, one without eos, one whose padding is its eos or cannot change
        places, or one with another number of location tokens.
    """
    engine, settings = _read(pathlib.Path(source))
    eos = _special_id(engine, settings, "eos_token", source)
    pad = _special_id(engine, settings, "pad_token", source)
    if pad == eos:
        raise DataError(
            f"tokenizer {source} pads with its eos; name another eos_token or pad_token"
        )
    if pad:
        engine = _padded_with_zero(engine, pad, source)
    names = {name: _named(settings, name) for name in ("pad_token", "eos_token", "unk_token")}
    names = {name: token for name, token in names.items() if token}
    _save(engine, names, location_bins, pathlib.Path(directory))


def _padded_with_zero(engine, pad, source):
    """The engine with ids 0 and `pad` in each other's place."""
    contents = json.loads(engine.to_str())
    vocabulary = contents["model"]["vocab"]
    if not isinstance(vocabulary, dict):  # Unigram, where the order is the id
        raise DataError(f"tokenizer {source} pads with id {pad}; batches are padded with id 0")
    places = {engine.id_to_token(0): pad, engine.id_to_token(pad): 0}
    vocabulary |= places
    for added in contents["added_tokens"]:
        added["id"] = places.get(added["content"], added["id"])
    return Engine.from_str(json.dumps(contents))


def _read(directory):
    """(engine, tokenizer_config.json) of a directory."""
    file, settings = file_of(directory), directory / "tokenizer_config.json"
    if not file.is_file():
        raise DataError(
            f"{directory} has no tokenizer.json (transformers' save_pretrained writes one)"
        )
    try:
        settings = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        return Engine.from_file(str(file)), settings
    except Exception as error:  # json's own; the tokenizers library raises bare Exceptions
        raise DataError(f"{file} cannot be read: {error}") from error


def _named(settings, name):
    """The text of a special token in tokenizer_config.json, or None."""
    token = settings.get(name)
    return token["content"] if isinstance(token, dict) else token


def _special_id(engine, settings, name, directory):
    token = _named(settings, name)
    found = engine.token_to_id(token) if token else None
    if found is None:
        raise DataError(f"tokenizer {directory} names no {name} that is in its vocabulary")
    return found


def _location_count(engine):
    return sum(bool(re.fullmatch(r"<loc\d{4}>", word)) for word in engine.get_vocab())


def _save(engine, names, location_bins, directory):
    """Adds the location tokens that are absent and writes the directory, by a rename.

    The class is the general one, which takes tokenizer.json as it is; those of single models
    (T5Tokenizer, …) would build their own engine again, without the location tokens.
    """
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    locations = [f"<loc{number:04d}>" for number in range(location_bins)]
    engine.add_tokens([AddedToken(token, normalized=False) for token in locations])
    ids = [engine.token_to_id(token) for token in locations]
    if ids != list(range(ids[0], ids[0] + location_bins)) or _location_count(engine) != len(ids):
        raise DataError(
            f"the tokenizer has {_location_count(engine)} location tokens from id {ids[0]}, "
            f"location_bins asks for {location_bins} in a row"
        )
    engine.no_padding()
    engine.no_truncation()
    part = directory.with_name(directory.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    engine.save(str(part / "tokenizer.json"))
    (part / "tokenizer_config.json").write_text(json.dumps(settings | names, indent=2) + "\n")
    part.replace(directory)
