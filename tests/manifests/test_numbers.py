import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.languages import LANGUAGES
from manifests.text import normalise

SIGNS = " '’\"%$€£R°C.,:;-–/+#&()NoUhrst年月日万个第ª º½²①٣５१"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("5 men and 21 women, 101 in all", "five men and twenty one women one hundred and one in all"),
        ("1,000 or 1,234,567", "one thousand or one million two hundred and thirty four thousand five hundred and sixty seven"),
        ("10000 people and 5 million more", "ten thousand people and five million more"),
        ("3.14 and 0.5, then 1,000.5", "three point one four and zero point five then one thousand point five"),
        ("1st, 2ND, 3rd, 11th, 21st, 112th", "first second third eleventh twenty first one hundred and twelfth"),
        ("In 1984, he left", "in nineteen eighty four he left"),
        ("since 1905 and until 2005 or 2012", "since nineteen oh five and until two thousand and five or 2012"),
        ("the 4th of July 1776", "the fourth of july seventeen seventy six"),
        ("the 1990s, the ’60s, ' 70s and her 20's", "the nineteen nineties the sixties seventies and her twenties"),
        ("5% more, 2.5 % less", "five percent more two point five percent less"),
        ("costs $5 or £1, it took $3.5 million", "costs five dollars or one pound it took three point five million dollars"),
        ("20°C, 1 °F", "twenty degrees celsius one degree fahrenheit"),
        ("at 10:30, 7 a.m. or 5:45pm.", "at ten thirty seven a m or five forty five p m"),
        ("a 10-year-old on a 5-star trip", "a ten year old on a five star trip"),
        ("R&D & more", "r and d and more"),
        ('He said "I am 5", (3) and 7…', "he said i am five three and seven"),
        ("３５ people", "thirty five people"),
    ],
)
def test_english_numbers(raw: str, text: str) -> None:
    refused = [word for word in text.split() if word.isdecimal()]
    if refused:
        with pytest.raises(ValueError, match="unknown characters: " + refused[0]):
            normalise(raw, "en")
    else:
        assert normalise(raw, "en") == text
