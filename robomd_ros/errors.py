# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The one error that speaks to the person at the keyboard."""


class UserError(ValueError):
    """
    Something the user gave cannot be used.

    The message is one sentence saying what, where and what to do. The command line prints it and
    exits with 2; an action puts it into ``error_msg``.
    """
