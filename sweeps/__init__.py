"""Questions asked of Selective Prompt Tuning, one a file."""
