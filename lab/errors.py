"""The one exception that the lab raises for a condition a person can do something about."""


class LabError(Exception):
    """Its message says what is wrong and what to do; the command line prints it without a traceback."""
