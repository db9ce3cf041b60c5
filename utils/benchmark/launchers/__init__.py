"""Where a suite's runs are worked on: `local` by this process, `slurm` and `pbs` as an array of jobs; one file each."""
