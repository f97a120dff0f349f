"""From a caption file to utterances: what formats hold, how rolling lines unroll, what is spoken, where it is cut."""

import html
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.youtube import captions, cues, rolling
from pipelines.youtube.captions import Bit, CaptionError, Cue, text_of
from pipelines.youtube.cues import Stretch
from pipelines.youtube.spoken import labels, spoken


def shown(text: str, extension: str) -> list[tuple[int, int, list[str]]]:
    return [(c.start_ms, c.end_ms, [text_of(line) for line in c.lines]) for c in captions.read(text, extension)]


def cue(start_s: float, end_s: float, *lines: str, voice: str = "") -> Cue:
    bits = tuple((Bit(line),) for line in lines)
    return Cue(round(1000 * start_s), round(1000 * end_s), bits, f"at {start_s:g}", voice)


def cut(*given: Cue, end_s: float | None = None) -> tuple[list[tuple[float, float, str]], list[tuple[str, str]]]:
    """(start, end, text) of the utterances, and (reason, text) of what was left out."""
    found = cues.utterances(given, None if end_s is None else round(1000 * end_s))
    good = [(s.start_ms / 1000, s.end_ms / 1000, s.text) for s in found if not s.reason]
    return good, [(s.reason, s.text) for s in found if s.reason]


# --- formats ---------------------------------------------------------------------------------------------------------

VTT = """WEBVTT - a title
Kind: captions
Language: en
Style:
::cue(c.colorCCCCCC) { color: rgb(204,204,204);
 }
##

STYLE
::cue { color: white }

NOTE made by hand
and not finished

first
00:01.000 --> 00:02.500 align:start position:0%
<v.loud Mary Ann>Fish &amp; chips,&nbsp;<i>please</i> <b>now</b>
a < b<c.colorE5E5E5> &lt;i&gt;</c>

00:00:03.000 --> 01:00:04.000
<v Bob>No.</v> <v Mary>Yes.

NOTE one more

2
00:00:05.000 --> 00:00:06.000
<ruby>漢字<rt>かんじ</rt></ruby>で

below a blank line
"""


def test_webvtt_as_it_is_met() -> None:
    assert shown(VTT, "vtt") == [
        (1000, 2500, ["Fish & chips, please now", "a < b <i>"]),
        (3000, 3604000, ["No. >> Yes."]),
        (5000, 6000, ["漢字で", "below a blank line"]),
    ]
    assert [c.voice for c in captions.read(VTT, "vtt")] == ["Mary Ann", "Bob", ""]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_srt_as_it_is_met(line_end: str) -> None:
    lines = [
        *("1", "00:00:01,000 --> 00:00:02,500", "{\\an8}<i>One</i> &gt;&gt; two", "", "with a blank line", ""),
        *("00:00:03,5 --> 00:00:04,000 X1:40 X2:600", "<font color=#fff>no number</font>", "", ""),
        *("3", "0:0:5.250-->0:0:6", "10", "", "4"),
        *("00:00:07,000 --> 00:00:08,000", "no blank line", "5", "00:00:09,000 --> 00:00:09,500", "", ""),
    ]
    assert shown(line_end.join(lines), "srt") == [
        (1000, 2500, ["One >> two", "with a blank line"]),
        (3500, 4000, ["no number"]),
        (5250, 6000, ["10"]),
        (7000, 8000, ["no blank line"]),
    ]


def test_json3_of_people_and_of_machines() -> None:
    events = [
        {"tStartMs": 0, "dDurationMs": 9000, "id": 1, "wpWinPosId": 1},
        {"tStartMs": 1000, "dDurationMs": 1500, "segs": [{"utf8": "Two\nlines"}]},
        {
            "tStartMs": 3000,
            "dDurationMs": 4000,
            "wWinId": 1,
            "segs": [{"utf8": "one"}, {"utf8": " word", "tOffsetMs": 400}],
        },
        {"tStartMs": 4000, "dDurationMs": 10, "wWinId": 1, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 5000, "segs": [{"utf8": "&amp; stays"}]},
    ]
    found = captions.read(json.dumps({"wireMagic": "pb3", "events": events}), "json3")
    assert [(c.start_ms, c.end_ms, [text_of(line) for line in c.lines]) for c in found] == [
        (1000, 2500, ["Two", "lines"]),
        (3000, 7000, ["one word"]),
        (5000, 5000, ["&amp; stays"]),
    ]
    assert found[1].lines == ((Bit("one"), Bit(" word", 3400)),)


