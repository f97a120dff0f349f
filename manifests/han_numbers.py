"""Numbers in Chinese characters, for Chinese and Japanese, where there is one way to write what is said."""

import re

from manifests.number_words import agreed

_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
# nothing of another thing at either end: letters, digits, signs. A full stop or comma may follow, if no digit does.
_START, _END = r"(?<![0-9A-Za-z.,:/+\-~%$¥£€№#])(?<![0-9]\s)", r"(?![0-9A-Za-z:/+\-~$¥£€°]|[.,\s][0-9])"
_YEAR = re.compile(_START + r"(?P<whole>[1-9][0-9]{3})(?=年)")
_NUMBER = re.compile(
    _START + r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.(?P<part>[0-9]+))?(?P<percent>%?)" + _END
)


def spell(text: str, language: str, traditional: bool) -> str:
    """`text` with the numbers that are certain in characters; `language` is zh or ja."""
    if language == "ja":
        return _NUMBER.sub(lambda match: _japanese(match) or match[0], text)
    text = _YEAR.sub(lambda match: _year(match) or match[0], text)
    return _NUMBER.sub(lambda match: _chinese(match, traditional) or match[0], text)


def _written(match: re.Match[str]) -> tuple[str, int]:
    """The digits of the whole part, and its value; -1 for the number of an item, leading zeros, and codes."""
    digits = match["whole"].replace(",", "")
    item = match.start() == 0 and re.match("[、.)]", match.string[match.end() :])
    if item or len(digits) > 9 or (digits[0] == "0" and len(digits) > 1):
        return digits, -1
    coded = len(digits) > 4 and digits == match["whole"] and int(digits) % 1000 != 0
    return digits, -1 if coded else int(digits)


def _after(match: re.Match[str]) -> str:
    return match.string[match.end() : match.end() + 1]


def _year(match: re.Match[str]) -> str | None:
    """二零二一年; 2000 and its like are read as numbers as well."""
    return None if int(match["whole"]) % 100 == 0 else match["whole"].translate(_DIGITS)


def _chinese(match: re.Match[str], traditional: bool) -> str | None:
    """Left out: 2 before what it counts (两个, but 二月), 200 and 2000 (二百, 两百), 110 (一百一), and what may be read
    digit by digit: 365, 1984, 90后.
    """
    digits, value = _written(match)
    locale = "zh_Hant" if traditional else "zh"
    two_ways = ("spellout-cardinal", "spellout-cardinal-alternate2")
    words = agreed(value, (locale,), two_ways if value != 2 else two_ways[:1]) if value >= 0 else None
    part, percent, after = match["part"], match["percent"], _after(match)
    before = match.string[: match.start()][-1:]
    counts_two = value == 2 and not (part or percent or (after and after in "月号號日") or before == "第")
    code = digits == match["whole"] and value > 100 and value % 100 != 0 and not (part or percent)
    if words is None or counts_two or code or (after and after in "后後"):
        return None
    if part:
        words += ("點" if traditional else "点") + part.translate(_DIGITS)
    return ("百分之" if percent else "") + words


def _japanese(match: re.Match[str]) -> str | None:
    """Left out: zeros alone and behind the point (零 or ゼロ), and four digits without what they count."""
    digits, value = _written(match)
    part, after = match["part"] or "", _after(match)
    bare = len(digits) == 4 and digits == match["whole"] and not (after.isalpha() or match["percent"])
    if value <= 0 or "0" in part or bare:
        return None
    words = agreed(value, ("ja",), ("spellout-cardinal",))
    assert words is not None
    return words + (f"点{part.translate(_DIGITS)}" if part else "") + ("パーセント" if match["percent"] else "")
