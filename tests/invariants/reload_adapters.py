"""Load adapters with peft alone in a new process: base, adapter and rows in, logits out beside each adapter."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, base, *folders = sys.argv[1:]
    auto = AutoModelForSequenceClassification if kind == "SEQ_CLS" else AutoModelForCausalLM
    for folder in map(Path, folders):
        inputs = torch.load(folder / "inputs.pt")
        with torch.no_grad():
            model = PeftModel.from_pretrained(auto.from_pretrained(base), str(folder)).eval()
            loaded = model(**inputs).logits
            merged = model.merge_and_unload(safe_merge=True)(**inputs).logits
        torch.save({"loaded": loaded, "merged": merged}, folder / "logits.pt")
