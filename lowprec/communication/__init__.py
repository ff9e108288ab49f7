"""Explicit communication between workers: the C term of a signature.

How to use it is in docs/communication.md, what is computed in docs/architecture.md, "Communication".
"""

from .accounting import CommunicationInfo, bytes_per_exchange
from .codecs import CODECS, Codec
from .group import CommunicationError
from .launch import world

__all__ = ["CODECS", "Codec", "CommunicationError", "CommunicationInfo", "bytes_per_exchange", "world"]
