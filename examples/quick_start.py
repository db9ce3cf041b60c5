"""The quickstart in Python: read a configuration, train it, read the measurements, use the model.

python examples/quick_start.py        in a clone, or anywhere once lora-ns is installed
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where lora-ns is not installed

from lora_ns import load_config, train

if __name__ == "__main__":
    run = train(load_config("quickstart", {"training.report_to": "none"}))
    score, share = run.record.metrics["matthews_correlation"], run.record.params.trainable_percent
    print(f"matthews_correlation: {score:.3f} with {share:.2f} % of the parameters trained")
    for answer in run.predict(["The dog sleeps.", "The dog sleep."]):
        print(answer["sentence"], answer["label"])