@pytest.mark.parametrize(
    ("extension", "text", "message"),
    [
        ("vtt", "<!DOCTYPE html>\n<p>404", "line 1: '<!DOCTYPE html>' is not WEBVTT"),
        ("vtt", "", "line 1: '' is not WEBVTT"),
        ("vtt", "WEBVTT\n\n00:01.000 --> 00:0x.000\na", "line 3: '00:01.000 --> 00:0x.000' is not two times"),
        ("vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\na\n--> b", "line 5: '--> b' is not two times"),
        ("vtt", "WEBVTT\n\n00:61.000 --> 01:02.000\na", "line 3: 00:61 is not a time"),
        ("vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\na<00:99:01.000> b", "line 3: 99:01 is not a time"),
        ("srt", "A page.\n\n1\n00:00:01,000 --> 00:00:02,000\na", "line 1: 'A page.' comes before any time"),
        ("srt", "1\n00:00:01,000\na", "line 1: '1' comes before any time"),
        ("json3", '{"events": [\n{]}', r"line 2: not JSON \(Expecting"),
        ("json3", "[]", "line 1: JSON, but without a list of events"),
        ("json3", '{"events": [{"tStartMs": "1", "segs": [{"utf8": "a"}]}]}', "event 1: tStartMs is '1', not a number"),
        ("json3", '{"events": [{}, {"segs": ["a"]}]}', "event 2: a segment has no text"),
        ("json3", '{"events": [3]}', "event 1: is no event"),
    ],
)
def test_a_broken_file_says_where(extension: str, text: str, message: str) -> None:
    with pytest.raises(CaptionError, match="^" + message):
        captions.read(text, extension)


FRAGMENTS = [
    "WEBVTT",
    "\n",
    "\n\n",
    "00:01.000 --> 00:02.000",
    "<00:00:01.500>",
    "<c>",
    "</c>",
    "<v A>",
    "NOTE",
    "&amp;",
]


@given(st.sampled_from(captions.FORMATS), st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=20))
def test_nonsense_is_an_error_with_a_place_or_cues_never_a_crash(extension: str, parts: list[str]) -> None:
    try:
        found = captions.read("".join(parts), extension)
    except CaptionError as err:
        assert re.match(r"(line|event) \d+: ", str(err))
    else:
        cues.utterances(found)


# Words that are no markup in any of the formats and no sign of a speaker, and all that an entity can stand for
words = st.text(st.sampled_from("aäß'漢&<>9.,!é"), min_size=1, max_size=5).filter(
    lambda word: any(char.isalpha() for char in word) and not re.search(r"^>|>>|-->", word)
)
texts = st.lists(words, min_size=1, max_size=4).map(" ".join)
times_ms = st.tuples(st.integers(0, 4_000_000), st.integers(0, 30_000))


@given(st.lists(st.tuples(times_ms, st.lists(texts, min_size=1, max_size=2)), max_size=8))
def test_every_format_gives_back_what_was_written(given_cues: list[tuple[tuple[int, int], list[str]]]) -> None:
    expected = [(start_ms, start_ms + length_ms, lines) for (start_ms, length_ms), lines in given_cues]
    for extension in captions.FORMATS:
        assert shown(written(expected, extension), extension) == expected


def written(given_cues: list[tuple[int, int, list[str]]], extension: str) -> str:
    if extension == "json3":
        events = [{"tStartMs": s, "dDurationMs": e - s, "segs": [{"utf8": "\n".join(t)}]} for s, e, t in given_cues]
        return json.dumps({"events": events})
    blocks = [
        f"{number}\n{clock(start)} --> {clock(end)}\n" + "\n".join(html.escape(line, quote=False) for line in lines)
        for number, (start, end, lines) in enumerate(given_cues, 1)
    ]
    if extension == "srt":
        return "\n\n".join(re.sub(r"(\d\d)\.(\d{3}\b)", r"\1,\2", block, count=2) for block in blocks)
    return "\n\n".join(["WEBVTT", *blocks])


