# What is left to do on a Slurm cluster when a run is interrupted.

import re
import subprocess


def cancel_jobs(logs):
    """Cancel what a run that was interrupted left in Slurm's queue; `logs` are the files in which the run is logged.

    Slurm's executor cancels the jobs on its list, and while it looks at them the list is empty. All of a run have its
    identifier for their name. Where no job was submitted, as without a cluster, it does not matter whether that works.
    """
    for log in logs:
        said = Path(log).read_text()
        submitted = re.search(r"has been submitted with SLURM jobid|Submitted array job", said)
        for run in re.findall(r"^SLURM run ID: (\S+)$", said, flags=re.MULTILINE):
            command = ["scancel", f"--name={run}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True)
                fault = (done.stderr.strip() or "scancel failed") if done.returncode else ""
            except OSError as error:
                fault = str(error)
            if fault and submitted:
                print(f"Jobs may be left in the queue: {fault}. Cancel them: {' '.join(command)}")
