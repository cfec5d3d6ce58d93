"""Snakemake that looks at its Slurm jobs every second, as nobody would do on a cluster that is shared with others.

Slurm's executor waits ten seconds longer after every look that finds no job finished. The jobs of tests take seconds.
"""

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda executor: 1, lambda executor, longer: None)
main()
