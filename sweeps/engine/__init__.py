"""The machine behind the questions: plan, run, record and answer."""
