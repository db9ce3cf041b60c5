"""What the commands share: parser, exit codes, `--json`, the choice of GPUs, and the flags of other scripts."""
