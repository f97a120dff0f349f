"""Numbers in words by the rules of Unicode's CLDR, and how the languages we spell numbers in write and say them.

CLDR has a rule set for each form that depends on what is counted (un, une; dois, duas). A number has a certain form
where all that could apply agree: 5 in French, not 1; 30 in Spanish, not 200. By that measure no number in Russian
has one, so there are no rules here for it, nor for other languages with cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from manifests.languages import word_set

if TYPE_CHECKING:
    from unicode_rbnf import RbnfEngine

BELOW = 10**9  # larger numbers have nouns in them that decline, and names that differ between countries


@dataclass(frozen=True, slots=True)
class Ordinal:
    """`pattern` matches digits with their ending; `rule_sets` must agree; none from `below` on has one form."""

    pattern: str
    rule_sets: tuple[str, ...]
    below: int = BELOW


@dataclass(frozen=True, slots=True)
class NumberRules:
    """How numbers are written (`groups`, `point`: inside of [] in a regular expression) and said.

    `locales`: CLDR's, which must agree. Rule sets: `counted` for before any noun, `masculine` before percent and money,
    `alone` for digits. `decimals`: how many digits behind the point have one reading. `year_after`: words (of before a
    year) that make a number of four digits one, when `year` says how; `plain_years`: those from 1100 to 1999 need no
    such word. `ordinal_dot`: a point behind a number can make it an ordinal. `zero_has_names`: behind the point.
    `refused`: numbers with two forms that the rule sets do not tell.
    """

    locales: tuple[str, ...]
    counted: tuple[str, ...]
    masculine: tuple[str, ...]
    groups: str
    point: str
    point_word: str
    percent: str
    alone: str = "spellout-numbering"
    below: int = 10**6
    decimals: int = 1
    money: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    degrees: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ordinals: tuple[Ordinal, ...] = ()
    year: str = "spellout-numbering"
    year_after: frozenset[str] = frozenset()
    plain_years: bool = False
    ordinal_dot: bool = False
    zero_has_names: bool = False
    refused: tuple[range, ...] = ()


_MALE, _FEMALE = "spellout-cardinal-masculine", "spellout-cardinal-feminine"
_NUMBERING = "spellout-numbering"
_EN = NumberRules(
    # with the and, which all British and many American readers say; percent in one word, as in America
    locales=("en",),
    counted=("spellout-cardinal-verbose",),
    masculine=("spellout-cardinal-verbose",),
    groups=",",
    point=".",
    point_word="point",
    percent="percent",
    below=BELOW,
    decimals=9,
    zero_has_names=True,  # oh
    money={"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros")},
    degrees={"C": ("degree celsius", "degrees celsius"), "F": ("degree fahrenheit", "degrees fahrenheit")},
)
_DE = NumberRules(
    locales=("de",),
    counted=(_NUMBERING, _MALE, _FEMALE, *(f"spellout-cardinal-{case}" for case in "nrsm")),
    masculine=(_NUMBERING, _MALE),
    groups=". ",
    point=",",
    point_word="komma",
    percent="prozent",
    decimals=9,
    money={"€": ("euro", "euro"), "$": ("dollar", "dollar"), "£": ("pfund", "pfund")},
    degrees={"C": ("grad celsius", "grad celsius")},
    year="spellout-numbering-year",
    plain_years=True,  # 1500 Meter, too, are fünfzehnhundert; eintausendfünfhundert is written 1.500
    ordinal_dot=True,
    refused=(range(100, 200), range(1000, 2000), range(10**5, 2 * 10**5)),  # einhundert and hundert are both usual
)
_FR = NumberRules(
    locales=("fr",),
    counted=(_NUMBERING, _MALE, _FEMALE),
    masculine=(_NUMBERING, _MALE),
    groups=" .",
    point=",",
    point_word="virgule",
    percent="pour cent",
    money={"€": ("euro", "euros"), "$": ("dollar", "dollars")},
    degrees={"C": ("degré celsius", "degrés celsius")},
    refused=(range(1100, 2000, 100), range(1180, 2000, 100)),  # the year 1980: quatre-vingt, without its s
    ordinals=(
        Ordinal("1er", ("spellout-ordinal-masculine",)),
        Ordinal("1(?:re|ère)", ("spellout-ordinal-feminine",)),
        Ordinal("[0-9]{1,2}(?:e|ème|ième)", ("spellout-ordinal-masculine", "spellout-ordinal-feminine"), below=80),
    ),
)
_ES = NumberRules(
    locales=("es",),
    counted=(_NUMBERING, _MALE, _FEMALE),
    masculine=(_NUMBERING, _MALE),
    groups=". ",
    point=",",  # a point is said in America, a comma in Spain
    point_word="coma",
    percent="por ciento",
    money={"€": ("euro", "euros")},  # $ are dollars or pesos
    ordinals=(
        Ordinal("[13]er", ("spellout-ordinal-masculine-adjective",)),
        Ordinal(r"[0-9]{1,2}\.?º", ("spellout-ordinal-masculine", "spellout-ordinal-masculine-adjective"), below=11),
        Ordinal(r"[0-9]{1,2}\.?ª", ("spellout-ordinal-feminine",), below=11),
    ),
    year_after=word_set("en año desde hasta de del"),
)
_PT = NumberRules(
    locales=("pt", "pt_PT"),  # dezesseis in Brazil, dezasseis in Portugal
    counted=(_NUMBERING, _MALE, _FEMALE),
    masculine=(_NUMBERING, _MALE),
    groups=". ",
    point=",",
    point_word="vírgula",
    percent="por cento",
    money={"€": ("euro", "euros"), "R$": ("real", "reais")},
    ordinals=(
        Ordinal(r"[0-9]{1,2}\.?º", ("spellout-ordinal-masculine",), below=21),
        Ordinal(r"[0-9]{1,2}\.?ª", ("spellout-ordinal-feminine",), below=21),
    ),
    year_after=word_set("em ano desde até de"),
)
RULES = {
    "en": _EN,
    "de": _DE,
    "fr": _FR,
    "fr-be": replace(_FR, locales=("fr_BE",)),  # septante
    "fr-ch": replace(_FR, locales=("fr_CH",)),  # huitante
    "es": _ES,
    "pt": _PT,
    "pt-br": replace(_PT, locales=("pt",)),
    "pt-pt": replace(_PT, locales=("pt_PT",)),
}


def rules_of(tag: str) -> NumberRules | None:
    """The rules of a lower-case tag with hyphens, or else of its language; None where no number has a certain form."""
    return RULES.get(tag, RULES.get(tag.partition("-")[0]))


@cache
def _engine(locale: str) -> "RbnfEngine":
    # imported here because most texts hold no digit, and its rules are XML files
    from unicode_rbnf import RbnfEngine

    return RbnfEngine.for_language(locale)


@lru_cache(maxsize=1 << 14)
def agreed(number: int, locales: tuple[str, ...], rule_sets: tuple[str, ...]) -> str | None:
    """The number in the words on which all rule sets of all these locales agree; None where they do not."""
    names = list(rule_sets)
    said = {
        text
        for locale in locales
        for text in _engine(locale).format_number(number, None, names).text_by_ruleset.values()
    }
    return said.pop() if len(said) == 1 else None
