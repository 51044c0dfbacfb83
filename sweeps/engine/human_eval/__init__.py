"""Sheets for human raters, and what their ratings say (Table 7)."""
