"""Where an utterance of a stream ends: rules over trailing silence and length."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """When a segment ends, and where the next one begins.

    After a pause the recogniser starts anew, as at the start of a training utterance: what it heard hours ago cannot
    spoil what comes. It starts with audio that it has heard before, so that a word that had begun, but was not
    recognised yet, is heard whole.
    """

    pause_s: float = 1.2  # without a token, after words: ends the segment
    silence_s: float = 2.4  # without a token, before any word: starts anew and says nothing
    longest_s: float = 20.0  # of a segment, which then ends at the next end of a word; nothing starts anew
    preroll_s: float = 0.8  # of audio heard again when it starts anew: a first token may come 0.6 s behind its onset

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"endpoints: {field.name} is {getattr(self, field.name)}; it must be above 0")
        if self.preroll_s >= min(self.pause_s, self.silence_s):
            raise ValueError(
                f"endpoints: preroll_s {self.preroll_s:g} must be below pause_s and silence_s, or a pause never ends"
            )
