import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.languages import LANGUAGES
from manifests.text import normalise

SIGNS = " '’\"%$€£R°C.,:;-–/+#&()NoUhrstern年月日万个第後ª º½²①٣५１"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("5 men and 21 women, 101 in all", "five men and twenty one women one hundred and one in all"),
        (
            "1,234,567 of 2,000",
            "one million two hundred and thirty four thousand five hundred and sixty seven of two thousand",
        ),
        ("10000 people and 5 million more", "ten thousand people and five million more"),
        ("3.14 and 0.5, then 1,000.5", "three point one four and zero point five then one thousand point five"),
        ("1st, 2ND, 3rd, 11th, 21st, 112th", "first second third eleventh twenty first one hundred and twelfth"),
        ("In 1984, he left", "in nineteen eighty four he left"),
        ("in 1984 he left", "in nineteen eighty four he left"),
        ("since 1905 and until 2005 or 2000", "since nineteen oh five and until two thousand and five or two thousand"),
        ("by 2012", "by twenty twelve"),
        ("the 4th of July 1776", "the fourth of july seventeen seventy six"),
        ("the 1990s, the ’60s, ' 70s and her 20's", "the nineteen nineties the sixties seventies and her twenties"),
        ("5% more, 2.5 % less", "five percent more two point five percent less"),
        ("costs $5 or £1, took $3.5 million", "costs five dollars or one pound took three point five million dollars"),
        ("20°C, 1 °F, 20 ℃", "twenty degrees celsius one degree fahrenheit twenty degrees celsius"),
        ("at 10:30, 7 a.m. or 5:45pm.", "at ten thirty seven a m or five forty five p m"),
        ("a 10-year-old on a 5-star trip", "a ten year old on a five star trip"),
        ("R&D & more", "r and d and more"),
        ('He said "I am 5", (3) and 7…', "he said i am five three and seven"),
        ("３５ people", "thirty five people"),
        ("5", "five"),
    ],
)
def test_english(raw: str, text: str) -> None:
    assert normalise(raw, "en") == text


@pytest.mark.parametrize(
    ("tag", "raw", "text"),
    [
        ("de", "2 Männer, 21 Tage, 15.000 Euro", "zwei männer einundzwanzig tage fünfzehntausend euro"),
        (
            "de",
            "1984 und 2005 auf 1500 Meter",
            "neunzehnhundertvierundachtzig und zweitausendfünf auf fünfzehnhundert meter",
        ),
        ("de", "3,14 oder 1,5 Millionen", "drei komma eins vier oder eins komma fünf millionen"),
        ("de", "5 % von 20 €", "fünf prozent von zwanzig euro"),
        ("de", "Um 10:30 Uhr bei 20 °C", "um zehn uhr dreißig bei zwanzig grad celsius"),
        ("de", "Es waren 800.", "es waren achthundert"),
        ("fr", "2 hommes, 80 ans, 10 000 fois", "deux hommes quatre vingts ans dix mille fois"),
        ("fr", "le 1er, la 1re, le 2e, la 21ème", "le premier la première le deuxième la vingt et unième"),
        (
            "fr",
            "en 1984, 3,5 % et 21 %",
            "en mille neuf cent quatre vingt quatre trois virgule cinq pour cent et vingt et un pour cent",
        ),
        ("fr", "5 € ou 1 €", "cinq euros ou un euro"),
        ("fr-BE", "95 fois", "nonante cinq fois"),
        ("es", "2 niños, 30 años, 200.000 €", "dos niños treinta años doscientos mil euros"),
        ("es", "en 1984, el 5 %", "en mil novecientos ochenta y cuatro el cinco por ciento"),
        ("es", "la 1ª, el 2.º y el 3er", "la primera el segundo y el tercer"),
        ("pt", "3 casas, 200%, R$ 1 ou R$5", "três casas duzentos por cento um real ou cinco reais"),
        ("pt", "a 1ª, o 2º, em 1984", "a primeira o segundo em mil novecentos e oitenta e quatro"),
        ("pt_BR", "16 dias", "dezesseis dias"),
        ("pt-PT", "16 dias", "dezasseis dias"),
        ("ja", "3人、10時30分、２０２１年", "三人十時三十分二千二十一年"),
        ("ja", "1,000円の50%、3.5、1万5千", "千円の五十パーセント三点五一万五千"),
        ("zh-CN", "3个，12个月，2月2日，第2", "三个十二个月二月二日第二"),
        ("zh-CN", "2021年的3.5%，10%，15万", "二零二一年的百分之三点五百分之十十五万"),
        ("zh-TW", "15萬，3.5，10000元", "十五萬三點五一萬元"),
    ],
)
def test_other_languages(tag: str, raw: str, text: str) -> None:
    assert normalise(raw, tag) == text


