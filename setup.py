"""Build the package `lora_ns` from utils/, the commands, configs/, docs/ and examples/: `pip install .`."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED = ["train.py", "inference.py", "evaluate_model.py", "merge_adapter.py", "benchmark.py", "validate_config.py"]
SHIPPED += ["configs", "examples", "README.md", *(str(page.relative_to(HERE)) for page in HERE.glob("docs/*.md"))]
IMPORT = re.compile(r"\b(from|import) utils(?=[. ])")


class BuildRenamed(build_py):
    """Install the library as `lora_ns`: a top-level package `utils` could collide with another one."""

    def run(self) -> None:
        """Copy the library and rename its imports."""
        if getattr(self, "editable_mode", False):
            raise SystemExit("lora-ns is not installed in editable mode: run its commands in this folder")
        target = Path(self.build_lib, "lora_ns")
        shutil.rmtree(target, ignore_errors=True)
        left_out = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(HERE / "utils", target, ignore=left_out)
        for name in SHIPPED:
            source, copy = HERE / name, target / "shipped" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, copy, ignore=left_out) if source.is_dir() else shutil.copy2(source, copy)
        for path in target.rglob("*.py"):
            path.write_text(IMPORT.sub(r"\1 lora_ns", path.read_text("utf-8")), "utf-8")


setup(packages=["lora_ns"], package_dir={"lora_ns": "utils"}, cmdclass={"build_py": BuildRenamed})
