"""Documents are identified by exactly what determines their hidden states."""

from __future__ import annotations

import torch

from utils.adapters.qst.cache.documents import KEY_BYTES, find_documents

IDS = torch.tensor([[5, 6, 7, 8, 9, 0], [5, 6, 7, 0, 0, 0], [0, 0, 5, 6, 7, 8]])
MASK = (IDS != 0).long()


def _find(ids=IDS, salt=b"", **more):
    return find_documents({"input_ids": ids, **more}, salt)


def _spans(found):
    return [(each.row, each.start, each.stop) for each in found]


def _keys(found):
    return [each.key for each in found]


def test_a_padded_row_is_one_document_without_its_padding():
    found = _find(attention_mask=MASK)
    assert _spans(found) == [(0, 0, 5), (1, 0, 3), (2, 2, 6)]
    assert [each.num_tokens for each in found] == [5, 3, 4]
    assert {len(key) for key in _keys(found)} == {KEY_BYTES}
    assert len(set(_keys(found))) == 3


def test_without_a_mask_padding_counts_as_text():
    assert _spans(_find()) == [(0, 0, 6), (1, 0, 6), (2, 0, 6)]


def test_right_padding_does_not_change_a_key():
    narrow = _find(IDS[1:2, :3], attention_mask=MASK[1:2, :3])
    wide = _find(attention_mask=MASK)[1:2]
    assert _keys(narrow) == _keys(wide) == _keys(_find(IDS[1:2, :3]))


def test_a_key_depends_on_tokens_order_length_place_types_and_salt():
    row = torch.tensor([[5, 6, 7, 8]])
    ones = torch.ones_like(row)
    found = [
        _find(row),
        _find(row[:, [0, 2, 1, 3]]),
        _find(row[:, :3]),
        _find(row, salt=b"bfloat16"),
        _find(row, token_type_ids=ones),
        _find(row, token_type_ids=0 * ones),
        _find(row, position_ids=torch.arange(4)[None] + 2),
        _find(torch.tensor([[0, 5, 6, 7, 8]]), attention_mask=torch.tensor([[0, 1, 1, 1, 1]])),
    ]
    keys = [each.key for one in found for each in one]
    assert len(set(keys)) == len(found) == len(keys)
    assert _keys(_find(row, position_ids=torch.arange(4)[None])) == keys[:1]


def test_types_are_not_mistaken_for_tokens():
    both = _find(torch.tensor([[5, 6]]), token_type_ids=torch.tensor([[1, 1]]))
    longer = _find(torch.tensor([[5, 6, 1, 1]]))
    assert _keys(both) != _keys(longer)


def test_a_packed_row_is_split_where_positions_restart():
    ids = torch.arange(10, 20)[None]
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 0, 1]])
    found = _find(ids, position_ids=positions)
    assert _spans(found) == [(0, 0, 3), (0, 3, 7), (0, 7, 8), (0, 8, 10)]
    assert _keys(found)[1] == _keys(_find(ids[:, 3:7]))[0]
    # With a mask, models treat such a row as one document, whatever its positions.
    assert _find(ids, position_ids=positions, attention_mask=torch.ones_like(ids)) is None


def test_positions_of_one_row_apply_to_all_rows():
    found = _find(position_ids=torch.arange(6)[None], attention_mask=MASK)
    assert _spans(found) == [(0, 0, 5), (1, 0, 3), (2, 2, 6)]
    assert _keys(found) == _keys(_find(attention_mask=MASK))


def test_ambiguous_batches_are_not_cached():
    holes = MASK.clone()
    holes[0, 2] = 0
    assert _find(attention_mask=holes) is None
    assert _find(attention_mask=torch.zeros_like(IDS)) is None
    assert _find(attention_mask=torch.ones(3, 1, 6, 6)) is None
    assert _find(attention_mask=torch.ones(3, 9)) is None
    assert _find(position_ids=torch.zeros(3, 3, 6, dtype=torch.long)) is None
    assert _find(position_ids=torch.arange(6)) is None


def test_masks_of_every_dtype_are_equivalent():
    for kind in (torch.bool, torch.float32, torch.int32):
        assert _find(attention_mask=MASK.to(kind)) == _find(attention_mask=MASK)
