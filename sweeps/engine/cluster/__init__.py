"""The machines that trials run on."""
