"""Where an instance goes: filters that say why not, weighers that say how well, and the record of what is taken.

`model`, `filters`, `weighers` and `choose` are pure; `record` writes.
"""

from operators.compute.scheduler.choose import Choice, NoValidHost, choose
from operators.compute.scheduler.model import Amount, Host, Request

__all__ = ["Amount", "Choice", "Host", "NoValidHost", "Request", "choose"]
