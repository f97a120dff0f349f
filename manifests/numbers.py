"""Finds numbers and signs in a text and writes them in words, where there is one way to say them.

What is not certain stays as it is, and `normalise` then refuses the text: digits among letters (mp3, 4x4), leading
zeros (007), neighbours that make it a telephone number, a date, a score or a range (555 1234, 9/11, 3-5), unit
symbols (5 km), numbers that depend on what is counted or on the case (German 1, 3.; Spanish 200), and languages where
nearly all do (Russian). English numbers of four digits are years where the words around them say so (in 1984), and
else only whole thousands; from five digits on, only whole thousands can do without separators.
"""

import re
from functools import cache

from manifests import english_numbers, han_numbers
from manifests.languages import base
from manifests.number_forms import Expression, clock, degrees, money, number, number_pattern, ordinal, percent
from manifests.number_words import RULES, rules_of


def spell(text: str, tag: str) -> str:
    """`text` with the numbers and signs in words that have one spoken form in the language of the tag."""
    language = base(tag)
    parts = tag.strip().lower().replace("_", "-").split("-")
    if language in ("zh", "ja"):
        return han_numbers.spell(text, language, traditional=not {"tw", "hk", "mo", "hant", "yue"}.isdisjoint(parts))
    rules = rules_of("-".join([language, *parts[1:]]))
    if rules is None:
        return text
    if language == "en":
        text = re.sub(r"&(?!#|\w+;)", " and ", text)  # not &amp;, markup that should have gone before
    for expression in _expressions(language, rules.locales):
        text = expression.spell(text, rules)
    return text


@cache
def _expressions(language: str, locales: tuple[str, ...]) -> list[Expression]:
    """In the order in which they are tried. `locales` tell the rules of the language's countries apart."""
    rules = next(rules for rules in RULES.values() if rules.locales == locales)
    written = number_pattern(rules)
    common = [
        Expression(re.compile(written + r"\s?%"), percent),
        Expression(re.compile(written + r"\s?°(?P<scale>[CF])"), degrees),
    ]
    if language == "en":
        return [*common, *english_numbers.expressions(rules)]
    sign = rf"(?P<sign>{'|'.join(map(re.escape, rules.money))})"
    return [
        *(Expression(re.compile(o.pattern), ordinal(o.rule_sets, o.below)) for o in rules.ordinals),
        *common,
        *(
            [Expression(re.compile(r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})\sUhr"), clock)]
            if language == "de"
            else []
        ),
        Expression(re.compile(written + r"\s?" + sign), money),
        Expression(re.compile(sign + r"\s?" + written), money),
        Expression(re.compile(written), number),
    ]
