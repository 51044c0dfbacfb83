"""From statements to pages, tables and figures."""
