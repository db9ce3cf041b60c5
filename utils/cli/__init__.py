"""Shared parts of the commands: parser, exit codes, `--json`, the choice of GPUs, and hints on other scripts' flags."""
