"""Blocks are counted, never doubled, never lost."""

from llm.block_pool import BlockPool


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
