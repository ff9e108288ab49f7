"""What workers with models of their own tell each other: codecs, ranks, and what it costs.

Arithmetic: :doc:`/architecture`, "Codecs".
"""

from .accounting import CommunicationInfo, bytes_per_exchange
from .codecs import CODECS, Codec
from .group import CommunicationError

__all__ = ["CODECS", "Codec", "CommunicationError", "CommunicationInfo", "bytes_per_exchange"]
