"""What of a caption is spoken: sounds, songs, names and marks of speakers go, and what was not understood is told.

Captions describe as well as transcribe. Square brackets are never spoken. Round ones and stars are, unless they hold a
sound, are the whole caption, or stand in capitals among small letters. A caption with notes is sung. `>>`, a dash, or a
name with a colon at the start of a line shows that somebody else speaks; who that is stays out of the text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SOUND_WORDS = 3  # "(door slams)" is a sound; "(who had never seen a door)" is spoken
NAME_RECURS = 3  # a name with a colon that starts so many lines of a file is a label, in any case of letters

_BRACKETS = re.compile(r"\[[^\[\]]*\]|［[^［］]*］|【[^【】]*】|\([^()]*\)|（[^（）]*）|\*[^*\n]+\*")
_SQUARE = re.compile(r"[\[\]［］【】]")
_NOTES = re.compile(r"[♩-♯]")
# speech that is not written down
_UNHEARD = re.compile(
    r"(?i)inaudible|unintelligible|indistinct|incomprehensible|\bunclear|cross-?\s?talk|\boverlap|talking over"
    r"|\bforeign\b|\bspeak(?:s|ing)\b|\bbleep|\bcensor|\bexpletive|^[\s_.…?–—-]*$"
)
_SOUND = re.compile(
    r"(?i)\b(?:music|musique|musik|música|música|appla|laugh|giggl|chuckl|rires?\b|risas|lach(?:en|t)\b|gelächter|cheer"
    r"|sigh|cough|gasp|groan|moan|scream|shout|cry(?:ing)?\b|sob|sniff|clap|clear(?:s|ing)\b|silence|pause|noise|beep"
    r"|buzz|ring(?:s|ing)\b|knock|footsteps|door\b|phone\b|bell\b|thunder|static\b|song\b|sing(?:s|ing)\b|whistl"
    r"|hum(?:s|ming)\b|breath|inhal|exhal|audience\b|crowd\b)"
)
_TURN = re.compile(r">+|[-–—‐]+(?!\d)")
_INNER_TURN = re.compile(r">>+")
_NAME = re.compile(r"([^\s:：\0](?:[^:：\0]{0,38}[^\s:：\0])?)\s?(?::(?=\s|\0|$)|：)")
_ROLE = re.compile(r"(?i)(?:speaker|interviewer|interviewee|narrator|host|guest|man|woman|voice|caller)\s*#?\d*")
_CREDITS = re.compile(
    r"(?i)^\W*(?:subtitl|caption|transcri|translat)\w*(?:\s\w+){0,2}\sby\b|amara\.org|https?://|\bwww\."
)
_HERE = "\0"  # where a sound was


@dataclass(frozen=True, slots=True)
class Spoken:
    """The words of a caption, or "" and the reason; both are "" for a mere mark of a new speaker.

    `speakers` in their order: a name, or "" for somebody else. `turn`: the first one is marked before any word.
    `before`, `after`: a sound is heard before the first word, after the last one.
    """

    text: str
    speakers: tuple[str, ...] = ()
    turn: bool = False
    before: bool = False
    after: bool = False
    reason: str = ""


def labels(captions: Iterable[Sequence[str]]) -> frozenset[str]:
    """Names that stand with a colon at the start of a line often enough. Each caption is its lines."""
    lines = (_TURN.sub("", line.strip(), count=1).strip() for caption in captions for line in caption)
    names = Counter(match[1] for line in lines if (match := _NAME.match(line)))
    return frozenset(name for name, count in names.items() if count >= NAME_RECURS and _may_be_a_name(name))


def spoken(lines: Sequence[str], names: frozenset[str] = frozenset()) -> Spoken:
    """What is said in a caption. `names` are those that `labels` gives for its file."""
    shown = "\n".join(lines)
    if reason := _fault(shown):
        return Spoken("", reason=reason)
    marked = _BRACKETS.sub(lambda match: _HERE if _is_sound(match[0], shown) else match[0], shown)
    speakers: list[str] = []
    said = ""
    turn = False
    for line in marked.split("\n"):
        who, rest = _speakers(line, names, _has_small_letters(marked))
        turn = turn or (bool(who) and not _is_word(said))
        speakers += who + [""] * len(_INNER_TURN.findall(rest))
        said += " " + _INNER_TURN.sub(" ", rest)
    text = " ".join(said.replace(_HERE, " ").split())
    if not _is_word(text):
        return Spoken("", tuple(speakers), turn, reason="no words" if text or _HERE in said else "")
    if not any(char.isalpha() for char in text):
        return Spoken("", reason="only a number")  # a countdown, or the number of a caption: nobody can tell
    words = [position for position, char in enumerate(said) if char.isalnum()]
    return Spoken(text, tuple(speakers), turn, _HERE in said[: words[0]], _HERE in said[words[-1] :])


def _fault(shown: str) -> str:
    if _NOTES.search(shown):
        return "music"
    if any(_UNHEARD.search(match[0][1:-1]) for match in _BRACKETS.finditer(shown)):
        return "inaudible"
    if _SQUARE.search(_BRACKETS.sub("", shown)):
        return "open bracket"  # what in it is spoken, and what in the captions beside it, is not known
    return "credits" if _CREDITS.search(shown) else ""


def _is_sound(bracket: str, shown: str) -> bool:
    if _SQUARE.match(bracket) or (len(bracket.split()) <= SOUND_WORDS and _SOUND.search(bracket)):
        return True
    others = _BRACKETS.sub("", shown)
    return not _is_word(others) or (bracket.isupper() and _has_small_letters(others))


def _speakers(line: str, names: frozenset[str], mixed_case: bool) -> tuple[list[str], str]:
    """The speakers that are marked at the start of a line, and the rest of it, with the sounds between the marks."""
    who: list[str] = []
    sounds = ""
    while True:
        line = line.lstrip()
        if line.startswith(_HERE):
            sounds, line = sounds + _HERE, line[1:]
        elif match := _TURN.match(line):
            who.append("")
            line = line[match.end() :]
        elif (match := _NAME.match(line)) and _is_label(match[1], names, bool(who), mixed_case):
            who = [*who[:-1], match[1]]
            line = line[match.end() :]
        else:
            return who, sounds + line


def _is_label(name: str, names: frozenset[str], after_mark: bool, mixed_case: bool) -> bool:
    """Not the start of a sentence such as "Note: we are closed"."""
    if not _may_be_a_name(name):
        return False
    capitals = mixed_case and name.isupper()
    return after_mark or capitals or name in names or _ROLE.fullmatch(name) is not None


def _may_be_a_name(name: str) -> bool:
    words = name.split()
    return len(words) <= 4 and any(char.isalpha() for char in name) and not any(word[0].islower() for word in words)


def _is_word(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _has_small_letters(text: str) -> bool:
    return any(char.islower() for char in text)
