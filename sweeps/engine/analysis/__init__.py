"""From numbers to statements: statistics, comparisons, the verdict."""
