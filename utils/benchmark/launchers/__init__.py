"""Launchers of a suite's runs, one file each: `local` in this process, `slurm` and `pbs` as job arrays."""
