"""English texts about a mirrored image: left and right change places.

A text is rewritten only where it is safe. "Left" and "right" mean other things as well ("nothing is
left", "right behind the bus"), so they have to stand where a side is meant; and what speaks of
something to be read in the image stays true of the original image alone.
"""

import re

_OTHER = {
    "left": "right",
    "right": "left",
    "lhs": "rhs",
    "rhs": "lhs",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "counter-clockwise": "clockwise",
    "anticlockwise": "clockwise",
    "anti-clockwise": "clockwise",
}
_PLACE = "top|bottom|upper|lower|far|front|back|rear|middle|mid|center|centre"
_SIDE_WORD = re.compile(
    r"\b(?:"
    r"(?P<turn>(?:counter-?|anti-?)?clockwise)|(?P<short>[lr]hs)"
    rf"|(?:{_PLACE})?(?P<side>left|right)(?:most|wards?|hand|handed|side)?"
    r")\b",
    re.IGNORECASE,
)
# Words with a side in them that are not in the table: leftover, lefty, and what people abbreviate.
_UNKNOWN = re.compile(r"\b(?:(?:left|right)\w*|l|r|lt|rt|lft|lef|rgt|rite|starboard)\b", re.I)
# Never a side.
_IDIOM = re.compile(
    r"\b(?:all|quite|just|that's|that is|you're|you are) right\b"
    r"|\bright[- ](?:angles?|answer|away|choice|moment|now|order|size|thing|time|way)\b",
    re.IGNORECASE,
)
# Before and after a word that means a side, whatever is on the other side of it.
_BEFORE = re.compile(
    r"(?:\b(?:on|to|at|from|towards?|in|facing|turning|turns?|looking|pointing|pointed)"
    r"(?:\s+(?:the|his|her|its|their|your|our|my))?"
    rf"|\b(?:{_PLACE}|most|extreme|very|second|third|fourth|and|or)"
    r")[\s,-]+$",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"[\s-]+(?:of|hand|handed|side|most|corner|edge|half|end|part|portion|third|quarter|border"
    r"|(?:eye|ear|arm|hand|leg|foot|paw|wing|shoulder|knee|wheel|lane|bank|wall|turn)s?)\b",
    re.IGNORECASE,
)
# Otherwise these neighbours make it something else: a verb, a rest, "exactly".
_NOT_BEFORE = re.compile(
    r"\b(?:am|is|are|was|were|be|been|being|'s|'re|has|have|had|having|got|gets|he|she|it|they|we"
    r"|you|i|who|that|which|nothing|anything|something|much|many|more|some|few|only)\s+$",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"\s*(?:[?]|\s(?:a|an|the|his|her|their|its|it|them|to|in|into|inside|on|onto|off|out|outside|up"
    r"|down|over|under|underneath|above|below|behind|before|after|beside|besides|between|beyond|by"
    r"|next|near|at|against|across|along|alone|around|through|past|with|without|for|where|when|as"
    r"|here|there|open|empty|blank|unattended|hanging|standing|lying|sitting)\b)",
    re.IGNORECASE,
)
_TO_BE_READ = re.compile(
    r"[\"“”„«»]|\d|o'clock"
    r"|\b(?:says?|said|saying|reads?|written|words?|letters?|lettering|text|spell\w*|labell?\w*"
    r"|titled|named|initials)\b",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"\[\d+\]")  # to an object, as in VCR; nobody reads it in the image


def mirrored_text(text):
    """The text about the mirrored image, or None where that cannot be said safely."""
    if _TO_BE_READ.search(_REFERENCE.sub("", text)) or _IDIOM.search(text):
        return None
    parts, end = [], 0
    for found in _SIDE_WORD.finditer(text):
        group = found.lastgroup
        if group == "side" and not _is_side(text[: found.start()], text[found.end() :], found):
            return None
        start, stop = found.span(group)
        parts += [text[end:start], _in_case_of(found[group], _OTHER[found[group].lower()])]
        end = stop
    rest = _SIDE_WORD.sub("", text)
    return None if _UNKNOWN.search(rest) else "".join([*parts, text[end:]])


def _is_side(before, after, found):
    if found[0].lower() not in ("left", "right"):  # leftmost, topright, …
        return True
    if _BEFORE.search(before) or _AFTER.match(after):
        return True
    return not _NOT_BEFORE.search(before) and not _NOT_AFTER.match(after)


def _in_case_of(old, new):
    if old.isupper():
        return new.upper()
    return new.capitalize() if old[0].isupper() else new
