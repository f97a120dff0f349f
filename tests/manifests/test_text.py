import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.text import normalise

LANGUAGES = st.sampled_from(["en", "de", "tr", "el", "zh", "uk"])
# weighted towards what transcripts hold, and all of Unicode besides
TEXTS = st.text(st.one_of(st.sampled_from("aBçßİIıΣς'’‘`´-.,\u0301\u200d éﬁЙー々"), st.characters()))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("MISTER QUILTER IS THE APOSTLE", "mister quilter is the apostle"),
        ("  Well,\tI—er…don't know!\n", "well i er don't know"),
        ("“It’s ʼtwas”", "it's 'twas"),
        ("'Cause the dogs' bowls", "'cause the dogs' bowls"),
        ("the 'right' word, ''really''", "the right word really"),
        ("she said ' and - '", "she said and"),
        ("rock ’n’ roll", "rock n roll"),
        ("twenty-one mother-in-law", "twenty one mother in law"),
        ("Café, naïve Ænima, Straße, Søren Łódź", "cafe naive aenima strasse soren lodz"),
        ("ﬁne ＷＩＤＥ soft\u00adhyphen zero\u200bwidth", "fine wide softhyphen zerowidth"),
        ("...!?", ""),
        ("", ""),
    ],
)
def test_english(raw: str, text: str) -> None:
    assert normalise(raw, "en") == text


@pytest.mark.parametrize(
    ("raw", "language", "text"),
    [
        ("Die Straße, GRÜN!", "de", "die straße grün"),
        ("DIYARBAKIR İstanbul", "tr", "dıyarbakır istanbul"),
        ("L’eau d'été", "fr", "l'eau d'été"),
        ("cafe\u0301", "fr", "café"),
        ("П'ять, їжак", "uk", "п'ять їжак"),
        ("真っ昼間、なのに。", "ja", "真っ昼間 なのに"),
        ("ΟΔΟΣ", "el", "οδος"),
        ("हिन्दी।", "hi", "हिन्दी"),
        ("Colour", "en-GB", "colour"),
        ("é", "EN_us", "e"),
    ],
)
def test_languages(raw: str, language: str, text: str) -> None:
    assert normalise(raw, language) == text


@pytest.mark.parametrize(
    ("raw", "language", "shown"),
    [
        ("room 101", "en", "0 1"),
        ("AT&T 5%", "en", "% & 5"),
        ("the Δ of мир", "en", "δ и м р"),
        ("一2三", "zh", "2"),
        ("a\x07b", "de", "U+0007"),
        ("♪ la ♪", "en", "♪"),
        ("0123456789+", "en", "+ 0 1 2 3 4 5 6 7 8 and 1 more"),
    ],
)
def test_what_has_no_known_spoken_form_is_refused(raw: str, language: str, shown: str) -> None:
    with pytest.raises(ValueError) as err:
        normalise(raw, language)
    assert str(err.value) == f"unknown characters: {shown}"


def _try(text: str, language: str) -> str | None:
    try:
        return normalise(text, language)
    except ValueError:
        return None


@given(TEXTS, LANGUAGES)
def test_a_normalised_text_stays_as_it_is(raw: str, language: str) -> None:
    text = _try(raw, language)
    if text is not None:
        assert normalise(text, language) == text


@given(TEXTS, LANGUAGES)
def test_nothing_but_letters_marks_and_apostrophes_remains(raw: str, language: str) -> None:
    text = _try(raw, language) or ""
    assert text == " ".join(text.split(" ")).strip() and "  " not in text
    for char in text.replace(" ", ""):
        if language == "en":
            assert char in "abcdefghijklmnopqrstuvwxyz'"
        else:
            assert char == "'" or unicodedata.category(char)[0] in "LM"
    assert all(any(unicodedata.category(c)[0] == "L" for c in word) for word in text.split())


@given(st.text("abzABZ'’ .,-–!?\"“”\t"), LANGUAGES.filter(lambda language: language != "tr"))
def test_no_letter_is_ever_lost(raw: str, language: str) -> None:
    def letters(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalpha())

    assert letters(normalise(raw, language)) == letters(raw)
