"""What can go wrong, each with the exit status that the command line answers with."""


class SteerError(Exception):
    """Anything `steer` says in one sentence instead of a traceback."""

    exit_status = 1


class InputError(SteerError):
    """The user asked for something that cannot be: what was expected, what came, where."""

    exit_status = 2


class MachineError(SteerError):
    """The environment failed: no network, disk full, out of memory."""

    exit_status = 1


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch's CPU allocator raises a RuntimeError.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
