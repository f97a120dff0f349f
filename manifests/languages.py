"""What each language writes: its alphabet, and what becomes of the characters around it.

A foreign accented letter becomes its base letter where an alphabet has that one and not the other (café in English,
façade in German: facade); a letter of another script has no such base and is refused. A language without a table
keeps whatever letters and marks it is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_LATIN = "a-z"
_ACCENTS = "\u0300-\u036f"  # combining marks that no composed letter of the alphabet took up: stress, foreign accents
_HAN = (
    "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002a6df\U0002a700-\U0002ee5d\U00030000-\U000323af"
    "\ufa0e\ufa0f\ufa11\ufa13\ufa14\ufa1f\ufa21\ufa23\ufa24\ufa27-\ufa29"  # unified, though among the compatible ones
)
# letters of Latin alphabets that Unicode does not take apart, as readers without that alphabet write them
_BASES = {"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ß": "ss", "ħ": "h"}

# What a reader says otherwise than it is written: XIV (fourteen, the fourteenth, le quatorzième). And a question mark
# within a word, which stands for a letter that was lost on the way (informa??o). Both begin with what is rare, which
# makes the search four times as fast as beginning with a look behind (0.8 against 3.3 µs for 55 characters).
_ROMAN_NUMERAL = r"[IVX]{2}(?<![^\W_]..)[IVX]*(?:e|er|ème)?(?![^\W_])"
_LOST_LETTER = r"\?(?<=[^\W\d_]\?)\?*[^\W\d_]"


def word_set(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


@dataclass(frozen=True, slots=True)
class Apostrophes:
    """How a language uses them at the edges of words; within a word they always stay.

    `elided`: words that begin with one ('cause). `clitics`: patterns (of the text in lower case, one space between
    words) and what joins their words; they repair texts whose tokeniser cut at the apostrophe (they 're).
    `plural_s`: one may stand by itself behind a plural that a tokeniser cut (students ' work).
    """

    elided: frozenset[str] = frozenset()
    clitics: tuple[tuple[str, str], ...] = ()
    plural_s: bool = False


@dataclass(frozen=True, slots=True)
class Language:
    """`letters` and `silent` (what vanishes) are written like the inside of [] in a regular expression.

    `folds`: characters that become others. `apostrophes` None: the script has none, they are punctuation. `spaced`
    False: written without spaces between words, so no space comes out. `doubts`: patterns that are refused in text
    that is not all capitals. `expanded`: abbreviations with one spoken form, as other corpora write them out; `titles`
    those that have it before another word.
    """

    letters: str
    silent: str = ""
    folds: Mapping[str, str] = field(default_factory=dict)
    apostrophes: Apostrophes | None = field(default_factory=Apostrophes)
    spaced: bool = True
    doubts: tuple[str, ...] = ()
    expanded: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)


def _latin(more: str, apostrophes: Apostrophes | None = None) -> Language:
    """All of a to z, which foreign names have in every language, and the language's own letters `more`."""
    return Language(
        letters=_LATIN + more,
        silent=_ACCENTS,
        folds={letter: base for letter, base in _BASES.items() if letter not in more} | {"ʻ": "'", "ː": " "},
        apostrophes=apostrophes or Apostrophes(),
        doubts=(_ROMAN_NUMERAL, _LOST_LETTER),
    )


_ELIDED_EN = word_set(
    "cause cos coz cuz tis twas twere twill twould tisn't twasn't til till em im er e ere ouse ome ave ow ello "
    "bout round neath tween gainst mongst kay un nuff scuse fraid nother n"
)
_NEGATED = "ai are ca could dare did do does had has have is might must need ought sha should was were wo would"
_ENGLISH = Apostrophes(
    elided=_ELIDED_EN,
    clitics=(
        (r"(?<=[^ ']) '(?=(?:s|re|ve|ll|d|m)(?: |$))", "'"),  # they 're, beauty 's
        (rf"\b({'|'.join(word + 'n' for word in _NEGATED.split())}|can|won|shan|ain) '(?=t(?: |$))", r"\1'"),  # don 't
        (rf"\b({_NEGATED.replace(' ', '|')}) n't(?= |$)", r"\1n't"),  # do n't
        (rf"\b([dloy]) '(?!(?:{'|'.join(sorted(_ELIDED_EN))})(?: |$))(?=[^ '])", r"\1'"),  # o 'clock, d 'etat
        (rf"(^| )' (?=(?:{'|'.join(sorted(_ELIDED_EN))})(?: |$))", r"\1'"),  # ' cause
    ),
    plural_s=True,
)
_ELISIONS_FR = "[cdjlmnst]|qu|aujourd|entr|jusqu|lorsqu|presqu|puisqu|quelqu|quoiqu"
_ELISIONS_IT = "[cdlmnstv]|un|gl|all|dall|dell|nell|sull|coll|quell|quest|com|dov|quand|tutt|mezz|sant|bell|nessun|cent"
_FRENCH = Apostrophes(clitics=((rf"\b({_ELISIONS_FR})(?:' ?| ' ?)(?=[^ '])", r"\1'"),))  # l' eau, l 'eau, l ' eau
_ITALIAN = Apostrophes(clitics=((rf"\b({_ELISIONS_IT})(?:' ?| ' ?)(?=[^ '])", r"\1'"),))  # but un po' di

LANGUAGES: dict[str, Language] = {
    # LibriSpeech writes abbreviations out, captions do not. A Dr. that ends a sentence may be a street.
    "en": replace(
        _latin("", _ENGLISH),
        expanded={"mr": "mister", "mrs": "missus", "etc": "et cetera", "vs": "versus"},
        titles={"dr": "doctor"},
    ),
    "de": _latin("äöüß", Apostrophes(word_set("n ne nen nem ner s ran rauf raus rein rum runter rüber"))),
    "fr": _latin("àâçèéêëîïôùûüÿ", _FRENCH),  # œ and æ become oe and ae: cœur and coeur are one word
    "es": _latin("áéíñóúü"),
    "pt": _latin("àáâãçéêíóôõú"),  # ü, given up in 2009, becomes u: freqüente and frequente are one word
    "it": _latin("àèéìíòóùú", _ITALIAN),
    "nl": _latin("áèéêëíïóöúü", Apostrophes(word_set("k m n r s t ns"))),
    "pl": _latin("ąćęłńóśźż"),
    "sv": _latin("åäöé"),  # é tells idé from ide
    "tr": _latin("çğıöşüâîû"),  # the circumflex tells kâr from kar
    # Stress marks vanish. ё stays: a text that writes it and one that writes е differ, and which е is one is a guess.
    "ru": Language("а-яё", silent=_ACCENTS, doubts=(_LOST_LETTER,)),
    "uk": Language("абвгґдеєжзиіїйклмнопрстуфхцчшщьюя", silent=_ACCENTS, doubts=(_LOST_LETTER,)),
    # All letters, the hamza's among them, and those for foreign sounds (پ چ ژ ڤ گ). Vowel signs are seldom written and
    # vanish, as do tatweel and the signs of the Quran. The Persian forms of kaf and yeh are the same letters.
    "ar": Language(
        "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيپچژڤگ",
        silent="\u0640\u064b-\u0652\u0656-\u065f\u0670\u0610-\u061a\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u08d3-\u08ff",
        folds={"ٱ": "ا", "ک": "ك", "ی": "ي"},
        apostrophes=None,
    ),
    # Points vanish. The mark of acronyms too, within the word; typed as a quotation mark it would cut the word in two.
    "he": Language(
        "א-ת",
        silent="\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7״",
        folds={"׳": "'"},
        doubts=('"(?<=[א-ת]")[א-ת]',),
    ),
    # Vowel signs, virama and nukta are letters of the alphabet: without them other words are left.
    "ta": Language(
        "\u0b83\u0b85-\u0b8a\u0b8e-\u0b90\u0b92-\u0b95\u0b99\u0b9a\u0b9c\u0b9e\u0b9f\u0ba3\u0ba4\u0ba8-\u0baa\u0bae-\u0bb9\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd\u0bd0\u0bd7",
        apostrophes=None,
    ),
    "hi": Language("\u0901-\u0903\u0904-\u0939\u093c-\u094d\u0950\u0960-\u0963\u0972", apostrophes=None),
    "ko": Language("가-힣", apostrophes=None),
    # Long-vowel and iteration marks are letters. Latin letters (CD, Ｔシャツ) have no certain spelling and are refused.
    "ja": Language(_HAN + "ぁ-ゖァ-ヺーゝゞヽヾ々〆〇", apostrophes=None, spaced=False),
    # Simplified and traditional stay as they are. 〇 and 零 are one word, 零.
    "zh": Language(_HAN, folds={"〇": "零"}, apostrophes=None, spaced=False),
}

# other names of these languages, as corpora have them
ALIASES = {
    "eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "por": "pt", "ita": "it", "nld": "nl",
    "dut": "nl", "pol": "pl", "swe": "sv", "tur": "tr", "rus": "ru", "ukr": "uk", "ara": "ar", "heb": "he", "iw": "he",
    "tam": "ta", "hin": "hi", "kor": "ko", "jpn": "ja", "zho": "zh", "chi": "zh", "cmn": "zh", "yue": "zh",
}  # fmt: skip


def base(tag: str) -> str:
    """The key of LANGUAGES that a tag means (zh-TW and cmn: zh, en_US: en), or the tag's own first part."""
    first = tag.strip().lower().replace("_", "-").partition("-")[0]
    return ALIASES.get(first, first)
