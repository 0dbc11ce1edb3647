"""
Errors that Clipline raises on purpose.

    PipelineError
    ├── InputError            what the user gave cannot be used: exit code 2
    │   ├── SourceError       a path, glob, list or folder
    │   ├── OptionError       an option, or a pair of options
    │   ├── RecognizerError   a recognizer folder or its weights
    │   ├── DamagedFileError  a file that Clipline wrote, and that cannot be read any more
    │   └── ConfigMismatch    a process loaded other models than the run was planned with
    ├── VideoError            one video cannot be used: becomes a row with a status
    └── MachineError          the machine failed, not the input: retried, then reported
        ├── DecoderLost       a decode process died or was killed
        └── EngineError       the encoder could not run
"""

from pathlib import Path


class PipelineError(Exception):
    """Base of every error that Clipline raises on purpose."""


class InputError(PipelineError):
    """Something the user gave cannot be used; nothing was processed."""


class SourceError(InputError):
    """A path, glob, list file or folder cannot be used as a source of videos."""


class OptionError(InputError, ValueError):
    """An option has a value that cannot be used, alone or beside another option."""


class RecognizerError(InputError):
    """A recognizer folder is incomplete, tampered with, or made for something else."""


class DamagedFileError(InputError):
    """
    A file that Clipline wrote is truncated or corrupted.

    Args:
        path: the file.
        detail: what its reader reports.
    """

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(path, detail)
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return (
            f"{self.path} is damaged ({self.detail}); "
            "delete it if it is still there and run the same command again: "
            "what it held is computed again"
        )


class ConfigMismatch(InputError):
    """A process loaded other models than the run was planned with."""


class VideoError(PipelineError):
    """
    One video cannot be used. Becomes a row; never stops a run.

    Args:
        status: one of `records.STATUSES`.
        message: what came, what was wanted, what to do.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class MachineError(PipelineError):
    """The machine failed, not the input. Worth another attempt."""


class DecoderLost(MachineError):
    """A decode process died or had to be killed."""


class EngineError(MachineError):
    """The encoder could not run."""
