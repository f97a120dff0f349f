"""What a FLAC file's STREAMINFO says, read without a decoder (RFC 9639, section 8.2)."""

from manifests import storage

HEAD_BYTES = 42  # the mark fLaC, the header of the first metadata block, and that block, which must be STREAMINFO


def stream_info(uri: str) -> tuple[int, int, int] | None:
    """(samples, sample rate, channels), or None where anything is out of the ordinary: then a library must look.

    Ten times as fast as to open the file with libsndfile. What comes after these bytes is believed: that it is there
    and whole is found by who decodes it.
    """
    try:
        head = storage.read_range(uri, 0, HEAD_BYTES)
    except (OSError, EOFError):
        return None
    if not head.startswith(b"fLaC") or head[4] & 0x7F != 0 or head[5:8] != b"\x00\x00\x22":
        return None
    packed = int.from_bytes(head[18:26])  # 20 bits of rate, 3 of channels - 1, 5 of bits a sample - 1, 36 of samples
    rate, channels, samples = packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1
    return (samples, rate, channels) if samples and rate else None
