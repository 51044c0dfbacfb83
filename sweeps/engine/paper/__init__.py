"""The paper's tables and claims, and ours beside them."""
