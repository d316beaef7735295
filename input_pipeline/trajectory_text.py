"""A trajectory as words: what RegionVLM's Q-Former reads, exactly as it was trained.

`[x y]` a point, whole hundredths cut off and not rounded, as BERT word pieces between [CLS] and
[SEP]. The released model was trained with 32 pieces, so that of its 10 points (42 pieces) it saw
seven, and the first half of the eighth; `REGIONVLM` does the same. An empty trajectory asks for the
caption of the whole image.

Source: github.com/jbeomlee93/RegionVLM (NAACL 2024), lavis/datasets/datasets/LN_datasets.py and
lavis/processors/blip_processors.py.
"""

import dataclasses
import pathlib
import re

import numpy as np
from tokenizers import BertWordPieceTokenizer

from input_pipeline.errors import DataError
from regionjax.regions import points_to_text

_MOST_WORDS = 50  # of a text, after which it is cut
_DROPPED = re.compile(r"[.!\"()*#:;~]")


@dataclasses.dataclass(frozen=True)
class TrajectoryText:
    """How many points are written, and how many word pieces are read.

    `pieces` of 4 · points + 2 holds all of them.
    """

    points: int
    pieces: int

    def encode(self, points, engine, rng):
        """Word piece ids of a trajectory.

        Args:
          points: [n, 2], normalised xy in time order; [0, 2] for the whole image.
          engine: from read_bert.
          rng: np.random.Generator; picks the points.

        Returns:
          int32 [pieces]: [CLS], what fits, [SEP], padded with 0 ([PAD])
        """
        text = points_to_text(picked(points, self.points, rng)) if len(points) else ""
        ids = engine.encode(normalized(text), add_special_tokens=False).ids[: self.pieces - 2]
        ids = [engine.token_to_id("[CLS]"), *ids, engine.token_to_id("[SEP]")]
        return np.pad(np.array(ids, np.int32), (0, self.pieces - len(ids)))


REGIONVLM = TrajectoryText(points=10, pieces=32)


def picked(points, count, rng):
    """`count` of the points [n, 2]: at random in their order, or evenly where there are fewer."""
    points = np.asarray(points)
    if len(points) < count:
        last = len(points) - 1
        return points[np.arange(count) * last // max(count - 1, 1)]
    return points[np.sort(rng.choice(len(points), count, replace=False))]


def normalized(text):
    """A text as RegionVLM is given it, points and captions: lower case, little punctuation."""
    text = re.sub(r"\s{2,}", " ", _DROPPED.sub(" ", text.lower())).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:_MOST_WORDS])


def normalized_question(text):
    """A question as BLIP-2 is asked it: like `normalized`, with nothing for what is dropped."""
    words = _DROPPED.sub("", text.lower()).rstrip(" ").split(" ")
    return " ".join(words[:_MOST_WORDS])


def read_bert(directory):
    """The word pieces of a BERT directory with a vocab.txt (bert-base-uncased).

    Raises:
      DataError: there is none, or one in which padding is not 0.
    """
    file = pathlib.Path(directory) / "vocab.txt"
    if not file.is_file():
        raise DataError(f"{directory} has no vocab.txt; it comes with bert-base-uncased")
    engine = BertWordPieceTokenizer(str(file), lowercase=True)
    if engine.token_to_id("[PAD]") != 0:
        raise DataError(f"{file} does not begin with [PAD]")
    return engine
