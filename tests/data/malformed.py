"""Malformed files: bytes damaged at random, a pickle that would run code, and what a refusal looks like."""

# mypy: allow-untyped-defs, allow-incomplete-defs

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def one_sentence(caught):
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


@st.composite
def damaged(draw, original):
    """`original` with a few bytes changed, cut out or put in."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 8))
        data[place : place + cut] = draw(st.binary(max_size=8))
    return bytes(data)


def must_only_raise_value_error(read, path, data):
    path.write_bytes(data)
    try:
        read(path)
    except ValueError as error:
        assert "\n" not in str(error)


class Malice:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments
