"""The comparison of runs shows what differs, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.cli.parser import parse_words
from utils.core.errors import UserError
from utils.results.record import ParamCounts, RunRecord, write_record
from utils.run_config import load_run_config
from utils.runs.compare import build, compare_runs, main


def make_run(folder: Path, score: float, *words: str) -> Path:
    folder.mkdir()
    config = load_run_config("quickstart", [f"training.output_dir={folder}", *words])
    (folder / "run.yaml").write_text(config.to_yaml())
    interval = {"accuracy": [score - 0.1, score + 0.1]}
    metrics = {"accuracy": score, "loss": 0.3}
    counts = ParamCounts(trainable=7)
    method = config.peft.method
    write_record(
        folder, RunRecord("success", "q", "SEQ_CLS", method, metrics=metrics, interval=interval, params=counts)
    )
    return folder


def test_differing_settings_are_shown_beside_scores(tmp_path):
    runs = [make_run(tmp_path / "one", 0.8), make_run(tmp_path / "two", 0.9, "peft.lora_r=16", "seed=1"),
            make_run(tmp_path / "three", 0.7, "peft.method=none")]  # fmt: skip
    answer = compare_runs(runs)
    assert answer["configuration"]["peft.lora_r"] == [8, 16, None]
    assert answer["configuration"]["seed"] == [42, 1, 42]
    assert answer["configuration"]["peft.method"] == ["lora", "lora", "none"]
    assert "training.output_dir" not in answer["configuration"], "folders do not affect results"
    assert "dataset.path" not in answer["configuration"]
    assert answer["measured"]["accuracy x100"] == [
        "80.00 [70.00, 90.00]",
        "90.00 [80.00, 100.00]",
        "70.00 [60.00, 80.00]",
    ]
    assert answer["measured"]["trainable parameters"] == [7, 7, 7]


def test_the_table_is_in_the_language_of_the_first_run(tmp_path, capsys):
    runs = [make_run(tmp_path / "one", 0.8, "results.language=zh"), make_run(tmp_path / "two", 0.9)]
    main(parse_words(build(), [str(run) for run in runs]))
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("可训练参数", "成功", "accuracy x100"))


def test_code_of_a_run_needs_the_option(tmp_path):
    from utils.core.errors import ConfigError
    from utils.runs import report

    run, marker = make_run(tmp_path / "one", 0.8), tmp_path / "it_ran"
    plugin = run / "extensions" / "lab" / "adapters" / "mine.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\nfrom utils.adapters.lora import *\n")
    file = run / "run.yaml"
    file.write_text(f"extensions: [extensions/lab]\n{file.read_text()}".replace("method: lora", "method: mine"))
    for command, words in ((build, [str(run), str(run)]), (report.build, [str(run)])):
        program = main if command is build else report.main
        with pytest.raises(ConfigError, match="--allow_extensions"):
            program(parse_words(command(), words))
        assert not marker.exists()


def test_a_folder_without_a_record_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no results\.json here"):
        compare_runs([tmp_path])
