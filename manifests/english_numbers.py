"""What English writes with digits besides plain numbers: years, decades, dates, times, sums of money."""

import re

from manifests.languages import word_set
from manifests.number_forms import (
    Expression,
    amount,
    ends_there,
    number_pattern,
    value_of,
    with_noun,
    word_after,
    word_before,
)
from manifests.number_words import NumberRules, agreed

_COMPOUND = re.compile("-[a-z]{3,}", re.IGNORECASE)  # 10-year-old
_MONTHS = word_set(
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
_YEAR_AFTER = _MONTHS | word_set(
    "in since by of from until till before after during circa year spring summer autumn fall winter"
)
_DECADE_AFTER = word_set("the his her their my our your its early mid late")
_DETERMINERS = word_set("a an the this that these those my your his her its our their every each per")
# words that go on after a year or a sum; before a noun a number would count it (in 1500 towns) or go with it ($5 bills)
_FUNCTION_WORDS = word_set(
    "the a an and or but to for when while where who which that as at by on in of from with until till before after "
    "because if so than he she it we they i you there this his her their its my our your was were is are has had not "
    "into about per each more less"
)
_TENS = ("", "", "twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
_ORDINALS = ("spellout-ordinal-verbose",)


def expressions(rules: NumberRules) -> list[Expression]:
    """In the order in which they are to be tried."""
    half = r"\s?(?P<half>[aApP])\.?[mM]\b\.?"
    scale = r"\s(?P<scale>thousand|million|billion|trillion)\b"
    written = number_pattern(rules)
    return [
        Expression(re.compile(rf"(?P<sign>[$£€])\s?{written}(?:{scale})?"), _money),
        Expression(re.compile(rf"{written}(?P<scale>)\s?(?P<sign>[$£€])"), _money),
        Expression(re.compile(rf"(?P<hour>[0-9]{{1,2}}):(?P<minute>[0-9]{{2}})(?:{half})?"), _time),
        Expression(re.compile(rf"(?P<hour>[0-9]{{1,2}})(?P<minute>){half}"), _time),
        Expression(re.compile(r"(?P<open>['’‘]\s?)?(?P<century>1[1-9]|20)?(?P<decade>[0-9])0['’]?s"), _decade),
        Expression(re.compile(r"(?<![0-9])(?P<digits>[0-9]+(?:,[0-9]{3})*)(?P<ending>(?i:st|nd|rd|th))"), _ordinal),
        Expression(re.compile(written), _number, touched_by=_COMPOUND),
    ]


def _goes_on(match: re.Match[str]) -> bool:
    return ends_there(match) or word_after(match) in _FUNCTION_WORDS


def _number(match: re.Match[str], rules: NumberRules) -> str | None:
    value, before = value_of(match), word_before(match)
    if value is None or before in ("no", "nos"):  # number 5, or none
        return None
    if match["part"] is None and value <= 31 and (before in _MONTHS or word_after(match) in _MONTHS):
        return None  # May 4: the fourth, or four
    if match["part"] is None and match["whole"].isdecimal() and 1000 <= value <= 9999 and value % 1000:
        certain = 1010 <= value < 2100 and before in _YEAR_AFTER and _goes_on(match)
        return _year(value, rules) if certain else None
    return amount(match, rules, rules.counted)


def _year(value: int, rules: NumberRules) -> str | None:
    return agreed(value, rules.locales, rules.counted if 2000 <= value < 2010 else ("spellout-numbering-year",))


def _decade(match: re.Match[str], rules: NumberRules) -> str | None:
    """The 1990s, the '60s, her twenties; 30s alone may be seconds."""
    tens, century = int(match["decade"]), match["century"]
    if century is None:
        told = match["open"] or word_before(match) in _DECADE_AFTER
        return _TENS[tens] if told and tens >= 2 else None
    if tens < 2:
        return None  # the 1900s may be the years to 1999, the 2010s have no settled name
    return f"{agreed(int(century), rules.locales, rules.counted)} {_TENS[tens]}"


def _ordinal(match: re.Match[str], rules: NumberRules) -> str | None:
    digits = match["digits"].replace(",", "")
    last = "" if digits[-2:-1] == "1" else digits[-1]
    fits = match["ending"].lower() == {"1": "st", "2": "nd", "3": "rd"}.get(last, "th")
    return agreed(int(digits), rules.locales, _ORDINALS) if fits and digits[0] != "0" and len(digits) < 7 else None


def _time(match: re.Match[str], rules: NumberRules) -> str | None:
    """10:30, 10 a.m.; not 10:05 (oh five, or five past), nor 10:00, which may be ten o'clock."""
    hour, minute, half = int(match["hour"]), int(match["minute"] or 0), match["half"]
    if not 1 <= hour <= (12 if half else 23) or not (10 <= minute <= 59 or (minute == 0 and half)):
        return None
    words = [agreed(n, rules.locales, rules.counted) for n in (hour, minute) if n]
    return " ".join([*filter(None, words), *([half, "m"] if half else [])])


def _money(match: re.Match[str], rules: NumberRules) -> str | None:
    """$5 and $3.5 million; not $5 bills or a $20 ticket, nor cents, which are said in several ways."""
    attribute = word_before(match) in _DETERMINERS or not _goes_on(match)
    if attribute or (match["part"] and not match["scale"]):
        return None
    one, more = rules.money[match["sign"]]
    if not match["scale"]:
        return with_noun(match, rules, one, more)
    words = amount(match, rules, rules.counted)
    return None if words is None else f"{words} {match['scale']} {more}"