def clock(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}"


# --- rolling ---------------------------------------------------------------------------------------------------------


def rolled(lines: list[list[tuple[int, str]]], tags: bool) -> str:
    """As YouTube writes what it recognised: each line word by word below the one before, then for 10 ms alone."""
    blocks = ["WEBVTT\nKind: captions\nLanguage: en"]
    before = " "
    for index, line in enumerate(lines):
        start_ms, end_ms = line[0][0], lines[index + 1][0][0] if index + 1 < len(lines) else line[-1][0] + 500
        first, *others = (html.escape(word) for _, word in line)
        timed = [f"<{clock(ms)}><c> {word}</c>" for (ms, _), word in zip(line[1:], others, strict=True)]
        new = first + ("".join(timed) if tags else "".join(" " + word for word in others))
        plain = " ".join([first, *others])
        place = " align:start position:0%"
        blocks.append(f"{clock(start_ms)} --> {clock(end_ms - 10)}{place}\n{before}\n{new}")
        blocks.append(f"{clock(end_ms - 10)} --> {clock(end_ms)}{place}\n{plain}\n ")
        before = plain
    return "\n\n".join(blocks) + "\n"


# few words, so that lines and words often repeat; two lines at least, as one alone cannot roll
recognised = st.lists(
    st.lists(st.tuples(st.integers(20, 900), st.sampled_from(["no", "yes", "um", "it's"])), min_size=1, max_size=5),
    min_size=2,
    max_size=8,
)


@given(recognised, st.booleans())
def test_rolling_captions_unroll_to_the_words_once_each_with_their_times(
    lengths: list[list[tuple[int, str]]], tags: bool
) -> None:
    now_ms = 0
    lines = []
    for line in lengths:
        starts = []
        for length_ms, word in line:
            starts.append((now_ms, word))
            now_ms += length_ms
        lines.append(starts)
    found = captions.read(rolled(lines, tags), "vtt")
    assert rolling.rolls(found)
    fresh = rolling.unroll(found)
    if tags:
        heard = [(word.start_ms, word.text.strip()) for one in fresh for word in rolling.words(one, None)]
        assert heard == [word for line in lines for word in line]
    else:
        heard = [(one.start_ms, " ".join(text_of(line) for line in one.lines)) for one in fresh]
        assert heard == [(line[0][0], " ".join(word for _, word in line)) for line in lines]


def test_lines_that_grow_and_lines_that_only_overlap_are_rolling_too() -> None:
    growing = [cue(0, 1, "one"), cue(1, 2, "one two"), cue(2, 3, "one two", "three"), cue(3, 4, "three four")]
    assert rolling.rolls(growing)
    assert [" ".join(map(text_of, c.lines)) for c in rolling.unroll(growing)] == ["one", "two", "three", "four"]
    overlapping = [cue(0, 4, "say no"), cue(2, 6, "no"), cue(4, 8, "no one")]
    assert rolling.rolls(overlapping)
    assert cut(*overlapping) == ([(0, 8, "say no no no one")], [])


def test_captions_of_people_do_not_roll() -> None:
    assert not rolling.rolls(
        [cue(0, 1, "No."), cue(1, 2, "No."), cue(2, 3, "Yes."), cue(3.9, 5, "No."), cue(4.5, 6, "?")]
    )
    assert not rolling.rolls([cue(0, 1, "No."), cue(1, 2, "No.")])


def test_word_times_that_run_backwards_or_too_far_stay_inside_their_cue() -> None:
    line = (Bit("a"), Bit(" b", 2500), Bit(" c", 2000), Bit(" d", 9000))
    found = rolling.words(Cue(1000, 4000, (line,), "line 1"), None)
    assert [(w.start_ms, w.end_ms) for w in found] == [(1000, 2200), (2500, 2500), (2500, 3700), (4000, 4000)]


