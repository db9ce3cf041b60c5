"""Options and files are checked before anything is loaded."""

from __future__ import annotations

import os

import pytest

from utils.core.errors import UserError
from utils.inference.request import ModelChoice, Request, check_input, check_output

RUN = ModelChoice(run="x")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(ModelChoice()), "name one model"),
        (Request(ModelChoice(run="x", model="y")), "name one model"),
        (Request(ModelChoice(config="x")), "--config and --model_path go together"),
        (Request(ModelChoice(model="x", best=True)), "choose among the checkpoints of a --run"),
        (Request(ModelChoice(run="x", best=True, checkpoint=3)), "either --best or --checkpoint"),
        (Request(RUN, texts=("a",), input_file="b.csv"), "give either --input_text or --input_file"),
        (Request(RUN, texts=("a",), output_file="b.csv"), "--output_file takes the answers to"),
        (Request(RUN, texts=("a",), input_format="csv"), "--input_format is for"),
        (Request(RUN, stream=True), "give one --input_text"),
        (Request(RUN, texts=("a", "b"), stream=True), "give one --input_text"),
        (Request(RUN, as_json=True), "let the answers go to an --output_file"),
        (Request(RUN, texts=("a",), seed=-1), "--seed -1"),
    ],
)
def test_contradictions(request_, message):
    with pytest.raises(UserError, match=message):
        request_.check()


def test_a_complete_request_passes(write, tmp_path):
    source = write("in.csv", "text\na\n")
    Request(RUN, input_file=str(source), output_file=str(tmp_path / "new" / "out.xlsx"), as_json=True).check()
    assert list((tmp_path / "new").iterdir()) == [], "the probe file is removed"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder; name a file in it"),
        ("in.xlsx", "unknown kind of file"),
        ("in", "unknown kind of file"),
        ("nowhere.csv", "no such file"),
        ("empty.txt", "the file is empty"),
        ("n" * 300 + ".csv", "no such file"),
    ],
)
def test_inputs(write, tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    write("empty.txt", "")
    with pytest.raises(UserError, match=message):
        check_input(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder"),
        ("out.txt", "unknown kind of file"),
        ("sub/../in.csv", "is the input file"),
        ("link.csv", "is the input file"),
        ("hard.csv", "is the input file"),
        ("read_only.csv", "exists and is read-only"),
        ("in.csv/out.csv", "cannot be written: "),
        ("n" * 250 + ".csv", "cannot be written: File name too long"),
        ("n" * 300 + ".csv", "cannot be written: File name too long"),
    ],
)
def test_outputs(write, tmp_path, name, message):
    source = write("in.csv", "text\na\n")
    for folder in ("folder", "sub"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link.csv").symlink_to(source)
    os.link(source, tmp_path / "hard.csv")
    write("read_only.csv", "x").chmod(0o444)
    with pytest.raises(UserError, match=message):
        check_output(str(tmp_path / name), str(source))
    assert source.read_text() == "text\na\n"
