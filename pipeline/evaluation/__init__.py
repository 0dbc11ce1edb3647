"""How far to trust a recognizer, as figures, tables and a page."""