def test_a_time_inside_a_word_does_not_split_it_but_one_between_characters_does() -> None:
    vtt = "WEBVTT\n\n00:01.000 --> 00:03.000\n{}<00:00:02.000><c>{}</c>\n"
    latin, chinese = (captions.read(vtt.format(*parts), "vtt")[0] for parts in (("un", "happy"), ("你", "好")))
    assert [w.text for w in rolling.words(latin, None)] == [" unhappy"]
    assert [w.text for w in rolling.words(chinese, None)] == [" 你", "好"]


# --- what is spoken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        (">> Hello.", "Hello."),
        (">>> JOHN: Hello,\nyou.", "Hello, you."),
        (">> John Smith: Hello.", "Hello."),
        ("JOHN: [laughs] Hello.", "Hello."),
        ("MR. O'NEIL #2: Hello.", "Hello."),
        ("Speaker 2: Hello.", "Hello."),
        ("- Who?\n- Me.", "Who? Me."),
        ("-Who?\n–Me.", "Who? Me."),
        ("-5 degrees", "-5 degrees"),
        ("Yes. >> No.", "Yes. No."),
        ("Note: we close at 10:30.", "Note: we close at 10:30."),
        ("REMEMBER: DON'T GO", "REMEMBER: DON'T GO"),
        ("[Music] Hello [door slams] you", "Hello you"),
        ("Hello (laughter) you", "Hello you"),
        ("Hello (LONG GROWL) you", "Hello you"),
        ("my brother (who lives in Spain) came", "my brother (who lives in Spain) came"),
        ("one (who has no phone at all) came", "one (who has no phone at all) came"),
        ("he *really* did *sighs*", "he *really* did"),
        ("［音楽］ こんにちは", "こんにちは"),
        ("10 of them", "10 of them"),
    ],
)
def test_only_what_is_said_stays(caption: str, text: str) -> None:
    heard = spoken(caption.split("\n"))
    assert (heard.text, heard.reason) == (text, "")


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("[Music]", "no words"),
        ("(applause)", "no words"),
        ("(which I love)", "no words"),  # alone it can be either
        ("...", "no words"),
        ("♪ la la ♪", "music"),
        ("♪♪", "music"),
        ("I was (inaudible) there", "inaudible"),
        ("[ __ ] you", "inaudible"),
        ("[speaking Spanish]", "inaudible"),
        ("[?] you", "inaudible"),
        ("[upbeat", "open bracket"),
        ("12", "only a number"),
        ("Subtitles by the Amara.org community", "credits"),
        ("see www.example.org", "credits"),
        (">>", ""),  # a mark for the next caption: nothing is lost
    ],
)
def test_what_cannot_be_used_has_a_reason(caption: str, reason: str) -> None:
    heard = spoken([caption])
    assert (heard.text, heard.reason) == ("", reason)


def test_a_name_that_recurs_is_a_label_in_any_letters() -> None:
    film = [
        ["Anna: Hi."],
        ["- Anna: You?"],
        ["Anna: Me."],
        ["Ben: So."],
        ["so: a"],
        ["so: b"],
        ["so: c"],
        ["安娜：你好"] * 3,
    ]
    names = labels(film)
    assert names == {"Anna", "安娜"}
    assert spoken(["Anna: Hi."], names).text == "Hi." and spoken(["安娜：你好"], names).text == "你好"
    assert spoken(["Ben: So."], names).text == "Ben: So."


# --- where it is cut -------------------------------------------------------------------------------------------------


def test_cues_that_touch_are_joined_to_the_end_of_a_sentence() -> None:
    good, left_out = cut(
        cue(0, 3, "The quick brown fox"),
        cue(3, 6, "jumps over the dog."),
        cue(6, 9, "Then it runs,"),
        cue(9, 12, "as foxes do,"),
        cue(12, 15, "into the wood."),
    )
    assert [(s, e) for s, e, _ in good] == [(0, 6), (6, 15)] and left_out == []
    assert good[0][2] == "The quick brown fox jumps over the dog."


def test_a_pause_is_where_to_cut_whatever_the_sentence() -> None:
    assert [(s, e) for s, e, _ in cut(cue(0, 3, "one"), cue(3.5, 6, "two"), cue(6.1, 8, "three."))[0]] == [
        (0, 3),
        (3.5, 8),
    ]


