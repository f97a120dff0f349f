"""Numbers in sentences."""


def counted(number: int, what: str, plural: str = "") -> str:
    """ "1 utterance", "1,234 utterances"; `plural` is that of words like "batch"."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"
