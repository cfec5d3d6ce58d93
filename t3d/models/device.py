"""Where expensive work runs."""

import torch

from t3d.errors import ParameterError
from t3d.params import Experiment


def pick_device(experiment: Experiment) -> str:
    """The device an expensive verb runs on, `cpu` or `cuda`.

    Raises:
        ParameterError: the experiment asks for a GPU and there is none.
    """
    if experiment.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"params/{experiment.name}.yaml: device is cuda, but PyTorch sees no GPU here.")
    return experiment.device