def test_what_is_short_is_joined_over_a_pause_or_left_out() -> None:
    assert cut(cue(0, 3, "One."), cue(3.8, 4.4, "Two."))[0] == [(0, 4.4, "One. Two.")]
    assert cut(cue(0, 3, "One."), cue(5.0, 5.6, "Two.")) == ([(0, 3, "One.")], [("too short", "Two.")])
    assert cut(cue(0, 1, "One."), cue(1.9, 2.9, "Two."))[0] == [(0, 1, "One."), (1.9, 2.9, "Two.")]


def test_nothing_is_longer_than_20_s() -> None:
    good, left_out = cut(*(cue(i, i + 1, "and" + i * "a") for i in range(200)))
    assert left_out == [] and max(e - s for s, e, _ in good) <= 20 and sum(e - s for s, e, _ in good) == 200
    assert cut(cue(0, 21, "Too long."), cue(21, 24, "Good.")) == ([(21, 24, "Good.")], [("too long", "Too long.")])


def test_a_long_cue_is_cut_where_its_words_have_times() -> None:
    line = tuple(Bit(f" w{'abcdefghij'[i % 10]}", 1000 * i) for i in range(30))
    good, left_out = cut(Cue(0, 30_000, (line,), "line 1"))
    assert left_out == [] and len(good) > 1 and max(e - s for s, e, _ in good) <= 20
    assert " ".join(text for *_, text in good).split() == [bit.text.strip() for bit in line]


def test_sounds_keep_apart_and_are_told() -> None:
    good, left_out = cut(cue(0, 2, "One."), cue(2, 2.2, "[Music]"), cue(2.2, 4, "two"), cue(4, 6, "[door opens] three"))
    assert [text for *_, text in good] == ["One.", "two", "three"]
    assert left_out == [("no words", "[Music]")]
    assert cut(cue(0, 9, "[Music]"), cue(1, 3, "Words over music."))[0] == [(1, 3, "Words over music.")]


def test_speakers_share_an_utterance_only_when_one_is_short() -> None:
    assert len(cut(cue(0, 4, ">> Yes."), cue(4, 8, ">> No."))[0]) == 2
    assert len(cut(cue(0, 4, ">> Yes."), cue(4, 4.5, ">> No."))[0]) == 1
    assert cut(cue(0, 4, ">> Yes."), cue(4.6, 5.1, ">> No."))[1] == [("too short", "No.")]
    # the same name on each caption is no change of speakers
    assert len(cut(cue(0, 4, "so it", voice="Ann"), cue(4, 8, "goes", voice="Ann"))[0]) == 1
    assert len(cut(cue(0, 4, "ANN: so it"), cue(4, 8, "ANN: goes"))[0]) == 1
    assert len(cut(cue(0, 4, "ANN: so it"), cue(4, 8, "BEN: goes"))[0]) == 2
    assert len(cut(cue(0, 4, "so it."), cue(4, 4.1, ">>"), cue(4.1, 8, "goes"))[0]) == 2


def test_overlaps_are_trimmed_when_small_and_dropped_when_not() -> None:
    good, left_out = cut(
        cue(0, 3.2, "One."), cue(3, 9, ">> Two."), cue(20, 23, "Three."), cue(22, 25, "Four."), cue(30, 32, "5a")
    )
    assert good == [(0, 3, "One."), (3, 9, "Two."), (30, 32, "5a")]
    assert left_out == [("overlapping captions", "Three."), ("overlapping captions", "Four.")]
    twice = cut(cue(0, 3, "One."), cue(0, 3, "One."), cue(9, 12, "a"), cue(20, 22, "b"), cue(30, 33, "c"))
    assert [text for *_, text in twice[0]] == ["One.", "a", "b", "c"] and twice[1] == [("repeated caption", "One.")]


def test_times_that_make_no_stretch() -> None:
    good, left_out = cut(
        cue(5, 7, "Two."), cue(0, 2, "One."), cue(3, 3, "Zero."), cue(9, 8, "Back."), cue(30, 31, "Late."), end_s=20
    )
    assert [text for *_, text in good] == ["One.", "Two."]
    assert left_out == [("no duration", "Zero."), ("no duration", "Back."), ("beyond the end", "Late.")]
    assert cut(cue(0, 5, "One."), end_s=3.5)[0] == [(0, 3.5, "One.")]


