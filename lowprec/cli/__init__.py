"""The command line: ``lowprec COMMAND``, see `app`. What the commands do is in `lowprec.report`."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Sequence

__all__ = ["end_command", "main"]

#: Exit status of a command that was used wrongly, or whose input is bad.
USAGE = 2


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Bad input ends as one line on stderr and status 2: the library's errors say what is wrong and what is
    possible, and a traceback would only hide that. One of several ranks that a launcher started does not return from an error: it
    ends them all, with status 1 (see `lowprec.communication.launch.end`).

    Parameters
    ----------
    args : sequence of str, optional
        Default: the arguments of this process.
    """
    from lowprec.checks import need_extra
    from lowprec.communication.group import CommunicationError
    from lowprec.communication.launch import end, launched
    from lowprec.fpga.tools import ToolError

    try:
        click = need_extra("click", "report", "the command line")
        need_extra("rich", "report", "the command line")
        from lowprec.cli.app import app
    except ImportError as error:
        end(_error(error))
        return USAGE
    try:
        app.main(args=None if args is None else list(args), prog_name="lowprec", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
    except click.ClickException as error:
        end(_error(error.format_message()))
        return USAGE
    except (KeyboardInterrupt, click.Abort):
        end("interrupted")
        return 130
    except BrokenPipeError:  # the reader, a pager or head, has seen enough
        sys.stderr.close()
        return 0
    except CommunicationError as error:
        end(_error(error), told=True)
        return USAGE
    except (ValueError, TypeError, OSError, ImportError, MemoryError, ToolError) as error:
        end(_error(error))
        return USAGE
    except Exception as error:
        if launched() is None:
            raise
        traceback.print_exc()  # and the other ranks must not wait for this one
        end(_error(f"{type(error).__name__}: {error}"))
        return USAGE
    return 0


def end_command(error: ImportError) -> None:
    """End the process with one line and status 2 if it is the command line; otherwise return.

    For a package that cannot be imported, say because of ``LOWPREC_ISA``: importing this module imports the package before it, so
    that `main` is never reached, and a traceback would hide the sentence.
    """
    script = os.path.basename(next(iter(sys.argv), ""))
    if script == "lowprec" or (script == "-m" and ("-m", "lowprec") in itertools.pairwise(sys.orig_argv)):
        print(f"lowprec: {_error(error)}", file=sys.stderr)
        sys.exit(USAGE)


def _error(problem: object) -> str:
    text = " ".join(str(problem).split()) or type(problem).__name__
    return f"error: {text}"
