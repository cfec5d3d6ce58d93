# What is left to do on a Slurm cluster when a run is interrupted.

import re
import subprocess


def cancel_jobs(logs):
    """Cancel what a run that was interrupted left in Slurm's queue; `logs` are the files in which the run is logged.

    Slurm's executor cancels the jobs on its list, and while it looks at them the list is empty. All of a run have its
    identifier for their name.
    """
    for log in logs:
        for run in re.findall(r"^SLURM run ID: (\S+)$", Path(log).read_text(), flags=re.MULTILINE):
            command = ["scancel", f"--name={run}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"Jobs may be left in the queue: {done.stderr.strip()}. Cancel them: {' '.join(command)}")
