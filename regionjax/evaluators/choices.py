"""Choosing among answers, and among reasons for the right one, as VCR asks.

Q→A is the answer to the question; QA→R the rationale, when the right answer is given; Q→AR counts
an item where both are right. (Where the answer is wrong the pair is wrong whatever the rationale,
so that nothing has to be asked after a wrong answer.)

By `likelihood`, the choice is the text of the lowest mean NLL a token as the answer of its prompt
(`data.prompts`: choose, justify). Texts that tie share, so a model that says the same of all is
right as often as chance; a score that is not finite never wins and is counted. By `digit`,
RegionVLM's published way: all texts stand in the prompt, numbered, and the first number in the
generated answer is the choice (1 if there is none, wrong if there is no such text); such prompts
are long, and those that do not fit into a batch are left out and counted.

The model sees one region, that of all objects that the question and its answers name (as far as the
data set tells). The published evaluation shows each object on its own, beside its `[number]`; a
segment has one region, so that is not done here.
"""

import dataclasses
import re

import numpy as np

from regionjax.batch import Segment
from regionjax.evaluators.bootstrap import estimate
from regionjax.evaluators.items import MultipleChoice
from regionjax.evaluators.looking import looked_at
from regionjax.evaluators.predictor import Query

KINDS = ("q_a", "qa_r", "q_ar")


@dataclasses.dataclass(frozen=True)
class Pick:
    """What was chosen; credits are 0 to 1, of ties a share.

    Attributes:
      answer: index of the chosen answer (of ties the first), None if there is none.
      rationale: the same of the rationales; None also where the item has none.
      credits: {"q_a": …, "qa_r": …, "q_ar": …}; the last two only where the item has rationales.
    """

    item: MultipleChoice
    answer: int | None
    rationale: int | None
    credits: dict


def numbered_prompts(question, choices, answer, rationales):
    """(prompt for the number of an answer, prompt for that of a rationale or "" without them).

    RegionVLM's texts, its spaces included.
    """
    ask = f"Question: {question} {_listed(choices)} Answer: "
    if not rationales:
        return ask, ""
    return ask, f"Question: {question} Answer: {choices[answer]} Why?  {_listed(rationales)}"


def _listed(texts):
    return " ".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def choosing(name, items, predictor, settings, way="as_is", method="likelihood"):
    """Scores choices.

    Args:
      name: of the benchmark; prefix of its scores.
      items: list of MultipleChoice, items of one image together.
      settings: EvaluateConfig.
      way: what there is to look at, see looking.py.
      method: of settings.METHODS.

    Returns:
      ({name/q_a, name/qa_r, name/q_ar and name/chance_… of each, with _low and _high, as far as
      there are such items; by likelihood name/tied and name/not_finite as counts, by digit
      name/no_number and name/left_out}, list of Pick).
    """
    if method == "digit":
        counts, asked = {}, [item for item in items if item.numbered]
        counts[f"{name}/left_out"] = len(items) - len(asked)
        picks, counts[f"{name}/no_number"] = _by_digit(asked, predictor, settings, way)
    else:
        picks, tied, odd = _by_likelihood(items, predictor, way)
        counts = {f"{name}/tied": tied, f"{name}/not_finite": odd}
    scores = {}
    for kind in KINDS:
        found = [pick for pick in picks if kind in pick.credits]
        if not found:
            continue
        images = [pick.item.record.image_id for pick in found]
        for key, values in {
            kind: [pick.credits[kind] for pick in found],
            f"chance_{kind}": [_chance(pick.item)[kind] for pick in found],
        }.items():
            scores |= estimate(values, images, settings).scores(f"{name}/{key}")
    return scores | counts, picks


def _chance(item):
    answer = 1 / len(item.choices)
    rationale = 1 / len(item.rationales) if item.rationales else 0.0
    return {"q_a": answer, "qa_r": rationale, "q_ar": answer * rationale}


def _pick(item, answers, rationales):
    """A Pick from the indices that share the win, of answers and of rationales."""
    credits = {"q_a": _share(answers, item.answer)}
    if item.rationale is not None:
        credits["qa_r"] = _share(rationales, item.rationale)
        credits["q_ar"] = credits["q_a"] * credits["qa_r"]
    return Pick(
        item, *(int(won[0]) if len(won) else None for won in (answers, rationales)), credits
    )


def _share(won, right):
    return float(right in won) / len(won) if len(won) else 0.0


# ---- by likelihood ------------------------------------------------------------------------------


def _by_likelihood(items, predictor, way):
    """(list of Pick, how often texts tied, how many scores were not finite)."""

    rounds = [_rounds(item) for item in items]

    def queries():
        for asked, (record, region) in zip(rounds, looked_at(items, way), strict=True):
            for prompt, texts in asked:
                yield Query(record, Segment(region, prompt), texts)

    counts = [len(texts) for asked in rounds for _, texts in asked]
    rows = predictor.caption_nll(queries(), max(counts, default=1))
    found = [row[:count] for row, count in zip(rows, counts, strict=True)]
    scores, picks, tied = iter(found), [], 0
    for item, asked in zip(items, rounds, strict=True):
        won = [_lowest(next(scores)) for _ in asked]
        tied += sum(len(indices) > 1 for indices in won)
        picks.append(_pick(item, *won, *[()] * (2 - len(won))))
    return picks, tied, sum(int((~np.isfinite(nll)).sum()) for nll in found)


def _rounds(item):
    """[(prompt, texts to choose from)]: the answers and, where there are some, the rationales."""
    rounds = [(item.prompt, item.choices)]
    if item.rationale is not None:
        rounds.append((item.why_prompt, item.rationales))
    return rounds


def _lowest(scores):
    """Indices of the lowest finite scores; empty if none is finite."""
    finite = np.where(np.isfinite(scores), scores, np.inf)
    lowest = finite.min()
    return np.flatnonzero(finite == lowest) if np.isfinite(lowest) else np.array([], int)


# ---- by digit -----------------------------------------------------------------------------------


def _by_digit(items, predictor, settings, way):
    """(list of Pick, how many texts had no number)."""
    queries = [
        Query(record, Segment(region, prompt))
        for item, (record, region) in zip(items, looked_at(items, way), strict=True)
        for prompt in filter(None, item.numbered)
    ]
    texts = predictor.generate(queries, settings.generation)
    said, picks = iter(texts), []
    for item in items:
        won = []
        for prompt, among in zip(item.numbered, (item.choices, item.rationales), strict=True):
            won.append(_numbered(next(said), len(among)) if prompt else ())
        picks.append(_pick(item, *won))
    return picks, sum(not re.search(r"\d", text) for text in texts)


def _numbered(text, count):
    """[index] that the first number in a text names, the first without any; [] if none is meant."""
    found = re.search(r"\d+", text)
    place = int(found[0]) - 1 if found else 0
    return [place] if 0 <= place < count else []
