"""`python -m lora_ns train quickstart`, and so `accelerate launch -m lora_ns train quickstart`."""

import sys

from utils.cli.lora_ns import main

sys.exit(main())
