"""Text leaves in time and whole: no half characters, no stop strings, the same however the tokens are grouped."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm.text_stream import TextStream

from tests.engine.fakes import ByteTokenizer

texts = st.text(alphabet="ab €😀\n\ufffd", max_size=12)
stops = st.lists(st.text(alphabet="ab €😀", min_size=1, max_size=4), max_size=4).map(tuple)


def stream_all(groups: list[list[int]], stop: tuple[str, ...] = ()) -> tuple[list[str], int, bool]:
    stream = TextStream(ByteTokenizer(), stop)
    pieces, count = [], 0
    for group in groups:
        piece = stream.push(group)
        pieces.append(piece.text)
        count += piece.num_tokens
        if piece.is_stopped:
            return pieces, count, True
    piece = stream.finish()
    return [*pieces, piece.text], count, piece.is_stopped


def split(token_ids: list[int], borders: list[int]) -> list[list[int]]:
    cuts = [0, *sorted(border % (len(token_ids) + 1) for border in borders), len(token_ids)]
    return [token_ids[a:b] for a, b in pairwise(cuts)]


@given(st.binary(max_size=20), st.lists(st.integers(0, 20)))
def test_any_split_of_any_bytes_gives_what_decoding_at_once_gives(data: bytes, borders: list[int]):
    pieces, count, _ = stream_all(split(list(data), borders))
    assert "".join(pieces) == data.decode(errors="replace")
    assert count == len(data)


@given(texts, st.lists(st.integers(0, 40)), stops)
def test_any_split_of_any_text_ends_at_the_same_stop_string(text: str, borders: list[int], stop: tuple[str, ...]):
    token_ids = list(text.encode())
    pieces, count, is_stopped = stream_all(split(token_ids, borders), stop)
    alone, alone_count, _ = stream_all([[token] for token in token_ids], stop)
    said = "".join(pieces)
    assert (said, count) == ("".join(alone), alone_count)
    assert not any(string in said for string in stop)
    assert text.startswith(said)
    assert is_stopped == any(string in text for string in stop)


def test_a_character_of_several_tokens_is_said_when_it_is_whole():
    stream = TextStream(ByteTokenizer())
    said = [stream.push([byte]).text for byte in "a😀b".encode()]
    assert said == ["a", "", "", "", "😀", "b"]


def test_a_character_cut_by_the_limit_becomes_a_replacement():
    stream = TextStream(ByteTokenizer())
    assert stream.push(list("a😀".encode()[:3])).text == ""
    assert stream.finish().text == "a\ufffd"


@pytest.mark.parametrize(
    ("text", "stop", "said", "num_tokens"),
    [
        ("hello END more", ("END",), "hello ", 9),
        ("hello EN", ("END",), "hello EN", 8),
        ("aab", ("ab",), "a", 3),
        ("aaab", ("aab",), "a", 4),
        ("xyz", ("yz", "z"), "x", 3),
        ("\n\n", ("\n\n", "\n"), "", 1),
        ("né", ("é",), "n", 3),
    ],
)
def test_stop_strings_end_the_text_and_are_not_part_of_it(text: str, stop: tuple[str, ...], said: str, num_tokens: int):
    pieces, count, _ = stream_all([list(text.encode())], stop)
    assert ("".join(pieces), count) == (said, num_tokens)


def test_what_may_begin_a_stop_string_is_held_back_and_no_more():
    stream = TextStream(ByteTokenizer(), ("END",))
    assert [stream.push([ord(letter)]).text for letter in "xENx"] == ["x", "", "", "ENx"]


broken = st.lists(st.sampled_from([b"\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xef\xbf\xbd", b"a", b"\xff"]), max_size=4)


@given(broken, st.integers(60, 90), st.lists(st.integers(0, 10**4), max_size=8), broken)
def test_long_rows_of_broken_characters_give_what_decoding_at_once_gives(
    pattern: list[bytes], times: int, borders: list[int], end: list[bytes]
):
    data = b"".join(pattern) * times + b"".join(end)
    pieces, _, _ = stream_all(split(list(data), borders))
    assert "".join(pieces) == data.decode(errors="replace")


@pytest.mark.parametrize("pattern", [b"\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xef\xbf\xbd"])
def test_the_work_on_broken_characters_does_not_grow_with_the_square_of_their_number(pattern: bytes):
    """All tokens since the last whole character were decoded again for each new one: 8 million for 4,000."""

    class CountingTokenizer(ByteTokenizer):
        num_decoded = 0

        def decode(self, token_ids: list[int]) -> str:
            self.num_decoded += len(token_ids)
            return super().decode(token_ids)

    decoder = CountingTokenizer()
    stream = TextStream(decoder)
    for token_id in pattern * (4000 // len(pattern)):
        stream.push([token_id])
    assert decoder.num_decoded < 200 * 4000
