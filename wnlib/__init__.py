"""Weight normalization, as derived in the book: everything public is listed here."""

__version__ = "0.1.0"
