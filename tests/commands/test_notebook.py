"""The notebook runs from first to last cell and shows the expected results."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("lora_ns.py", "utils", "configs", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "quickstart").symlink_to(ROOT / "examples" / "quickstart")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "outputs are not committed"

    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path / "examples")}}).execute()

    shown = "\n".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text" in output
    )
    assert "peft.lora_rr: unknown key; did you mean lora_r?" in shown
    assert "95 % interval" in shown
    assert "acceptable" in shown
    assert all(f"\n{method} " in shown for method in ("head-only", "lora", "full"))
    print(shown[-1500:])
