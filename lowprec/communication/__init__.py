"""What workers with models of their own tell each other: codecs.

Arithmetic: :doc:`/architecture`, "Codecs".
"""

from .codecs import CODECS, Codec

__all__ = ["CODECS", "Codec"]
