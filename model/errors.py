"""Every error that Lacuna raises on purpose.

    LacunaError
    ├── QueryError          a request that cannot be answered: field, reason, remedy
    ├── CheckpointError     a checkpoint directory that is missing, torn, altered or too new
    ├── TokenizerError      a tokenizer that cannot be trained or read
    ├── CorpusError         input text that cannot be used
    ├── PreparedDataError   a prepared data directory that is missing, torn or does not fit
    ├── RunError            a training run that cannot start or continue
    │   └── DivergedError       the loss is NaN, infinite or worse than a uniform guess
    └── ExportError         an export that failed one of its gates

Messages carry numbers, lengths, fields and paths, never a user's text.
"""


class LacunaError(Exception):
    """Base of all named errors; never raised itself."""


class QueryError(LacunaError):
    """A request that cannot be answered.

    *field* is the JSON pointer of the wrong field, such as ``/text/3``. *message* has the problem
    and the remedy, without the user's text.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class CheckpointError(LacunaError):
    """A checkpoint directory that is missing, torn, altered or too new."""


class TokenizerError(LacunaError):
    """A tokenizer that cannot be trained or read, or is not the one that is needed."""


class CorpusError(LacunaError):
    """Input text that cannot be used."""


class PreparedDataError(LacunaError):
    """A prepared data directory that is missing, torn or does not fit its manifest."""


class RunError(LacunaError):
    """A training run that cannot start or continue."""


class DivergedError(RunError):
    """The loss is NaN, infinite or worse than a uniform guess; the last good state is kept."""


class ExportError(LacunaError):
    """An export that failed one of its gates."""