unique = st.integers(0, 10**6).map(lambda n: "w" + "".join(chr(ord("a") + int(digit)) for digit in str(n)))
marked = st.tuples(
    st.lists(unique, min_size=1, max_size=4),
    st.sampled_from(
        ["{}", "{}.", ">> {}", "- {}", "[Music] {}", "{} [applause]", "ANN: {}", "(inaudible) {}", "♪ {} ♪", "{}?"]
    ),
)
placed = st.lists(st.tuples(st.integers(0, 60_000), st.integers(-200, 26_000), marked), max_size=25)


@given(placed, st.integers(1, 80_000) | st.none())
@settings(max_examples=300)
def test_utterances_are_in_order_and_hold_every_word_that_is_not_left_out(
    given_cues: list[tuple[int, int, tuple[list[str], str]]], end_ms: int | None
) -> None:
    film = [
        Cue(start_ms, start_ms + length_ms, ((Bit(form.format(" ".join(said))),),), "somewhere")
        for start_ms, length_ms, (said, form) in given_cues
    ]
    found = cues.utterances(film, end_ms)
    good = [s for s in found if not s.reason]
    before = Stretch(0, 0, "")
    for stretch in good:
        assert before.end_ms <= stretch.start_ms
        assert cues.MIN_MS <= stretch.end_ms - stretch.start_ms <= cues.MAX_MS
        assert end_ms is None or stretch.end_ms <= end_ms
        before = stretch
    said = sorted(word for _, _, (line, _) in given_cues for word in line)
    heard = sorted(word for s in found for word in re.findall(r"\bw[a-j]+", s.text))
    if rolling.rolls(sorted(film, key=lambda c: c.start_ms)):  # then a line that was just shown is not said again
        assert set(heard) == set(said)
    else:
        assert heard == said
    assert not any(re.search(r"[\[♪>:]|^- ", s.text) for s in good)


# --- real captions ---------------------------------------------------------------------------------------------------


def read(folder: Path, name: str) -> list[Cue]:
    return captions.read((folder / name).read_text(), name.rpartition(".")[2])


@pytest.mark.parametrize("video", ["q7Rz0mXbT1k", "Lk-3vPd_9aE"])
def test_cuts_fall_into_the_gaps_between_recordings(speech_data: Path, video: str) -> None:
    folder = speech_data / "youtube" / video
    uploaded, automatic = read(folder, f"{video}.en.vtt"), read(folder, f"{video}.en-orig.vtt")
    assert shown_of(uploaded) == shown_of(read(folder, f"{video}.en.srt"))
    by_hand, by_machine = ([s for s in cues.utterances(c) if not s.reason] for c in (uploaded, automatic))
    for found in (by_hand, by_machine):  # exact times: cues begin and end with the recordings
        assert all(min(abs(s.start_ms - c.start_ms) for c in uploaded) == 0 for s in found)
        assert all(min(abs(s.end_ms - c.end_ms) for c in uploaded) <= 10 for s in found)
    assert plain(by_hand) == plain(by_machine)
    assert sorted(s.reason for s in cues.utterances(uploaded) if s.reason).count("inaudible") >= 1


def test_true_word_times_are_cut_at_the_true_pauses(speech_data: Path) -> None:
    found = cues.utterances(read(speech_data / "youtube" / "wRdT1m3d_01", "wRdT1m3d_01.en.vtt"))
    pauses = [(8.020 - 7.530), (14.870 - 13.890), (18.350 - 17.180), (22.900 - 22.320)]
    assert [(b.start_ms - a.end_ms) / 1000 for a, b in pairwise(found)] == pytest.approx(pauses)
    assert found[1].text == "um this is me talking really slow and slightly lower in intensity"
    assert not any(s.reason for s in found)


def shown_of(film: list[Cue]) -> list[tuple[int, int, list[str]]]:
    return [(c.start_ms, c.end_ms, [text_of(line) for line in c.lines]) for c in film]


def plain(found: list[Stretch]) -> list[str]:
    return re.findall(r"[a-z']+", " ".join(s.text for s in found).lower())
