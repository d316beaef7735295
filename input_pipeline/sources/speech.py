"""Speech and pointer: which points of a trace were drawn while which sentence was said.

Two ways to cut a narrative into sentences. `sentence_spans` cuts at true sentence ends; time is
given to characters, so that words which run over the end of a sentence share out their time.
`paper_sentences` does what RegionVLM's released preparation does, boundaries included.
"""

import bisect
import itertools
import operator
import re

import numpy as np

from input_pipeline.errors import DataError

SENTENCES = ("true", "paper")
PAPER_POINTS = 20

# A sentence ends at . ! or ? before a space or the end, unless an abbreviation stands there.
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|vs|approx|e\.g|i\.e)\.$", re.I)

# RegionVLM's cuts, first alternative first: as its lone comma comes before the others, a space
# after a comma stays at the head of the next piece and ", and" leaves a piece "and …" uncut there.
_PAPER_CUT = re.compile(r"\. |\.| and |,")


def read_trace(segments, keys, where):
    """Numbers of all points of all segments, in file order: f64 [n, len(keys)].

    Raises:
      DataError: a point without one of the keys, or with anything but a finite number.
    """
    read = operator.itemgetter(*keys)
    try:
        points = itertools.chain.from_iterable(segments)
        numbers = itertools.chain.from_iterable(map(read, points))
        trace = np.fromiter(numbers, np.float64).reshape(-1, len(keys))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: a trace point without numbers {', '.join(keys)}: {error!r}"
        ) from error
    if not np.isfinite(trace).all():
        raise DataError(f"{where}: a trace point is not finite")
    return trace


def sentence_spans(text):
    """[(start, end, stop)] of the sentences of a text: characters start…end-1 without the closing
    marks, start…stop-1 with them."""
    spans, start = [], 0
    closings = [m.span() for m in _SENTENCE_END.finditer(text) if not _abbreviates(text, m.end())]
    for end, after in [*closings, (len(text), len(text))]:
        sentence = text[start:end]
        if any(character.isalnum() for character in sentence):
            lead = len(sentence) - len(sentence.lstrip())
            spans.append((start + lead, start + len(sentence.rstrip()), after))
        start = after
    return spans


def _abbreviates(text, end):
    return _ABBREVIATION.search(text, max(0, end - 10), end)


def drawn_during(span, spoken, times):
    """Which points were drawn while a sentence was said.

    Args:
      span: (start, end, stop) of sentence_spans.
      spoken: list of (first, last, begin, finish): characters first…last-1 were said in that time.
      times: sorted list of n.

    Returns:
      bool [n]
    """
    start, _, stop = span
    chosen = np.zeros(len(times), bool)
    for first, last, begin, finish in spoken:
        low, high = max(first, start), min(last, stop)
        if low < high:  # the share of these words that lies in this sentence
            pace = (finish - begin) / (last - first)
            since = bisect.bisect_left(times, begin + (low - first) * pace)
            until = bisect.bisect_right(times, begin + (high - first) * pace)
            chosen[since:until] = True
    return chosen


def spoken_spans(caption, timed, tally):
    """Finds timed utterances in a caption, in order.

    Args:
      caption: text whose spaces are single.
      timed: list of (utterance, start, end), seconds.
      tally: counts `utterances_not_in_caption` and `utterances_without_time` (an end that is not
        after its start).

    Returns:
      list of (first, last, begin, finish), as drawn_during takes it.
    """
    spans, cursor, missed = [], 0, 0
    for utterance, begin, finish in timed:
        utterance = " ".join(utterance.split())
        first = caption.find(utterance, cursor)
        # Between two utterances lies no word, except what stands for utterances not found.
        between = sum(character.isalnum() for character in caption[cursor:first])
        if not utterance or first < 0 or between > missed:
            tally["utterances_not_in_caption"] += 1
            missed += len(utterance) + 4
            continue
        cursor, missed = first + len(utterance), 0
        if finish <= begin:
            tally["utterances_without_time"] += 1
        else:
            spans.append((first, cursor, begin, finish))
    return spans


def paper_sentences(caption, timed, points, times, tally):
    """RegionVLM's sentences of a narrative and their points.

    Where an utterance stands is taken to be the running sum of lengths, one space between each two;
    it belongs to a sentence if its first character lies in it or right after it, so that a
    sentence may take the next one's first word as well. A text that comes twice keeps the points
    of its last place.

    Args:
      caption: str, as the file has it.
      timed: list of (utterance, start, end), seconds.
      points: [n, 2] in file order; times: f64 [n] likewise.
      tally: counts `sentences_without_trace` and `sentences_said_again` (collapsed into one).

    Returns:
      {text: [PAPER_POINTS, 2]} of the texts that have points; texts keep their spaces.
    """
    said, character = [], 0  # (first character, indices of points)
    for utterance, begin, finish in timed:
        said.append((character, np.flatnonzero((times >= begin) & (times <= finish))))
        character += len(utterance) + 1
    found, rest = {}, caption
    for text in filter(None, _PAPER_CUT.split(caption)):
        tally["sentences_said_again"] += text in found
        start = rest.find(text)
        end = start + len(text)
        rest = rest[:start] + "-" * len(text) + rest[end:]
        found[text] = np.concatenate(
            [np.zeros(0, int), *(chosen for first, chosen in said if start <= first <= end)]
        )
    drawn = {text: points[paper_choice(chosen)] for text, chosen in found.items() if len(chosen)}
    tally["sentences_without_trace"] += len(found) - len(drawn)
    return drawn


def paper_choice(indices):
    """PAPER_POINTS of n indices, evenly from the first to the last; repeats if n is less."""
    # The order of operations counts: a product just short of an integer is cut to the one below.
    return indices[((len(indices) - 1) / (PAPER_POINTS - 1) * np.arange(PAPER_POINTS)).astype(int)]
