"""The errors a user can meet. Each message names the file and the field, what was found and what to do."""


class T3DError(Exception):
    """Base class: `t3d` prints the message without a traceback and exits with status 1."""


class ParameterError(T3DError):
    """An experiment file holds something that is not allowed."""


class MissingInputError(T3DError):
    """A file that an earlier stage should have made is not there."""


class CorruptArtefactError(T3DError):
    """A file does not match its manifest, or a record in it does not fit the schema."""


class BusyError(T3DError):
    """Another process writes the same artefact or file."""


class DataError(T3DError):
    """The data do not allow what was asked for (no gold answer, too few problems, a prompt that is too long)."""


class PublishError(T3DError):
    """Artefacts cannot be published or fetched: not up to date, a lock is held, or DVC failed."""


class MemoryTooSmallError(T3DError):
    """A batch does not fit into the GPU's memory."""


class SourceError(T3DError):
    """The hub does not have what is asked for, or cannot be reached."""


class ServingError(T3DError):
    """vLLM did not answer."""


class DecodingError(T3DError):
    """A model computes NaN or infinity while it decodes or scores."""


class TrainingError(T3DError):
    """Training cannot go on: a non-finite loss or gradient, or a state that cannot be restored."""


class ProcessError(T3DError):
    """Processes that work together cannot be started, or one of them was killed."""
