"""The output folder: refused, made beside its name, put in place, or taken away."""

from __future__ import annotations

import pytest

from utils.core.errors import UserError
from utils.merging.output import check_output, open_output


def test_the_folder_appears_when_all_went_well(tmp_path):
    output = tmp_path / "deep" / "merged"
    with open_output(output) as folder:
        (folder / "model").write_text("new")
        assert not output.exists()
    assert (output / "model").read_text() == "new"
    assert [each.name for each in output.parent.iterdir()] == ["merged"]


def test_a_failure_leaves_what_was_there(tmp_path):
    output = tmp_path / "merged"
    output.mkdir()
    (output / "model").write_text("old")

    def fail():
        with open_output(output) as folder:
            (folder / "model").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (output / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_a_folder_that_another_command_writes_is_left_alone(tmp_path):
    """Two merges into one folder, at once, left it without a model."""
    output = tmp_path / "merged"
    with open_output(output) as folder:
        (folder / "model").write_text("first")
        with pytest.raises(UserError, match="another command is writing it"), open_output(output):
            pass
    assert [each.name for each in output.iterdir()] == ["model"]


def test_what_a_kill_left_is_cleared_away(tmp_path):
    left = tmp_path / "merged.partial"
    left.mkdir()
    (left / "shard").write_text("half")
    with open_output(tmp_path / "merged") as folder:
        assert list(folder.iterdir()) == []
    assert not left.exists()


def test_refusals(tmp_path):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    for name in (run, tmp_path / "runs", tmp_path):
        with pytest.raises(UserError, match="contains the model to be merged"):
            check_output(str(name), True, [run])
    assert check_output(str(run / "merged"), False, [run]) == run / "merged"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        check_output(str(tmp_path / "file"), True, [run])
    (tmp_path / "full").mkdir()
    assert check_output(str(tmp_path / "full"), False, [run]) == tmp_path / "full"
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UserError, match="is not empty; name another folder, or rename this one with --overwrite"):
        check_output(str(tmp_path / "full"), False, [run])
    with pytest.raises(UserError, match="cannot be made"), open_output(tmp_path / "file" / "merged"):
        pass


def test_a_name_too_long_is_told(tmp_path):
    output = check_output(f"{tmp_path}/{'n' * 300}", False, [])
    with pytest.raises(UserError, match="cannot be made: File name too long"), open_output(output):
        pass