@pytest.mark.parametrize(
    ("tag", "raws"),
    [
        # among letters or signs; leading zeros; half of a longer thing
        (
            "en",
            "mp3|4x4|U2|5kg|A4|2nd-hand|007|05|-5|#5|5'|5\"|5+3|½|3½|10²|①|٣|1. Go|[5]|5x|5 X",
        ),
        ("en", "555-1234|555 1234|1-800-555|9/11|24/7|3-5|5 - 6|5–6|2:1|10 10|1.2.3|50/50|3 1/2|1,5|12.30.4"),
        # two readings
        ("en", "1984 was|in 1500 towns|1234 people|90210|12345|10:05|10:00|2.05|.5|30s timer|the 1900s|21th|12:60"),
        ("en", "May 4|4 July|No. 5|No 5|vol. 3|5 km|5 m|$5.50|a $20 bill|$5 bills|£5m|World War II|5 &amp; 6|'5'"),
        ("de", "1 Mann|101 Tage|100|1.200|am 3. Mai|am 3.|der 200. Tag|5,50 €|1:30 Uhr|20-jährige|50er|1.5|1 %|5 km"),
        ("fr", "1 homme|21 ans|en 1980|1900|3,14|10h30|80e|1e|n° 5|Louis XIV|5 km|01 23"),
        ("es", "1 niño|21|200 casas|1984 casas|1º|21 %|1 €|5 $|3.5|10:30|1.000.000"),
        ("pt", "2 casas|16|200 casas|em 1916|1984|10:30|21º"),
        ("ja", "0|0.5|007|1984|090-1234|3.05|5〜6|2 0|A4"),
        ("zh", "2个|200|2000年|110|365天|1984|90后|3-5|12:30|5G|1/2|007|555 12|20℃|1、五"),
        ("ru uk ar ta hi ko he it nl pl sv tr el", "5|٥|५|1-й|50%|10:30"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tag: str, raws: str) -> None:
    for language in tag.split():
        for raw in raws.split("|"):
            with pytest.raises(ValueError, match=r"^unknown characters: "):
                normalise(raw, language)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("call 555-1234 now", "555-1234"),
        ("0123456789+", "0123456789+"),
        ("room " + "9" * 5000, "9" * 20),
        ("a 5 km, 3-5 and ½", "3-5 5 ½"),
    ],
)
def test_a_refused_number_is_shown_whole(raw: str, shown: str) -> None:
    with pytest.raises(ValueError) as err:
        normalise(raw, "en")
    assert str(err.value) == f"unknown characters: {shown}"


@given(
    st.text(st.one_of(st.sampled_from("0123456789"), st.sampled_from(SIGNS))),
    st.sampled_from([*sorted(LANGUAGES), "el"]),
)
def test_no_digit_or_sign_is_left(raw: str, language: str) -> None:
    try:
        text = normalise(raw, language)
    except ValueError as err:
        assert str(err).startswith("unknown characters: ")
        return
    assert all(char.isalpha() or char in " '" for char in text)
    assert normalise(text, language) == text


@given(st.integers(0, 999_999_999), st.sampled_from(["en", "de", "fr", "es", "pt-BR", "ja", "zh-CN", "zh-TW"]))
def test_no_two_numbers_sound_alike(number: int, language: str) -> None:
    def said(value: int) -> str | None:
        try:
            return normalise(
                f"{value:,}".replace(
                    ",", "." if language in ("de", "es", "pt-BR") else " " if language == "fr" else ","
                ),
                language,
            )
        except ValueError:
            return None

    if (text := said(number)) is not None:
        assert all(
            said(other) != text
            for other in (number + 1, number + 10, number + 100, number * 10 + 1, number // 10 + 1)
            if other != number
        )
