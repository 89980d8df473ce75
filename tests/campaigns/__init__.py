"""Long runs of random input, as scripts: `python -m tests.campaigns.sweep`."""
