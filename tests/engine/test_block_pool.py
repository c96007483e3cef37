"""Blocks are counted, never doubled, never lost."""

from llm.block_pool import BlockPool, block_names


def test_a_table_grows_by_whole_blocks_and_gives_all_back():
    pool = BlockPool(4, block_size=8)
    table: list[int] = []
    pool.extend(table, 9)
    assert len(table) == 2
    pool.extend(table, 16)
    assert len(table) == 2
    assert not pool.can_extend(table, 33)
    assert pool.can_extend(table, 32)
    pool.extend(table, 32)
    assert sorted(table) == [0, 1, 2, 3]
    assert pool.num_free == 0
    pool.release(table)
    assert table == []
    assert pool.num_free == 4


def test_a_name_depends_on_everything_before_it():
    one, two = block_names([1, 2, 3, 4, 5], 2, []), block_names([9, 2, 3, 4], 2, [])
    assert len(one) == len(two) == 2
    assert not set(one) & set(two)
    assert block_names([1, 2, 3, 4], 2, one[:1]) == one


def test_a_named_block_outlives_its_holder_until_its_memory_is_needed():
    pool = BlockPool(2, block_size=1)
    table: list[int] = []
    pool.extend(table, 1)
    (block,) = table
    pool.name(block, b"x")
    pool.release(table)
    assert pool.num_free == 2
    assert pool.find([b"x", b"y"]) == [block]
    assert pool.num_idle([block]) == 1
    table = pool.hold([block])
    assert pool.num_free == 1
    pool.release(table)
    pool.extend(table, 2)
    assert pool.find([b"x"]) == []
    assert pool.num_free == 0


def test_a_block_that_two_hold_is_free_when_both_have_let_go():
    pool = BlockPool(1, block_size=1)
    first: list[int] = []
    pool.extend(first, 1)
    pool.name(first[0], b"x")
    second = pool.hold(pool.find([b"x"]))
    pool.release(first)
    assert pool.num_free == 0
    pool.release(second)
    assert pool.num_free == 1
