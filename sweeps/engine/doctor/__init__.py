"""What would make a sweep fail on this machine or cluster."""
