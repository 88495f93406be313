"""Contact sheets: every image in its place, dark ink on white."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fsgen.sheets import contact_sheet, save_sheet


def test_every_image_stands_in_its_cell():
    ink, blank = np.ones((1, 4, 5)), np.zeros((1, 4, 5))
    sheet = contact_sheet([[ink, blank], [blank, ink]], scale=3)
    assert sheet.shape == (2 * (4 * 3 + 2) + 2, 2 * (5 * 3 + 2) + 2, 3)
    assert (sheet[2:14, 2:17] == 0).all()
    assert (sheet[2:14, 19:34] == 255).all()
    assert (sheet[16:28, 2:17] == 255).all()
    assert (sheet[16:28, 19:34] == 0).all()


def test_the_rule_moves_the_samples_to_the_right_and_nothing_else():
    image = np.ones((1, 4, 4))
    plain, split = (contact_sheet([[image] * 3], scale=1, split=s) for s in (None, 2))
    assert split.shape[1] == plain.shape[1] + 6
    assert (split == 0).sum() == (plain == 0).sum()


def test_colours_stay_colours():
    red = np.zeros((3, 2, 2))
    red[0] = 1
    assert contact_sheet([[red]], scale=1)[2, 2].tolist() == [255, 0, 0]


def test_rows_of_different_length_and_grey_values():
    sheet = contact_sheet([[np.full((1, 2, 2), 0.5)] * 2, [np.zeros((1, 2, 2))]], scale=1)
    assert sheet[2, 2].tolist() == [128, 128, 128]


@pytest.mark.parametrize("rows", [[], [[]], [[np.zeros((1, 2, 2)), np.zeros((1, 3, 3))]]])
def test_nothing_to_show_or_mixed_shapes_are_refused(rows):
    with pytest.raises(ValueError, match="images of one shape are needed"):
        contact_sheet(rows)


def test_a_saved_sheet_reads_back(tmp_path):
    sheet = contact_sheet([[np.eye(6)[None]]], scale=2)
    save_sheet(tmp_path / "new" / "sheet.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "sheet.png")), sheet)
