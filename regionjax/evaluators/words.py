"""Texts as lists of words, as coco-caption's scores see them.

coco-caption runs Stanford's PTBTokenizer (Java) and drops punctuation; its CIDEr, BLEU and ROUGE-L
count what is left. `words` gives the same for what people write about pictures: clitics apart (`man
's`, `do n't`), `can not` in two, symbols as words (`50 %`), hyphenated words, fractions, times and
abbreviations whole. Round and square brackets stay, as `-lrb- left -rrb-`: coco-caption means to
drop them, but looks for capitals in text that is lower-case by then.

On 7,700 sentences of COCO, Visual Genome and Video Localized Narratives it differs from the Java
program in none (tests/golden/words.json holds some of them). It is not that program: rare
abbreviations (only the usual ones are listed), addresses of pages, smileys and mark-up may differ.
"""

import re

_QUOTES = str.maketrans({"’": "'", "‘": "'", "´": "'", "`": "'", "…": " "})
_BRACKETS = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"
}  # fmt: skip
_CLITICS = r"'(?:s|re|ve|ll|d|m)"
_ABBREVIATIONS = "mr|mrs|ms|dr|st|prof|jr|sr|mt|ave|blvd|etc|vs|inc|co|ltd|corp|dept"
_TOKEN = re.compile(
    rf"""
    (?<![^\W_])(?:{_ABBREVIATIONS})\.               # mr.
    | (?<![^\W_])no\.(?=\s*\d)                      # no. 5
    | (?<![^\W_])[^\W\d_]\.(?:[^\W\d_]\.)*(?![^\W_])  # t.v.
    | [^\W_]+(?:(?:[-_./&@]|'(?!\d)|(?<=\d)[,:](?=\d))[^\W_]+)*
    | (?<![^\W_]){_CLITICS}(?![^\W_])               # 's, when it stands alone
    | [%$€£#&@*+=~<>/°^|\\()\[\]{{}}]
    """,
    re.VERBOSE,
)
_ENDING = re.compile(rf"(.*[^\W_])({_CLITICS})")
_NOT = re.compile(r"([^\W_]+)(n't)")
# Words that the tokenizer takes apart, by where.
_TWO = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "gimme": 3, "lemme": 3}


def words(text):
    """Lower-case words without punctuation: "A man's T-shirt." is ["a", "man", "'s", "t-shirt"]."""
    found = []
    for token in _TOKEN.findall(text.translate(_QUOTES).lower()):
        if match := _NOT.fullmatch(token) or _ENDING.fullmatch(token):
            found += match.groups()
        elif at := _TWO.get(token):
            found += [token[:at], token[at:]]
        else:
            found.append(_BRACKETS.get(token, token))
    return found
