"""What a run prints before and after: only commands that work."""

from __future__ import annotations

import logging
from dataclasses import replace

from utils.results.exports import write_predictions
from utils.results.record import RunRecord
from utils.runs.opening import RunFolder
from utils.runs.summary import announce_run, show_result

RECORD = RunRecord(status="success", task_name="tiny", task_type="SEQ_CLS", method="lora")


def test_suggested_commands_work(make_config, tmp_path, capfd):
    config = make_config("bert")
    folder = RunFolder(tmp_path)
    show_result(folder, config, RECORD)
    assert "inference.py" not in capfd.readouterr().err, "there is no model to use"
    (tmp_path / "final_model").mkdir()
    answer = show_result(folder, config, RECORD, already_done=True)
    shown = capfd.readouterr().err
    assert "inference.py" in shown
    assert "--run" in shown
    assert (answer["already_done"], answer["output_dir"], answer["status"]) == (True, str(tmp_path), "success")


def test_answers_and_table_in_the_language_of_the_results(make_config, tmp_path, capfd):
    rows = [{"row": number, "text": f"text {number}", "label": "good", "prediction": "bad"} for number in range(5)]
    write_predictions(tmp_path / "eval_validation", rows)
    show_result(RunFolder(tmp_path), make_config("bert", results={"language": "zh"}), RECORD, num_shown=3)
    shown = capfd.readouterr().err
    assert [shown.count(word) for word in ("validation, 样本 0", "模型回答", "参考答案", "text 3", "状态")] == [
        1,
        3,
        3,
        0,
        1,
    ]
    assert "成功" in shown


def test_notices_and_warnings_are_shown_once(make_config, caplog):
    config = replace(make_config("bert"), notices=("an older name",), warnings=("no effect",))
    with caplog.at_level(logging.INFO):
        announce_run(config)
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "summary" in record.name]
    assert said == [("INFO", "note: an older name"), ("WARNING", "no effect")]
