"""How numbers become what a scrape gets."""

from mlserver.exposition.scrape import Exposition, Rendered

__all__ = ["Exposition", "Rendered"]
