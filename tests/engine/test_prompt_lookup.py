"""Drafts: what followed the last tokens where they stood before, as long as such drafts turn out to be right."""

from hypothesis import example, given
from hypothesis import strategies as st
from llm.prompt_lookup import PromptLookup


def test_what_followed_the_longest_end_that_stood_before_is_the_draft():
    lookup = PromptLookup()
    lookup.learn(3)
    # 3 4 stands behind 1 2 and, later, behind 9: the last four tokens stood there the first time.
    assert lookup.draft([1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 1, 2, 3, 4], 2) == [50, 51]


def test_of_several_places_the_last_counts():
    lookup = PromptLookup()
    assert lookup.draft([1, 2, 3, 1, 2, 4, 1, 2], 5) == [4]


def test_one_token_that_stood_before_is_not_enough():
    assert PromptLookup().draft([1, 2, 3, 1], 5) == []


def test_what_goes_round_is_drafted_round_and_round():
    lookup = PromptLookup()
    lookup.learn(7)
    assert lookup.draft([8, 1, 2, 3, 1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]


def test_drafts_grow_as_they_are_accepted_and_start_anew_when_they_are_not():
    lookup, text = PromptLookup(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]
    lengths = []
    for num_accepted in (1, 3, 7, 2, 0, 0):
        lengths.append(len(lookup.draft(text, 100)))
        lookup.learn(num_accepted)
    assert lengths == [1, 3, 7, 15, 5, 1]
    assert len(lookup.draft(text, 0)) == 0


def test_bytes_that_lie_across_two_tokens_are_no_token():
    """1 and 256 follow each other as bytes inside of 0x0100, 0x010000 and so on, too."""
    assert PromptLookup().draft([0x01000000, 0x02000000, 0x03000000, 0x00, 0x010000, 0x020000], 5) == []


@given(st.lists(st.sampled_from([0, 1, 256, 65536, 2**24, 2**31 - 1]), max_size=40), st.integers(1, 40))
@example([0, 0, 0], 1)
def test_it_is_what_a_plain_search_finds_however_the_tokens_came(token_ids: list[int], step: int):
    lookup, found = PromptLookup(), []
    for end in (*range(0, len(token_ids), step), len(token_ids)):
        found = lookup.draft(token_ids[:end], 1)
    wanted = next(
        (
            [token_ids[at + size]]
            for size in (4, 3, 2)
            for at in reversed(range(len(token_ids) - size))
            if token_ids[at : at + size] == token_ids[len(token_ids) - size :]
        ),
        [],
    )
    assert found == wanted
