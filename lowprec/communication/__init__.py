"""Explicit communication between workers: the C term of a signature.

How to use it is in docs/communication.md, what is computed in docs/architecture.md, "Communication".
"""

from lowprec.communication.accounting import CommunicationInfo, bytes_per_exchange
from lowprec.communication.group import CommunicationError
from lowprec.communication.launch import world

__all__ = ["CommunicationError", "CommunicationInfo", "bytes_per_exchange", "world"]
