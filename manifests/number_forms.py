"""Numbers as they stand in a text: whether one stands for itself, and the words for it and what belongs to it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from manifests.languages import word_set
from manifests.number_words import NumberRules, agreed

Say = Callable[[re.Match[str], NumberRules], str | None]

_OPENING = '([“„«‹¿¡"—'  # may touch a number on its left
_ENDS = re.compile(r"""[.,;:!?)…»”"]*(?:\s|—|$)""")  # may follow it
# a digit on the other side of nothing but spaces and signs: parts of one longer thing
_DIGIT_BEFORE = re.compile(r"[0-9][^\w,;!?]*$")
_DIGIT_AFTER = re.compile(r"[^\w,;!?]*[0-9]")
_ABBREVIATION_BEFORE = re.compile(r"(?i)\b(?:nos?|nr|núm|n|pp?|vol|figs?|art|ch|cap|kap|bd|sec|st)\.\s*$")
_ITEM_AFTER = re.compile(r"[.)]\s")
_WORD_BEFORE = re.compile(r"([^\W\d_]+),?\s$")
_WORD_AFTER = re.compile(r"\s+([^\W\d_]+)(?!['’\w])")
_UNITS = word_set(
    "km cm mm nm kg mg ml cl dl min sec sek std ms mph kph hz khz mhz ghz kb mb gb tb kw mw kwh kv mah ft lb lbs oz "
    "mi ha bn mn mio mrd am pm pt px qm"
)
_NEAR = 100  # characters at either side that matter: the search stays short in a long text
_WORDS_OF_ONE_LETTER = frozenset("aeiouyàéó")  # in one of these languages; any other letter by itself is a unit


@dataclass(frozen=True, slots=True)
class Expression:
    """Something with a number in it, and how it is said: None when that is not certain.

    `touched_by`: what may follow at once, besides punctuation.
    """

    pattern: re.Pattern[str]
    say: Say
    touched_by: re.Pattern[str] | None = None

    def spell(self, text: str, rules: NumberRules) -> str:
        def said(match: re.Match[str]) -> str:
            words = self.say(match, rules) if self._stands_alone(match) else None
            return match[0] if words is None else words

        return self.pattern.sub(said, text)

    def _stands_alone(self, match: re.Match[str]) -> bool:
        before, after = _before(match), _after(match)
        if before and not before[-1].isspace() and before[-1] not in _OPENING:
            return False
        if not _ENDS.match(after) and not (self.touched_by and self.touched_by.match(after)):
            return False
        inches = after.startswith('"') and match.string.count('"') % 2
        item = not before.strip() and _ITEM_AFTER.match(after)
        neighbours = _DIGIT_BEFORE.search(before) or _DIGIT_AFTER.match(after) or _ABBREVIATION_BEFORE.search(before)
        return not (inches or item or neighbours or _is_unit(word_after(match)))


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - _NEAR) : match.start()]


def _after(match: re.Match[str]) -> str:
    return match.string[match.end() : match.end() + _NEAR]


def _is_unit(word: str) -> bool:
    return word in _UNITS or (len(word) == 1 and word not in _WORDS_OF_ONE_LETTER)


def word_before(match: re.Match[str]) -> str:
    """The word directly before, or with a comma between, in lower case; "" for none."""
    found = _WORD_BEFORE.search(_before(match))
    return found[1].lower() if found else ""


def word_after(match: re.Match[str]) -> str:
    """The word directly after, in lower case; "" for none."""
    found = _WORD_AFTER.match(_after(match))
    return found[1].lower() if found else ""


def ends_there(match: re.Match[str]) -> bool:
    """Whether the text, or a part of the sentence, ends behind it."""
    return re.match(r"""\s*(?:$|[.,;:!?)…»”"—])""", _after(match)) is not None


def number_pattern(rules: NumberRules) -> str:
    """The groups `whole` and `part` of a number with decimals."""
    whole = rf"(?P<whole>[0-9]{{1,3}}(?:[{rules.groups}][0-9]{{3}})+|[0-9]+)"
    return rf"(?<![0-9]){whole}(?:[{rules.point}](?P<part>[0-9]+))?"


def value_of(match: re.Match[str]) -> int | None:
    """The whole part; None for leading zeros, which are read out, and for long numbers that nobody separated."""
    written = match["whole"]
    if (written[0] == "0" and len(written) > 1) or len(written) > 15:
        return None
    value = int(re.sub("[^0-9]", "", written))
    return None if written.isdecimal() and value > 9999 and value % 1000 else value


def amount(match: re.Match[str], rules: NumberRules, rule_sets: tuple[str, ...]) -> str | None:
    """Whole part and decimals in words."""
    value, part = value_of(match), match["part"]
    if value is None or value >= rules.below:
        return None
    if any(value in refused for refused in rules.refused):
        return None
    if part is None:
        return agreed(value, rules.locales, rule_sets)
    alone = [agreed(number, rules.locales, (rules.alone,)) for number in (value, *map(int, part))]
    words = [word for word in alone if word is not None]
    certain = len(part) <= rules.decimals and len(words) == len(alone) and not (rules.zero_has_names and "0" in part)
    return f"{words[0]} {rules.point_word} {' '.join(words[1:])}" if certain else None


def number(match: re.Match[str], rules: NumberRules) -> str | None:
    """A number before any noun, or a year."""
    value, written = value_of(match), match["whole"]
    if value is not None and match["part"] is None and written.isdecimal() and 1000 < value < 2100:
        told = word_before(match) in rules.year_after and ends_there(match)
        if told or (rules.plain_years and 1100 <= value < 2000):
            return agreed(value, rules.locales, (rules.year,))
    if rules.ordinal_dot and _is_ordinal(match, value):
        return None
    return amount(match, rules, rules.counted)


def _is_ordinal(match: re.Match[str], value: int | None) -> bool:
    """Whether the point behind it makes it the third, or could: of a large number at the end of a text it does not."""
    after = _after(match)
    return re.match(r"\.(?!\.)", after) is not None and (after.strip(' ."”«)') != "" or value is None or value < 100)


def with_noun(match: re.Match[str], rules: NumberRules, one: str, more: str) -> str | None:
    """A number before a masculine noun in the singular or plural."""
    words = amount(match, rules, rules.masculine)
    alone = match["whole"] == "1" and match["part"] is None
    return None if words is None else f"{words} {one if alone else more}"


def percent(match: re.Match[str], rules: NumberRules) -> str | None:
    return with_noun(match, rules, rules.percent, rules.percent)


def degrees(match: re.Match[str], rules: NumberRules) -> str | None:
    return with_noun(match, rules, *rules.degrees[match["scale"]]) if match["scale"] in rules.degrees else None


def money(match: re.Match[str], rules: NumberRules) -> str | None:
    """Whole units only: cents are said in several ways."""
    return None if match["part"] else with_noun(match, rules, *rules.money[match["sign"]])


def ordinal(rule_sets: tuple[str, ...], below: int) -> Say:
    def say(match: re.Match[str], rules: NumberRules) -> str | None:
        digits = re.sub("[^0-9]", "", match[0])
        certain = digits[0] != "0" and int(digits) < below
        return agreed(int(digits), rules.locales, rule_sets) if certain else None

    return say


def clock(match: re.Match[str], rules: NumberRules) -> str | None:
    """10:30 Uhr."""
    hour, minute = int(match["hour"]), int(match["minute"])
    words = [agreed(n, rules.locales, rules.counted) for n in (hour, minute)]
    if hour > 24 or minute > 59 or None in words:
        return None
    return f"{words[0]} uhr {words[1]}" if minute else f"{words[0]} uhr"
